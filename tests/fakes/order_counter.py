"""A broker's order counter over real HTTP, scripted: it counts what it accepted, by tag."""

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from libs.common.domain.clock import IST

TOKEN = "token"


class Behaviour:
    """What the counter does with one request that changes orders.

    Args:
        accepts: Whether the order comes into being.
        status: HTTP status of the answer; None to close the connection without one.
        error: `error_type` of the answer; None for a success or a page that is no JSON.
        message: Of the answer.
        delay_seconds: Before the answer.
        visible_after_seconds: The order is in the book only after this.
    """

    def __init__(
        self,
        *,
        accepts: bool = True,
        status: int | None = 200,
        error: str | None = None,
        message: str = "",
        delay_seconds: float = 0.0,
        visible_after_seconds: float = 0.0,
    ) -> None:
        self.accepts = accepts
        self.status = status
        self.error = error
        self.message = message
        self.delay_seconds = delay_seconds
        self.visible_after_seconds = visible_after_seconds


def refused(message: str = "Insufficient funds") -> Behaviour:
    """A definite no."""
    return Behaviour(accepts=False, status=400, error="InputException", message=message)


def limited() -> Behaviour:
    """Too many requests; not accepted."""
    return Behaviour(
        accepts=False, status=429, error="NetworkException", message="Too many requests"
    )


def session_dead() -> Behaviour:
    """The session is refused; not accepted."""
    message = "Incorrect `api_key` or `access_token`."
    return Behaviour(accepts=False, status=403, error="TokenException", message=message)


def unclear(*, accepts: bool, visible_after_seconds: float = 0.0) -> Behaviour:
    """A gateway's page instead of an answer."""
    return Behaviour(accepts=accepts, status=502, visible_after_seconds=visible_after_seconds)


