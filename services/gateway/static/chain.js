// The table: one row per strike, calls on the left, puts on the right, only what changed is drawn.

import * as format from "./format.js";

// `keep` orders columns by importance: narrow screens drop the highest numbers first (style.css).
const COLUMNS = [
  { key: "oi", head: "OI", title: "Open interest", write: format.count, keep: 4 },
  { key: "vega", head: "Vega", title: "Rupees per volatility point", write: format.greek, keep: 3 },
  { key: "theta", head: "Theta", title: "Rupees per calendar day", write: format.greek, keep: 3 },
  { key: "gamma", head: "Gamma", title: "Delta per rupee", write: format.gamma, keep: 4 },
  { key: "delta", head: "Delta", title: "Per rupee of forward", write: format.delta, keep: 1 },
  { key: "iv", head: "IV %", title: "Implied volatility, % per year", write: format.percent, keep: 1, flash: "text" },
  { key: "last_price", head: "LTP", title: "Last traded price", write: format.price, keep: 1, flash: "ground" },
  { key: "bid", head: "Bid", title: "Best bid", write: format.price, keep: 2, flash: "text" },
  { key: "ask", head: "Ask", title: "Best ask", write: format.price, keep: 2, flash: "text" },
];
const CALL_SIDE = COLUMNS;
// Mirrored, but bid stays left of ask as everywhere.
const PUT_SIDE = [COLUMNS[7], COLUMNS[8], ...COLUMNS.slice(0, 7).reverse()];
const FLASH_MS = 700;

