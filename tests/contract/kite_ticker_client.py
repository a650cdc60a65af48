"""The stock KiteTicker in a process of its own; prints what it is told as lines of JSON.

Twisted's reactor starts once per process, so every conformance test needs a process.
"""

import json
import sys
import threading
from typing import Any

from kiteconnect import KiteTicker

_MODES = {"ltp", "quote", "full"}


def report(event: str, **fields: Any) -> None:
    """Print one line."""
    sys.stdout.write(json.dumps({"event": event, **fields}, default=str) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Arguments: root, api_key, access_token, and a JSON object of mode -> tokens."""
    root, api_key, access_token, wanted = sys.argv[1:5]
    modes: dict[str, list[int]] = json.loads(wanted)
    ticker = KiteTicker(api_key, access_token, root=root, reconnect_max_delay=5)

    def on_connect(ws: Any, response: Any) -> None:
        del response
        report("connect")
        if ws.subscribed_tokens:
            return  # KiteTicker replays by itself after a reconnect.
        for mode, tokens in modes.items():
            ws.subscribe(tokens)
            if mode in _MODES:
                ws.set_mode(mode, tokens)

    ticker.on_connect = on_connect
    ticker.on_ticks = lambda _, ticks: report("ticks", ticks=ticks)
    ticker.on_close = lambda _, code, reason: report("close", code=code, reason=reason)
    ticker.on_error = lambda _, code, reason: report("error", code=code, reason=reason)
    ticker.on_order_update = lambda _, data: report("order", data=data)
    ticker.on_reconnect = lambda _, attempts: report("reconnect", attempts=attempts)

    def leave_with_parent() -> None:
        sys.stdin.read()
        ticker.stop()

    threading.Thread(target=leave_with_parent, daemon=True).start()
    ticker.connect()


if __name__ == "__main__":
    main()