class OrderCounter:
    """The counter; its book survives whatever happens to those who call it.

    Attributes:
        script: What it does with the next requests that change orders; then it accepts.
        usual: What it does when the script is used up.
        accepted: How many orders came into being, by tag.
        requests: Method, path and form of everything that changes orders, in order of arrival.
        arrived_ns: When each of them arrived, epoch ns.
        status_on_arrival: The status of a new order in the book.
        reads: How often the book was read.
        tokens: The access tokens that are good; None for all.
    """

    def __init__(self) -> None:
        self.script: deque[Behaviour] = deque()
        self.usual = Behaviour()
        self.accepted: Counter[str] = Counter()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.arrived_ns: list[int] = []
        self.status_on_arrival = "OPEN"
        self.reads = 0
        self.book_status = 200
        self.tokens: set[str] | None = None
        self._rows: dict[str, dict[str, Any]] = {}
        self._visible_at: dict[str, float] = {}
        self._number = time.time_ns() // 1_000
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""

    @asynccontextmanager
    async def served(self) -> AsyncIterator["OrderCounter"]:
        """Listen on loopback until the block ends."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            self._server.close()
            for writer in self._writers:
                writer.close()
            await self._server.wait_closed()

    # -- the book ------------------------------------------------------------------------------

    @property
    def doubled(self) -> dict[str, int]:
        """Tags that became more than one order."""
        return {tag: count for tag, count in self.accepted.items() if count > 1}

    def rows(self, **fields: Any) -> list[dict[str, Any]]:
        """The orders that exist, visible or not, with these fields."""
        return [
            row
            for row in self._rows.values()
            if all(row[name] == value for name, value in fields.items())
        ]

    def set(self, order_id: str, **fields: Any) -> dict[str, Any]:
        """Change an order, as the exchange would."""
        self._rows[order_id].update(fields)
        return dict(self._rows[order_id])

    def add(self, **form: Any) -> dict[str, Any]:
        """An order that somebody placed elsewhere."""
        return self._accept({k: str(v) for k, v in form.items()}, "regular", Behaviour())

    def empty(self) -> None:
        """A new day: the book shows nothing any more."""
        self._rows.clear()

    def _accept(self, form: dict[str, str], variety: str, how: Behaviour) -> dict[str, Any]:
        self._number += 1
        order_id = f"{self._number}"
        tag = form.get("tag")
        self.accepted[tag or ""] += 1
        quantity = int(form.get("quantity", "1"))
        is_complete = self.status_on_arrival == "COMPLETE"
        row = {
            "order_id": order_id,
            "exchange_order_id": None,
            "parent_order_id": None,
            "status": self.status_on_arrival,
            "status_message": None,
            "order_timestamp": f"{datetime.now(IST):%Y-%m-%d %H:%M:%S}",
            "variety": variety,
            "exchange": form.get("exchange", ""),
            "tradingsymbol": form.get("tradingsymbol", ""),
            "instrument_token": 1,
            "order_type": form.get("order_type", "LIMIT"),
            "transaction_type": form.get("transaction_type", "BUY"),
            "validity": form.get("validity", "DAY"),
            "product": form.get("product", "NRML"),
            "quantity": quantity,
            "price": float(form.get("price", 0) or 0),
            "trigger_price": float(form.get("trigger_price", 0) or 0),
            "average_price": 100.0 if is_complete else 0,
            "filled_quantity": quantity if is_complete else 0,
            "pending_quantity": 0 if is_complete else quantity,
            "cancelled_quantity": 0,
            "tag": tag,
            "tags": [tag] if tag else [],
        }
        self._rows[order_id] = row
        self._visible_at[order_id] = time.monotonic() + how.visible_after_seconds
        return row

    # -- HTTP ----------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        line = await reader.readline()
        if not line:
            return False
        method, target, _ = line.decode().split(" ", 2)
        headers = {}
        while (header := (await reader.readline()).decode().strip()) != "":
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        parts = urlsplit(target)
        form = dict(parse_qsl(body.decode()))
        token = headers.get("authorization", "").rpartition(":")[2]
        if self.tokens is not None and token not in self.tokens:
            self._answer(writer, 403, _error(session_dead()))
        elif method == "GET":
            self._read(parts.path, writer)
        else:
            await self._change(method, parts.path, form, writer)
        if writer.is_closing():
            return False
        await writer.drain()
        return True

    def _read(self, path: str, writer: asyncio.StreamWriter) -> None:
        self.reads += 1
        if self.book_status != 200:
            self._page(writer, self.book_status)
            return
        now = time.monotonic()
        data: Any = [row for row in self._rows.values() if self._visible_at[row["order_id"]] <= now]
        if path == "/portfolio/positions":
            data = {"net": [], "day": []}
        elif path == "/user/margins":
            data = {"equity": {}, "commodity": {}}
        elif path != "/orders":
            data = []
        self._answer(writer, 200, {"status": "success", "data": data})

    async def _change(
        self, method: str, path: str, form: dict[str, str], writer: asyncio.StreamWriter
    ) -> None:
        self.requests.append((method, path, form))
        self.arrived_ns.append(time.time_ns())
        how = self.script.popleft() if self.script else self.usual
        order_id = ""
        if how.accepts:
            order_id = self._carry_out(method, path, form, how)
        if how.delay_seconds:
            await asyncio.sleep(how.delay_seconds)
        if how.status is None:
            writer.close()
        elif how.error is not None:
            self._answer(writer, how.status, _error(how))
        elif how.status != 200:
            self._page(writer, how.status)
        else:
            self._answer(writer, 200, {"status": "success", "data": {"order_id": order_id}})

    def _carry_out(self, method: str, path: str, form: dict[str, str], how: Behaviour) -> str:
        parts = path.strip("/").split("/")
        if method == "POST":
            return str(self._accept(form, parts[1], how)["order_id"])
        order_id = parts[2]
        row = self._rows[order_id]
        if method == "DELETE":
            row.update(status="CANCELLED", cancelled_quantity=row["pending_quantity"])
        else:
            for name, kind in (("quantity", int), ("price", float), ("trigger_price", float)):
                if name in form:
                    row[name] = kind(form[name])
            if "order_type" in form:
                row["order_type"] = form["order_type"]
        return order_id

    def _page(self, writer: asyncio.StreamWriter, status: int) -> None:
        body = f"<html><head><title>{status}</title></head></html>".encode()
        head = (
            f"HTTP/1.1 {status} Page\r\ncontent-type: text/html\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)

    def _answer(self, writer: asyncio.StreamWriter, status: int, answer: Any) -> None:
        body = json.dumps(answer).encode()
        head = (
            f"HTTP/1.1 {status} Answer\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)


def _error(how: Behaviour) -> dict[str, str]:
    return {"status": "error", "message": how.message, "error_type": how.error or ""}