const element = (name, properties = {}) => Object.assign(document.createElement(name), properties);
const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Chain {
  #body = document.getElementById("rows");
  #scroll = document.getElementById("scroll");
  #table = document.getElementById("table");
  #legs = new Map(); // instrument token → { cells, columns, tick }
  #rows = new Map(); // strike → { row, call, put }
  #pending = new Map(); // instrument token → newest tick not drawn yet
  #atm = null;
  #forward = null;
  #mostOi = 0;
  #followsAtm = true;
  #fitSpans;

  constructor() {
    const columns = document.getElementById("columns");
    const sides = document.getElementById("sides");
    const heads = document.getElementById("heads");
    const wide = (text, side, span) =>
      element("th", { scope: "colgroup", colSpan: span, className: side, textContent: text });
    const groups = [wide("Calls", "call", CALL_SIDE.length), wide("Puts", "put", PUT_SIDE.length)];
    sides.append(groups[0], element("th", { className: "strike" }), groups[1]);
    const head = (column, side) => {
      const cell = element("th", {
        scope: "col",
        textContent: column.head,
        title: column.title,
        className: `${side} keep${column.keep}`,
      });
      columns.append(element("col", { className: `${column.key} keep${column.keep}` }));
      heads.append(cell);
    };
    CALL_SIDE.forEach((column) => head(column, "call"));
    columns.append(element("col", { className: "strike" }));
    heads.append(element("th", { scope: "col", textContent: "Strike", className: "strike" }));
    PUT_SIDE.forEach((column) => head(column, "put"));
    // Narrow screens hide columns; a span over hidden ones would make room for them again.
    const span = () => {
      const shown = [...heads.querySelectorAll("th.call")].filter((cell) => cell.offsetParent !== null);
      if (shown.length) for (const group of groups) group.colSpan = shown.length;
      if (this.#followsAtm) this.#toAtm("auto");
    };
    new ResizeObserver(span).observe(this.#scroll);
    this.#fitSpans = span;
    for (const name of ["wheel", "touchmove", "keydown", "pointerdown"]) {
      this.#scroll.addEventListener(name, () => (this.#followsAtm = false), { passive: true });
    }
  }

  get atm() {
    return this.#rows.get(this.#atm) ?? null;
  }

  get size() {
    return this.#rows.size;
  }

  tickOf(token) {
    return this.#legs.get(token)?.tick ?? null;
  }

  // Builds the rows of a chain; values of instruments that stay are kept.
  build(instruments, { fresh }) {
    const ticks = new Map();
    if (!fresh) for (const [token, leg] of this.#legs) if (leg.tick) ticks.set(token, leg.tick);
    if (fresh) {
      this.#followsAtm = true;
      this.#forward = null;
      this.#mostOi = 0;
      this.#pending.clear();
    }
    const top = this.#scroll.scrollTop;
    this.#atm = null;
    this.#legs.clear();
    this.#rows.clear();
    const strikes = Map.groupBy
      ? Map.groupBy(instruments, (i) => i.strike)
      : instruments.reduce((m, i) => m.set(i.strike, [...(m.get(i.strike) ?? []), i]), new Map());
    const drawn = [...strikes.keys()].sort((a, b) => a - b).map((strike) => {
      const legs = strikes.get(strike);
      const call = legs.find((i) => i.option_type === "CE");
      const put = legs.find((i) => i.option_type === "PE");
      const row = element("tr");
      row.dataset.strike = strike;
      this.#addLeg(row, call, CALL_SIDE, "call");
      row.append(element("th", { scope: "row", className: "strike", textContent: format.strike(strike) }));
      this.#addLeg(row, put, PUT_SIDE, "put");
      this.#rows.set(strike, { row, strike, call: call?.instrument_token, put: put?.instrument_token });
      return row;
    });
    this.#body.replaceChildren(...drawn);
    this.#table.hidden = drawn.length === 0;
    this.#fitSpans();
    this.#scroll.scrollTop = top;
    for (const [token, tick] of ticks) if (this.#legs.has(token)) this.#draw(token, tick, false);
    this.#markAtm();
  }

  take(tick) {
    this.#pending.set(tick.instrument_token, tick);
  }

  // Draws what came since the last frame.
  render() {
    if (!this.#pending.size) return;
    for (const [token, tick] of this.#pending) {
      if (!this.#legs.has(token)) continue;
      this.#draw(token, tick, true);
      if (tick.forward !== null && tick.forward !== undefined) this.#forward = tick.forward;
    }
    this.#pending.clear();
    this.#markAtm();
  }

  centre() {
    this.#followsAtm = true;
    this.#toAtm("smooth");
  }

  #addLeg(row, instrument, columns, side) {
    const cells = columns.map((column) =>
      element("td", { className: `${side} ${column.key} keep${column.keep}`, textContent: format.NONE }),
    );
    row.append(...cells);
    if (!instrument) return;
    cells.forEach((cell) => (cell.dataset.token = instrument.instrument_token));
    this.#legs.set(instrument.instrument_token, { cells, columns, row, tick: null });
  }

  #draw(token, tick, flashes) {
    const leg = this.#legs.get(token);
    const before = leg.tick;
    leg.tick = tick;
    leg.columns.forEach((column, index) => {
      const value = tick[column.key];
      const old = before?.[column.key];
      if (before && value === old && column.key !== "iv") return;
      const cell = leg.cells[index];
      const text = column.write(value);
      if (cell.textContent !== text) {
        cell.textContent = text;
        if (flashes && column.flash && before && old != null && value != null) {
          this.#flash(cell, column.flash, value > old ? "up" : "down");
        }
      }
      if (column.key === "iv") this.#explain(cell, tick);
      if (column.key === "oi") this.#drawOi(cell, value);
    });
  }

  #explain(cell, tick) {
    const status = tick.iv_status ?? "none";
    if (cell.dataset.status !== status) cell.dataset.status = status;
    const legs = `bid ${format.percent(tick.bid_iv)} · ask ${format.percent(tick.ask_iv)} · smile ${format.percent(tick.smile_iv)}`;
    cell.title = `${status}: ${format.ivStatus(tick.iv_status)}\n${legs}`;
  }

  #drawOi(cell, value) {
    if (value > this.#mostOi) this.#mostOi = value;
    const share = this.#mostOi ? (value ?? 0) / this.#mostOi : 0;
    cell.style.setProperty("--share", `${Math.round(share * 100)}%`);
  }

  // From the colour of the move back to whatever the cell has: no end frame is given.
  #flash(cell, how, direction) {
    if (still.matches) return;
    const frames = how === "ground" ? { backgroundColor: [`var(--${direction}-flash)`] } : { color: [`var(--${direction})`] };
    cell.animate({ ...frames, offset: [0] }, { duration: FLASH_MS, easing: "ease-out" });
  }

  #markAtm() {
    if (this.#forward === null || !this.#rows.size) return;
    let nearest = null;
    for (const strike of this.#rows.keys()) {
      if (nearest === null || Math.abs(strike - this.#forward) < Math.abs(nearest - this.#forward)) nearest = strike;
    }
    if (nearest === this.#atm) return;
    this.#atm = nearest;
    for (const [strike, { row }] of this.#rows) {
      row.dataset.side = strike < this.#forward ? "below" : "above";
      row.toggleAttribute("data-atm", strike === nearest);
      if (strike === nearest) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
    if (this.#followsAtm) this.#toAtm("auto");
  }

  #toAtm(behavior) {
    const row = this.atm?.row;
    if (!row) return;
    const head = this.#table.tHead.offsetHeight;
    const room = this.#scroll.clientHeight - head;
    const top = row.offsetTop - head - (room - row.offsetHeight) / 2;
    this.#scroll.scrollTo({ top, behavior: still.matches ? "auto" : behavior });
    // Across, too: on a narrow screen the strike stands in the middle.
    this.#scroll.scrollLeft = (this.#scroll.scrollWidth - this.#scroll.clientWidth) / 2;
  }
}
