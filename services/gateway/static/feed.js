// One WebSocket to the gateway that comes back by itself and keeps its subscription.

import { AccessError, findToken, forgetToken } from "./access.js";

const INTERVAL_MS = 100;
const FIRST_WAIT_MS = 400;
const LONGEST_WAIT_MS = 8000;
const UNAUTHENTICATED = 4401;

export class Feed {
  #socket = null;
  #tokens = new Set();
  #wait = FIRST_WAIT_MS;
  #listener;
  #wantsOrders = false;

  // listener: { state(name), greeting(message), ticks(list), order(event), refused(error) }
  constructor(listener) {
    this.#listener = listener;
  }

  async open() {
    this.#listener.state("connecting");
    let token;
    try {
      token = await findToken();
    } catch (error) {
      if (error instanceof AccessError) {
        this.#listener.state("closed");
        this.#listener.refused(error);
      } else {
        this.#later();
      }
      return;
    }
    const url = new URL("/ws/ticks", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    // As a subprotocol: unlike the query it is written into no proxy's log.
    const socket = new WebSocket(url, ["ticker.v1", `bearer.${token}`]);
    this.#socket = socket;
    socket.onmessage = (event) => this.#receive(JSON.parse(event.data));
    socket.onclose = (event) => {
      if (this.#socket !== socket) return;
      this.#socket = null;
      if (event.code === UNAUTHENTICATED) forgetToken();
      this.#later();
    };
  }

  // Makes the subscription exactly these instruments.
  want(tokens) {
    const wanted = new Set(tokens);
    const gone = [...this.#tokens].filter((token) => !wanted.has(token));
    const fresh = [...wanted].filter((token) => !this.#tokens.has(token));
    this.#tokens = wanted;
    if (gone.length) this.#send({ action: "unsubscribe", tokens: gone });
    if (fresh.length) this.#subscribe(fresh);
  }

  // Asks for the events of all orders that the token opens, now and after every reconnect.
  wantOrders() {
    if (this.#wantsOrders) return;
    this.#wantsOrders = true;
    this.#subscribeOrders();
  }

  #subscribeOrders() {
    this.#send({ action: "subscribe_orders", accounts: ["*"] });
  }

  #subscribe(tokens) {
    this.#send({ action: "subscribe", tokens, mode: "batch", interval_ms: INTERVAL_MS });
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #receive(message) {
    switch (message.type) {
      case "connected":
        this.#wait = FIRST_WAIT_MS;
        this.#listener.state("live");
        this.#listener.greeting(message);
        if (this.#tokens.size) this.#subscribe([...this.#tokens]);
        if (this.#wantsOrders) this.#subscribeOrders();
        break;
      case "ticks":
        this.#listener.ticks(message.data);
        break;
      case "tick":
        this.#listener.ticks([message.data]);
        break;
      case "order":
        this.#listener.order(message.data);
        break;
      case "error":
        console.warn("gateway:", message.code, message.message);
        break;
    }
  }

  #later() {
    this.#listener.state("reconnecting");
    const wait = this.#wait * (0.5 + Math.random() / 2);
    this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT_MS);
    setTimeout(() => this.open(), wait);
  }
}
