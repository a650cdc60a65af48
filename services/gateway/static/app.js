// The page: choose a chain, subscribe to it, draw it. No clock but the server's, except for the lag.

import { AccessError, getJson, keep } from "./access.js";
import { Chain } from "./chain.js";
import { Feed } from "./feed.js";
import * as format from "./format.js";
import { OrderPanel } from "./orders.js";

const PLAN_INTERVAL_MS = 15_000;
const RETRY_MS = 2_000;
const RATE_INTERVAL_MS = 1_000;
const LAG_MAX_MS = 86_400_000;
const PREFERRED = ["NIFTY", "BANKNIFTY", "FINNIFTY", "SENSEX"];

const at = (id) => document.getElementById(id);
const chain = new Chain();
const state = { chains: [], underlying: null, expiry: null, spotToken: null, ticks: 0, lag: null, load: 0 };

const write = (id, text) => {
  const target = at(id);
  if (target.textContent !== text) target.textContent = text;
};

const notice = (text) => {
  at("notice").textContent = text ?? "";
  at("notice").hidden = !text;
};

// -- live data ----------------------------------------------------------------------------------

const feed = new Feed({
  state(name) {
    at("link").dataset.state = name;
    write("link", { live: "live", connecting: "connecting", reconnecting: "reconnecting", closed: "no access" }[name]);
    document.body.classList.toggle("stale", name !== "live");
  },
  greeting(message) {
    panel.user = message.user.user_id;
    if (message.source) showSource(message.source);
  },
  ticks(list) {
    state.ticks += list.length;
    for (const tick of list) {
      if (tick.instrument_token === state.spotToken) showSpot(tick);
      else chain.take(tick);
    }
    const newest = list[list.length - 1];
    if (newest) {
      if (newest.source) showSource(newest.source);
      measureLag(newest);
    }
    schedule();
  },
  order(event) {
    panel.take(event);
  },
  refused(error) {
    askFor(error);
  },
});

const panel = new OrderPanel({
  priceOf: (token) => chain.tickOf(token)?.last_price ?? null,
  watch: () => feed.wantOrders(),
});

let scheduled = false;
const schedule = () => {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    chain.render();
    showForward();
  });
};

const measureLag = (tick) => {
  if (!tick.greeks_ts) return;
  const lag = Date.now() - tick.greeks_ts / 1e6;
  state.lag = state.lag === null ? lag : state.lag * 0.8 + lag * 0.2;
};

const showSource = (source) => {
  if (at("source").dataset.kind === source) return;
  at("source").dataset.kind = source;
  write("source", source.toUpperCase());
  at("source").title = source === "sim" ? "Synthetic data from the simulator" : "Live market data";
};

const showSpot = (tick) => {
  write("spot-price", format.price(tick.last_price));
  write("spot-change", format.change(tick.change));
  at("spot-change").dataset.sign = Math.sign(tick.change ?? 0);
  state.spot = tick.last_price;
};

const showForward = () => {
  const row = chain.atm;
  if (!row) return;
  const call = chain.tickOf(row.call);
  const put = chain.tickOf(row.put);
  const leg = call ?? put;
  if (!leg) return;
  write("forward", format.price(leg.forward));
  write("forward-source", leg.forward_source ?? format.NONE);
  write("basis", state.spot && leg.forward ? format.signed(leg.forward - state.spot) : format.NONE);
  const iv = leg.smile_iv ?? call?.iv ?? put?.iv;
  write("atm-iv", iv == null ? format.NONE : `${format.percent(iv)} %`);
  const straddle = call?.last_price != null && put?.last_price != null ? call.last_price + put.last_price : null;
  write("straddle", format.price(straddle));
  write("tte", format.timeLeft(leg.tte));
};

setInterval(() => {
  write("rate", state.ticks.toLocaleString("en-IN"));
  state.ticks = 0;
  const lag = state.lag === null || Math.abs(state.lag) > LAG_MAX_MS ? null : Math.max(0, Math.round(state.lag));
  write("lag", lag === null ? format.NONE : lag < 10_000 ? `${lag} ms` : `${Math.round(lag / 1000)} s`);
}, RATE_INTERVAL_MS);

// -- choosing -----------------------------------------------------------------------------------

const option = (value, text) => Object.assign(document.createElement("option"), { value, textContent: text });

const offer = (id, values, chosen, show = (v) => v) => {
  const select = at(id);
  select.replaceChildren(...values.map((value) => option(value, show(value))));
  select.value = chosen;
  select.disabled = values.length === 0;
};

const expiriesOf = (underlying) =>
  state.chains.filter((c) => c.underlying === underlying).map((c) => c.expiry);

