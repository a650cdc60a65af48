// Turns numbers of a tick into text; what does not exist is a dash, never a zero.

export const NONE = "–";

const fixed = (digits) =>
  new Intl.NumberFormat("en-IN", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const two = fixed(2);
const one = fixed(1);
const compact = new Intl.NumberFormat("en-IN", {
  notation: "compact",
  minimumSignificantDigits: 1,
  maximumSignificantDigits: 3,
});

const some = (write) => (value) => (value === null || value === undefined ? NONE : write(value));

export const price = some((v) => two.format(v));
export const percent = some((v) => one.format(v * 100));
export const delta = some((v) => v.toFixed(2));
export const gamma = some((v) => v.toFixed(5));
export const greek = some((v) => two.format(v));
export const count = some((v) => compact.format(v));
export const strike = some((v) => (Number.isInteger(v) ? v.toLocaleString("en-IN") : two.format(v)));
export const signed = some((v) => (v > 0 ? "+" : "") + two.format(v));

export const change = some((v) => `${v > 0 ? "▲" : v < 0 ? "▼" : ""} ${two.format(Math.abs(v))} %`);

// Years by ACT/365 → the two largest units.
export const timeLeft = some((years) => {
  const minutes = Math.max(0, Math.round(years * 365 * 24 * 60));
  const days = Math.floor(minutes / 1440);
  const hours = Math.floor((minutes % 1440) / 60);
  if (days > 0) return `${days} d ${hours} h`;
  return hours > 0 ? `${hours} h ${minutes % 60} m` : `${minutes} m`;
});

export const date = (iso) =>
  new Date(`${iso}T00:00:00Z`).toLocaleDateString("en-IN", {
    day: "2-digit",
    month: "short",
    year: "numeric",
    timeZone: "UTC",
  });

// Epoch nanoseconds → the Indian time of day.
export const time = (ns) =>
  new Date(ns / 1e6).toLocaleTimeString("en-GB", {
    timeZone: "Asia/Kolkata",
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
    fractionalSecondDigits: 3,
  });

const STATUSES = {
  ok: "solved from the last price",
  no_price: "no price yet",
  bad_input: "price or strike is not usable",
  below_intrinsic: "price is below intrinsic value: no volatility explains it",
  above_max: "price is above the highest possible",
  expired: "expired",
  expiring: "less than a minute to expiry",
  low_vega: "half a tick moves the volatility by more than a point: take it with care",
  stale_forward: "the forward is stale",
  crossed: "bid is above ask",
  no_forward: "no forward for this expiry yet",
};

export const ivStatus = (status) => STATUSES[status] ?? "not computed yet";
