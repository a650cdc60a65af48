// The order panel: a ticket that sends each order once, the newest orders with their live states, and
// the kill switch. It decides nothing: every state and every reason is the gateway's.

import { AccessError, getJson, postJson } from "./access.js";
import * as format from "./format.js";

const SHOWN = 25;
const WAIT_MS = 8000;
const REFRESH_MS = 10_000;
const WORKING = new Set(["pending", "checked", "sending", "acked", "open", "unknown", "retrying", "absent"]);
const BAD = new Set(["rejected", "failed", "dead_letter"]);
const UNSURE = new Set(["unknown", "absent"]);

const at = (id) => document.getElementById(id);
const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};
const newKey = () =>
  "page-" + [...crypto.getRandomValues(new Uint8Array(12))].map((b) => b.toString(16).padStart(2, "0")).join("");

const kindOf = (state) => (UNSURE.has(state) ? "unsure" : BAD.has(state) ? "bad" : WORKING.has(state) ? "working" : "done");
const asked = ({ verb, command }) => {
  if (verb === "place") {
    const price = command.price == null ? command.order_type : `${command.order_type} ${format.price(command.price)}`;
    return `${command.transaction_type} ${command.quantity} ${command.tradingsymbol} ${price}`;
  }
  return `${verb} ${command.order_id ?? command.target_task_id}`;
};

export class OrderPanel {
  #instruments = new Map(); // tradingsymbol → instrument
  #tasks = new Map(); // account/task_id → { task, events, row }
  #priceOf; // (token) → last price or null
  #watch; // begins the live events
  #key = newKey();
  #isOpen = false;
  #isUnsure = false;
  #body = null; // What was sent last.
  user = "page"; // Whose limits count; the greeting names them.
  #switches = new Map(); // account → whether its kill switch is on