const choose = (underlying, expiry) => {
  const names = [...new Set(state.chains.map((c) => c.underlying))];
  const liked = PREFERRED.find((name) => names.includes(name));
  state.underlying = names.includes(underlying) ? underlying : (liked ?? names[0]);
  const expiries = expiriesOf(state.underlying);
  state.expiry = expiries.includes(expiry) ? expiry : expiries[0];
  offer("underlying", names, state.underlying);
  offer("expiry", expiries, state.expiry, format.date);
  history.replaceState(null, "", `#${encodeURIComponent(state.underlying)}/${state.expiry}`);
};

const page = (parameters) => getJson("/instruments", parameters);

async function show({ fresh }) {
  const load = ++state.load;
  const { underlying, expiry } = state;
  const [options, spot] = await Promise.all([
    page({ underlying, expiry, kind: "option", planned: "true", limit: 1000 }),
    spotOf(underlying),
  ]);
  if (load !== state.load) return; // Another chain was chosen meanwhile.
  const tokens = options.items.map((i) => i.instrument_token).sort().join();
  if (fresh || tokens !== state.tokens) {
    state.tokens = tokens;
    chain.build(options.items, { fresh });
  }
  if (fresh) {
    for (const id of ["forward", "forward-source", "basis", "atm-iv", "straddle", "tte", "spot-price", "spot-change"]) {
      write(id, format.NONE);
    }
    state.spot = null;
  }
  panel.offer(options.items);
  state.spotToken = spot?.instrument_token ?? null;
  write("spot-name", underlying);
  write("strikes", String(chain.size));
  at("caption").textContent = `Option chain of ${underlying}, expiry ${format.date(expiry)}`;
  document.title = `${underlying} ${format.date(expiry)} · tickfleet`;
  notice(options.items.length ? null : "Nothing of this expiry is streamed at the moment.");
  feed.want([...options.items.map((i) => i.instrument_token), ...(spot ? [spot.instrument_token] : [])]);
}

async function spotOf(underlying) {
  for (const kind of ["index", "equity"]) {
    const found = await page({ underlying, kind, limit: 1 });
    if (found.items.length) return found.items[0];
  }
  return null;
}

// -- start --------------------------------------------------------------------------------------

const askFor = (error) => {
  at("key-field").hidden = error.missing !== "key";
  at("token-field").hidden = error.missing !== "token";
  at("credentials").hidden = false;
  notice(`This page may not see data yet: ${error.message}.`);
};

async function start() {
  try {
    const chains = (await getJson("/chains")).items;
    const planned = chains.filter((c) => c.planned > 0);
    if (!planned.length) {
      notice("No option chain is streamed yet; waiting for the plan…");
      setTimeout(start, RETRY_MS);
      return;
    }
    state.chains = planned;
    const [underlying, expiry] = decodeURIComponent(location.hash.slice(1)).split("/");
    choose(underlying, expiry);
    await show({ fresh: true });
  } catch (error) {
    if (error instanceof AccessError) {
      askFor(error);
      return;
    }
    notice(`Cannot load the chain (${error.message}); trying again…`);
    setTimeout(start, RETRY_MS);
  }
}

const refresh = async () => {
  if (!state.underlying) return;
  try {
    const chains = (await getJson("/chains")).items.filter((c) => c.planned > 0);
    if (chains.length) {
      state.chains = chains;
      const { underlying, expiry } = state;
      choose(underlying, expiry);
      await show({ fresh: state.underlying !== underlying || state.expiry !== expiry });
    }
  } catch (error) {
    // Ticks go on without the database; the next turn tries again.
    console.warn("plan:", error.message);
  }
};
setInterval(refresh, PLAN_INTERVAL_MS);

const chosen = () => show({ fresh: true }).catch((error) => notice(`Cannot load the chain: ${error.message}`));
at("underlying").addEventListener("change", (event) => {
  choose(event.target.value, null);
  chosen();
});
at("expiry").addEventListener("change", (event) => {
  choose(state.underlying, event.target.value);
  chosen();
});
// A bid is what a seller gets, an ask what a buyer pays.
at("rows").addEventListener("click", (event) => {
  const cell = event.target.closest("td[data-token]");
  if (!cell) return;
  const side = cell.classList.contains("bid") ? "SELL" : cell.classList.contains("ask") ? "BUY" : null;
  panel.pick(Number(cell.dataset.token), side);
});
at("centre").addEventListener("click", () => chain.centre());
at("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = getComputedStyle(root).getPropertyValue("--is-dark").trim() === "1";
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("tickfleet.theme", root.dataset.theme);
});
const theme = localStorage.getItem("tickfleet.theme");
if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
at("credentials").addEventListener("submit", (event) => {
  event.preventDefault();
  keep({ key: at("key").value, token: at("token").value });
  at("credentials").hidden = true;
  notice("Loading the option chain…");
  start();
  feed.open();
});

feed.open();
start();
