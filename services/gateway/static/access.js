// Finds what the gateway wants to see: the API key for REST, the token for the WebSocket.

const KEY = "tickfleet.key";
const TOKEN = "tickfleet.token";

export class AccessError extends Error {
  constructor(missing) {
    super(`the gateway wants ${missing === "key" ? "an API key" : "a WebSocket token"}`);
    this.missing = missing;
  }
}

// A token in the page's address moves out of it, so that it is neither shared nor bookmarked.
const address = new URL(location.href);
const given = address.searchParams.get("token");
if (given) {
  sessionStorage.setItem(TOKEN, given);
  address.searchParams.delete("token");
  history.replaceState(null, "", address);
}

export const keep = ({ key, token }) => {
  if (key) sessionStorage.setItem(KEY, key);
  if (token) sessionStorage.setItem(TOKEN, token);
};

export const forgetToken = () => sessionStorage.removeItem(TOKEN);

export async function getJson(path, parameters = {}) {
  const key = sessionStorage.getItem(KEY);
  const query = new URLSearchParams(parameters).toString();
  const answer = await fetch(query ? `${path}?${query}` : path, {
    headers: key ? { "X-API-Key": key } : {},
  });
  if (answer.status === 401) throw new AccessError("key");
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(body?.error?.message ?? `${path} answered ${answer.status}`);
  return body;
}

// Gives { ok, status, body, error }; raises only when no answer came, or the key is missing.
export async function postJson(path, content, headers = {}) {
  const key = sessionStorage.getItem(KEY);
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...(key ? { "X-API-Key": key } : {}), ...headers },
    body: JSON.stringify(content),
  });
  if (answer.status === 401) throw new AccessError("key");
  const body = await answer.json();
  const error = answer.ok ? null : (body?.error ?? { message: `${path} answered ${answer.status}` });
  return { ok: answer.ok, status: answer.status, body, error };
}

// A stored token, else one for development where the gateway offers it.
export async function findToken() {
  const stored = sessionStorage.getItem(TOKEN);
  if (stored) return stored;
  const answer = await fetch("/dev-token");
  if (!answer.ok) throw new AccessError("token");
  return (await answer.json()).token;
}