  // priceOf(token): the last price on the page; watch(): asks the feed for order events.
  constructor({ priceOf, watch }) {
    this.#priceOf = priceOf;
    this.#watch = watch;
    at("orders-toggle").addEventListener("click", () => this.toggle());
    at("orders-close").addEventListener("click", () => this.toggle(false));
    at("ticket").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    at("ticket").addEventListener("input", () => this.#shape());
    at("ticket-again").addEventListener("click", () => this.#begin());
    at("ticket-account").addEventListener("change", () => this.#showSwitch());
    at("kill").addEventListener("click", () => this.#askForSwitch());
    at("kill-dialog").addEventListener("close", () => this.#switch());
    at("orders").addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !at("kill-dialog").open) this.toggle(false);
    });
    setInterval(() => this.#isOpen && this.#refresh(), REFRESH_MS);
    this.#shape();
  }

  // Which contracts can be chosen by name.
  offer(instruments) {
    this.#instruments = new Map(instruments.map((i) => [i.tradingsymbol, i]));
    at("ticket-symbols").replaceChildren(...instruments.map((i) => element("option", { value: i.tradingsymbol })));
    this.#shape();
  }

  // A contract of the chain was pointed at.
  pick(token, side) {
    if (this.#isUnsure) return this.toggle(true);
    const instrument = [...this.#instruments.values()].find((i) => i.instrument_token === token);
    if (!instrument) return;
    at("ticket-symbol").value = instrument.tradingsymbol;
    if (side) at(side === "SELL" ? "ticket-sell" : "ticket-buy").checked = true;
    const price = this.#priceOf(token);
    if (price !== null) at("ticket-price").value = price.toFixed(2);
    this.#shape();
    this.toggle(true);
  }

  async toggle(open = !this.#isOpen) {
    const opens = open && !this.#isOpen;
    this.#isOpen = open;
    at("orders").hidden = !open;
    document.body.classList.toggle("with-orders", open);
    at("orders-toggle").setAttribute("aria-expanded", String(open));
    if (opens) {
      this.#watch();
      await this.#refresh();
      at("ticket-symbol").focus();
    } else if (!open) {
      at("orders-toggle").focus();
    }
  }

  // One event of the feed.
  take(event) {
    const known = this.#tasks.get(`${event.account}/${event.task_id}`);
    if (!known) {
      if (this.#isOpen) this.#soon();
      return;
    }
    if (known.events.some((e) => e.seq === event.seq)) return;
    known.events.push(event);
    known.events.sort((a, b) => a.seq - b.seq);
    const newest = known.events[known.events.length - 1];
    if (newest === event) {
      const order = event.order_id && !known.task.order_ids.includes(event.order_id) ? [event.order_id] : [];
      known.task = {
        ...known.task,
        state: event.state,
        message: event.message,
        filled_quantity: event.filled_quantity || known.task.filled_quantity,
        average_price: event.average_price ?? known.task.average_price,
        order_ids: [...known.task.order_ids, ...order],
      };
    }
    this.#draw(known);
  }

  // -- the ticket ---------------------------------------------------------------------------------

  #shape() {
    const type = at("ticket-type").value;
    const needsPrice = type === "LIMIT" || type === "SL";
    const needsTrigger = type === "SL" || type === "SL-M";
    at("ticket-price").disabled = !needsPrice;
    at("ticket-price").required = needsPrice;
    at("ticket-trigger-field").hidden = !needsTrigger;
    at("ticket-trigger").required = needsTrigger;
    at("ticket-trigger").disabled = !needsTrigger;
    const instrument = this.#instruments.get(at("ticket-symbol").value);
    const lot = instrument?.lot_size || 1;
    const lots = Number(at("ticket-lots").value);
    at("ticket-units").textContent = instrument ? `× ${lot} = ${lots * lot} units` : "choose a contract of this chain";
    const side = at("ticket-sell").checked ? "SELL" : "BUY";
    at("ticket-send").dataset.side = side;
    if (!this.#isUnsure) at("ticket-send").textContent = side === "SELL" ? "Sell" : "Buy";
  }

  #begin() {
    this.#key = newKey();
    this.#isUnsure = false;
    at("ticket-fields").disabled = false;
    at("ticket-again").hidden = true;
    at("ticket-outcome").textContent = "";
    this.#shape();
  }

  #compose() {
    const instrument = this.#instruments.get(at("ticket-symbol").value);
    if (!instrument) return null;
    const number = (id) => (at(id).disabled || at(id).value === "" ? undefined : Number(at(id).value));
    return {
      account: at("ticket-account").value,
      exchange: instrument.exchange,
      tradingsymbol: instrument.tradingsymbol,
      transaction_type: at("ticket-sell").checked ? "SELL" : "BUY",
      quantity: Number(at("ticket-lots").value) * (instrument.lot_size || 1),
      product: at("ticket-product").value,
      order_type: at("ticket-type").value,
      price: number("ticket-price"),
      trigger_price: number("ticket-trigger"),
      user: this.user,
    };
  }

  async #send() {
    // A key has one body: what may have been accepted goes again as it was.
    const body = this.#isUnsure ? this.#body : this.#compose();
    if (!body) {
      this.#say("bad", "Symbol: choose a contract of the chain that is shown.");
      at("ticket-symbol").focus();
      return;
    }
    this.#body = body;
    at("ticket-send").disabled = true;
    this.#say("working", "Sending…");
    try {
      const answer = await postJson(`/orders/place?wait=${WAIT_MS}`, body, { "Idempotency-Key": this.#key });
      if (answer.status === 504) this.#unsure(answer.error.message);
      else if (!answer.ok) {
        this.#begin();
        this.#say("bad", answer.error.message);
      } else {
        const { task } = answer.body;
        this.#begin();
        this.#say(kindOf(task.state), `${asked(task)}: ${task.state.replace("_", " ")}${task.message ? `, ${task.message}` : ""}`);
      }
    } catch (error) {
      if (error instanceof AccessError) this.#say("bad", `${error.message}.`);
      else this.#unsure(`No answer came (${error.message}).`);
    } finally {
      at("ticket-send").disabled = false;
    }
    await this.#refresh();
  }

  // The order may exist. Only the same key may be sent again, so nothing of it can be changed.
  #unsure(message) {
    this.#isUnsure = true;
    at("ticket-fields").disabled = true;
    at("ticket-again").hidden = false;
    at("ticket-send").textContent = "Ask again (the same order)";
    this.#say("unsure", `${message} Ask again: it is still one order.`);
  }

  #say(kind, text) {
    at("ticket-outcome").dataset.kind = kind;
    at("ticket-outcome").textContent = text;
  }

  // -- the list -----------------------------------------------------------------------------------

  #timer = null;

  #soon() {
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.#refresh();
    }, 150);
  }

  async #refresh() {
    try {
      const [accounts, orders] = await Promise.all([getJson("/accounts"), getJson("/orders", { limit: SHOWN })]);
      this.#showAccounts(accounts.items);
      this.#showTasks(orders.items);
      at("orders-notice").hidden = orders.items.length > 0;
      at("orders-notice").textContent = "No order yet.";
    } catch (error) {
      at("orders-notice").hidden = false;
      at("orders-notice").textContent = `Orders cannot be shown: ${error.message}.`;
    }
  }

  #showAccounts(items) {
    const select = at("ticket-account");
    const names = items.map((a) => a.account);
    if ([...select.options].map((o) => o.value).join() !== names.join()) {
      const chosen = select.value;
      select.replaceChildren(...names.map((name) => element("option", { value: name, textContent: name })));
      if (names.includes(chosen)) select.value = chosen;
    }
    for (const account of items) if (account.orders) this.#switches.set(account.account, account.orders.kill_switch);
    this.#showSwitch();
  }

  #showTasks(tasks) {
    const list = at("orders-list");
    const before = this.#tasks;
    this.#tasks = new Map();
    const rows = tasks.map((task) => {
      const name = `${task.account}/${task.task_id}`;
      const known = before.get(name) ?? this.#row(task);
      known.task = task;
      this.#tasks.set(name, known);
      this.#draw(known);
      return known.row;
    });
    // Rows that stay where they are keep the focus.
    if (rows.length !== list.children.length || rows.some((row, n) => list.children[n] !== row)) list.replaceChildren(...rows);
  }

  #row(task) {
    const parts = {
      state: element("span", { className: "order-state" }),
      what: element("span", { className: "order-what" }),
      more: element("span", { className: "order-more" }),
      reason: element("p", { className: "order-reason" }),
      events: element("ol", { className: "order-events" }),
      cancel: element("button", { type: "button", className: "plain", textContent: "Cancel order" }),
    };
    const summary = element("summary", {}, parts.state, parts.what, parts.more);
    const details = element("details", {}, summary, parts.reason, parts.events, parts.cancel);
    const known = { task, events: [], row: element("li", {}, details), parts };
    details.addEventListener("toggle", () => details.open && this.#history(known));
    parts.cancel.addEventListener("click", () => this.#cancel(known));
    known.row.dataset.task = task.task_id;
    return known;
  }

  async #history(known) {
    const { account, task_id } = known.task;
    try {
      const found = await getJson(`/orders/${encodeURIComponent(task_id)}`, { account });
      known.events = found.events;
      this.#draw(known);
    } catch (error) {
      known.parts.reason.textContent = error.message;
    }
  }

  #draw({ task, events, row, parts }) {
    row.dataset.kind = kindOf(task.state);
    parts.state.textContent = task.state.replace("_", " ");
    parts.what.textContent = asked(task);
    const filled = task.filled_quantity ? `${task.filled_quantity} at ${format.price(task.average_price)}` : "";
    parts.more.textContent = [task.account, filled].filter(Boolean).join(" · ");
    parts.reason.textContent = [task.message, ...task.order_ids.map((id) => `order ${id}`)].filter(Boolean).join(" · ");
    parts.cancel.hidden = task.verb !== "place" || !WORKING.has(task.state);
    parts.events.replaceChildren(
      ...events.map((event) =>
        element("li", { textContent: `${format.time(event.at_ns)} ${event.kind}${event.message ? `: ${event.message}` : ""}` }),
      ),
    );
  }

  async #cancel(known) {
    const { account, task_id } = known.task;
    known.parts.cancel.disabled = true;
    try {
      // The key stays until an answer has come, as with an order.
      known.cancelKey ??= newKey();
      const body = { account, target_task_id: task_id, user: this.user };
      const answer = await postJson("/orders/cancel", body, { "Idempotency-Key": known.cancelKey });
      if (answer.status !== 504) known.cancelKey = null;
      known.parts.reason.textContent = answer.ok ? "Cancellation asked for." : answer.error.message;
    } catch (error) {
      known.parts.reason.textContent = error.message;
    } finally {
      known.parts.cancel.disabled = false;
    }
    this.#soon();
  }

  // -- the kill switch ----------------------------------------------------------------------------

  #showSwitch() {
    const on = this.#switches.get(at("ticket-account").value) ?? false;
    at("kill").setAttribute("aria-pressed", String(on));
    at("kill").textContent = on ? "Kill switch is ON" : "Kill switch";
  }

  async #askForSwitch() {
    const account = at("ticket-account").value;
    if (!account) return;
    try {
      // The switch itself, and not what a worker says of it: there may be none.
      const found = await getJson(`/accounts/${encodeURIComponent(account)}/kill-switch`);
      this.#switches.set(account, found.kill_switch);
      this.#showSwitch();
    } catch (error) {
      this.#say("bad", error.message);
      return;
    }
    const on = this.#switches.get(account);
    at("kill-question").textContent = on
      ? `Let orders of ${account} leave again?`
      : `Stop all orders of ${account}? Nothing but cancellations leaves until the switch is off again.`;
    at("kill-cancel-field").hidden = on;
    at("kill-yes").textContent = on ? "Let orders leave" : "Stop all orders";
    at("kill-dialog").returnValue = "";
    at("kill-dialog").showModal();
  }

  async #switch() {
    if (at("kill-dialog").returnValue !== "yes") return;
    const account = at("ticket-account").value;
    const on = !this.#switches.get(account);
    const body = { on, reason: at("kill-reason").value, by: this.user, cancel_open_orders: on && at("kill-cancel").checked };
    try {
      const answer = await postJson(`/accounts/${encodeURIComponent(account)}/kill-switch`, body);
      if (!answer.ok) throw new Error(answer.error.message);
      this.#switches.set(account, answer.body.kill_switch);
      this.#showSwitch();
      const failed = answer.body.cancel_error?.message ?? (answer.body.cancels ?? []).find((c) => c.error)?.error.message;
      if (failed) this.#say("bad", failed);
      else this.#say("done", on ? `No order of ${account} leaves now.` : `Orders of ${account} leave again.`);
    } catch (error) {
      this.#say("unsure", `${error.message} Look before you rely on the switch.`);
    }
  }
}
