"""Kite's order side: the `kiteconnect` package in worker threads, at most one request a call.

Three things can send a request twice behind its caller's back, and none of them may happen here:
a client that repeats it on a fresh connection (urllib3 is told not to), a redirect that carries
the body along (none is followed), and a caller that believes nothing was sent when something was.
For the last one every connection tells when its first byte is about to leave, so that
`CallFailure.request_sent` is False by proof and not by the name of an exception.
"""

import asyncio
import contextlib
import functools
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Protocol

import requests
from kiteconnect import KiteConnect
from kiteconnect.exceptions import KiteException
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from libs.common.domain.order_answers import (
    BrokerOrder,
    CallFailure,
    OrderRowError,
    read_order_row,
)
from libs.common.errors import TickfleetError

CALL_TIMEOUT_SECONDS: Final = 7.0
DEADLINE_SECONDS: Final = 10.0
# Load balancers close what is idle for a minute or more; a request that meets such a close is of
# unknown outcome, so a connection is given up well before.
CONNECTION_IDLE_SECONDS: Final = 25.0
_MESSAGE_CHARS: Final = 500
_CONNECTIONS: Final = 32


class OrderCallError(TickfleetError):
    """A call about orders failed; what may be done about it depends on the failure alone.

    Neither retryable nor refused by its class: `classify` decides, from these values.

    Attributes:
        call: Name of the call, such as `place`.
        failure: What is known.
    """

    def __init__(self, call: str, failure: CallFailure) -> None:
        sent = "may have been sent" if failure.request_sent else "was not sent"
        super().__init__(f"{call} {sent}: {failure.exception} {failure.code}: {failure.message}")
        self.call = call
        self.failure = failure


class OrderBroker(Protocol):
    """What the order side needs of a broker: one account, one session.

    Every method raises `OrderCallError` and nothing else, and sends at most one request.
    """

    async def place(self, params: Mapping[str, Any], tag: str) -> str:
        """Place one order and give the broker's number of it.

        Args:
            params: The arguments of `KiteConnect.place_order` without `tag`: `variety`,
                `exchange`, `tradingsymbol`, `transaction_type`, `quantity` (units), `product`,
                `order_type`, and as the order needs them `price`, `trigger_price` (rupees),
                `validity`, `validity_ttl` (minutes), `disclosed_quantity`, `iceberg_legs`,
                `iceberg_quantity`, `auction_number`, `market_protection` (percent or -1),
                `algo_id`. A value of None is left out.
            tag: At most 20 letters and digits, by which the order is found again.
        """

    async def modify(self, variety: str, order_id: str, params: Mapping[str, Any]) -> str:
        """Change an open order and give its number.

        Args:
            variety: The counter it was placed at.
            order_id: The broker's number.
            params: `quantity`, `price`, `order_type`, `trigger_price`, `validity`,
                `disclosed_quantity`, `market_protection`, `parent_order_id`; None is left out.
        """

    async def cancel(self, variety: str, order_id: str, parent_order_id: str | None = None) -> str:
        """Cancel an open order and give its number."""

    async def orders(self) -> list[BrokerOrder]:
        """The order book: all orders of the day."""

    async def order_history(self, order_id: str) -> list[BrokerOrder]:
        """The states one order went through, oldest first."""

    async def trades(self) -> list[dict[str, Any]]:
        """All trades of the day, as rows."""

    async def positions(self) -> dict[str, list[dict[str, Any]]]:
        """Positions under `net` and `day`."""

    async def holdings(self) -> list[dict[str, Any]]:
        """Holdings, as rows."""

    async def margins(self) -> dict[str, dict[str, Any]]:
        """Funds under `equity` and `commodity`."""


class KiteOrderBroker:
    """One account at Kite.

    The calls of an account share its connections; those of all accounts share the worker
    threads of the process, orders and reads apart, so that no order waits for a slow read.

    Args:
        api_key: The app's key.
        access_token: The session's token.
        root: Root of the REST interface, such as `https://api.kite.trade`.
        deadline_seconds: A call ends after this, waiting for a thread included.
        timeout_seconds: Silence of the server after which a call ends.
    """

    def __init__(
        self,
        api_key: str,
        access_token: str,
        root: str,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        timeout_seconds: float = CALL_TIMEOUT_SECONDS,
    ) -> None:
        self._access_token = access_token
        self._deadline_seconds = deadline_seconds
        self._client = KiteConnect(
            api_key=api_key, access_token=access_token, root=root, timeout=timeout_seconds
        )
        session: requests.Session = self._client.reqsession
        session.max_redirects = 0
        adapter = _WatchedAdapter(pool_maxsize=_CONNECTIONS)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        session.hooks["response"].append(_note_status)

    def uses(self, access_token: str) -> bool:
        """Whether the client calls with this token."""
        return self._access_token == access_token

    def close(self) -> None:
        """Close the idle connections; calls in flight are not disturbed."""
        self._client.reqsession.close()

    async def place(self, params: Mapping[str, Any], tag: str) -> str:
        """See `OrderBroker`."""
        return await self._write(
            "place", lambda: self._client.place_order(**_given(params), tag=tag)
        )

    async def modify(self, variety: str, order_id: str, params: Mapping[str, Any]) -> str:
        """See `OrderBroker`."""
        return await self._write(
            "modify", lambda: self._client.modify_order(variety, order_id, **_given(params))
        )

    async def cancel(self, variety: str, order_id: str, parent_order_id: str | None = None) -> str:
        """See `OrderBroker`."""
        return await self._write(
            "cancel", lambda: self._client.cancel_order(variety, order_id, parent_order_id)
        )

    async def orders(self) -> list[BrokerOrder]:
        """See `OrderBroker`."""
        return _orders("orders", await self._call("orders", _READS, self._client.orders))

    async def order_history(self, order_id: str) -> list[BrokerOrder]:
        """See `OrderBroker`."""
        history = functools.partial(self._client.order_history, order_id)
        return _orders("order_history", await self._call("order_history", _READS, history))

    async def trades(self) -> list[dict[str, Any]]:
        """See `OrderBroker`."""
        return _rows("trades", await self._call("trades", _READS, self._client.trades))

    async def positions(self) -> dict[str, list[dict[str, Any]]]:
        """See `OrderBroker`."""
        return _mapping("positions", await self._call("positions", _READS, self._client.positions))

    async def holdings(self) -> list[dict[str, Any]]:
        """See `OrderBroker`."""
        return _rows("holdings", await self._call("holdings", _READS, self._client.holdings))

    async def margins(self) -> dict[str, dict[str, Any]]:
        """See `OrderBroker`."""
        return _mapping("margins", await self._call("margins", _READS, self._client.margins))

    async def _write(self, name: str, call: Callable[[], object]) -> str:
        order_id = await self._call(name, _WRITES, call)
        if isinstance(order_id, str | int) and not isinstance(order_id, bool) and order_id != "":
            return str(order_id)
        raise _unexpected(name, f"the answer's order_id is {order_id!r:.80}")

    async def _call(self, name: str, threads: "_Threads", call: Callable[[], object]) -> object:
        """Make a call in a thread; whatever happens, know whether a byte of it may have left.

        Raises:
            OrderCallError: There is no answer to rely on.
        """
        sending = _Sending()
        future = threads.submit(functools.partial(_carry_out, sending, call, self._access_token))
        if future is None:
            reason = "too many calls wait for a thread; look for a broker that does not answer"
            raise OrderCallError(name, CallFailure("TooManyCalls", None, reason, False))
        waiting = asyncio.wrap_future(future)
        try:
            await asyncio.wait({waiting}, timeout=self._deadline_seconds)
        except asyncio.CancelledError:
            # Nobody waits any longer: what has not left stays here, what has left is not broken.
            sending.give_up(break_off=False)
            waiting.cancel()
            raise
        # Asked of the thread and not of the event loop, which may be the one that is late.
        if not future.done():
            left = sending.give_up(break_off=True)
            waiting.cancel()
            reason = f"no answer within {self._deadline_seconds:g} s"
            raise OrderCallError(name, CallFailure("DeadlineExceeded", None, reason, left))
        answer = future.result()
        if isinstance(answer, CallFailure):
            raise OrderCallError(name, answer)
        return answer


class _NotSentAnyMoreError(Exception):
    """Raised in the thread in place of sending: its caller has been told that nothing left."""


class _Sending:
    """Whether the request of one call has begun to leave, settled between two threads."""

    # One lock for all: it is held for a few instructions, and it also guards whose a connection
    # is while one caller gives up and another takes the connection over.
    _lock: Final = threading.Lock()

    def __init__(self) -> None:
        self.status: int | None = None
        self._left = False
        self._given_up = False
        self._connection: _Watched | None = None
        self._socket: socket.socket | None = None

    @property
    def left(self) -> bool:
        """Whether a byte of the request may have left."""
        with self._lock:
            return self._left

    def begin(self, connection: "_Watched") -> None:
        """Say that the first byte leaves now.

        Raises:
            _NotSentAnyMoreError: The caller has given up and counts on it not leaving.
        """
        with self._lock:
            if self._given_up:
                raise _NotSentAnyMoreError
            self._left = True
            self._connection = connection
            connection.sending = self
            # A connection that ends with its answer forgets its socket before the answer ends.
            self._socket = connection.sock

    def give_up(self, *, break_off: bool) -> bool:
        """Stop waiting; from now on nothing begins to leave. Give whether something had.

        Args:
            break_off: Break the connection as well, so that its thread is free at once.
        """
        with self._lock:
            self._given_up = True
            ours = self._connection is not None and self._connection.sending is self
            if break_off and ours and self._socket is not None:
                with contextlib.suppress(OSError):
                    # The plain socket's own: TLS would want to say goodbye first.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
            return self._left


class _Current(threading.local):
    """The call that the present thread makes."""

    sending: _Sending | None = None


_CURRENT: Final = _Current()


class _Watched(HTTPConnection):
    """A connection that tells before the first byte of a request leaves, and ages."""

    sending: _Sending | None = None
    _used_seconds: float = 0.0

    @property
    def is_connected(self) -> bool:
        """Whether it may carry another request: neither closed by the server nor long idle."""
        idle = time.monotonic() - self._used_seconds
        return super().is_connected and idle < CONNECTION_IDLE_SECONDS

    def send(self, data: Any) -> None:
        """Connect if need be, tell, and send."""
        if self.sock is None:
            # As the base class does, but before anybody is told that bytes leave.
            self.connect()
        if _CURRENT.sending is not None:
            _CURRENT.sending.begin(self)
        self._used_seconds = time.monotonic()
        super().send(data)


class _WatchedTls(_Watched, HTTPSConnection):
    """The same over TLS."""


class _WatchedPool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _WatchedTlsPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedTls


_POOLS: Final = {"http": _WatchedPool, "https": _WatchedTlsPool}


class _WatchedAdapter(HTTPAdapter):
    """The transport of `requests` over watched connections; it repeats nothing by itself."""

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> Any:
        """Send over a watched connection; refuse what would go another way."""
        proxies = options.get("proxies") or {}
        if any(proxy.lower().startswith("socks") for proxy in proxies.values() if proxy):
            raise requests.exceptions.InvalidProxyURL(
                "orders go over an http or https proxy or none: a SOCKS connection cannot tell"
                " whether a request has left; change HTTP_PROXY, HTTPS_PROXY or ALL_PROXY"
            )
        return super().send(request, *args, **options)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Make the pools behind a proxy, of our connections too."""
        manager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make the pools, of our connections."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS


class _Threads:
    """A bounded number of threads with a bounded number of calls before them.

    Args:
        name: Of the threads.
        count: How many.
        calls_at_most: Calls that wait or run.
    """

    def __init__(self, name: str, count: int, calls_at_most: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=count, thread_name_prefix=name)
        self._free = threading.BoundedSemaphore(calls_at_most)

    def submit(self, work: Callable[[], object]) -> "Future[object] | None":
        """Have it done by the next free thread; None when too many calls wait already."""
        if not self._free.acquire(blocking=False):
            return None
        future = self._pool.submit(work)
        future.add_done_callback(lambda _: self._free.release())
        return future


# For all accounts of the process. A call takes some 50 to 100 ms at Kite, which allows ten orders
# a second and account; half a thread an account would do, and reads must not take it.
_WRITES: Final = _Threads("kite-order", 32, 1_000)
_READS: Final = _Threads("kite-book", 8, 1_000)


def _carry_out(sending: _Sending, call: Callable[[], object], secret: str) -> object:
    """Make the call in the present thread; give its answer, or why there is none."""
    _CURRENT.sending = sending
    try:
        answer = call()
    except Exception as error:  # noqa: BLE001  # Anything at all may come after the sending.
        return _failure(sending, error, secret)
    finally:
        _CURRENT.sending = None
    if sending.status is not None and sending.status >= 400:
        # The package takes an error body without its usual words for an answer.
        code = sending.status if sending.status >= 500 or sending.status == 429 else None
        reason = f"HTTP {sending.status} with a body that names no error"
        return CallFailure("UnexpectedAnswer", code, reason, request_sent=True)
    return answer


def _failure(sending: _Sending, error: Exception, secret: str) -> CallFailure:
    """Describe what was raised.

    The package gives 502 to whatever is not JSON, a proxy's page of 403 as well: nothing else may
    be read from such a page, except that a page of 429 comes from a limiter that let nothing by.
    """
    code = int(error.code) if isinstance(error, KiteException) else None
    message = str(error) or type(error).__name__
    if sending.status == 429:
        code = 429
    if code != sending.status and sending.status is not None:
        message = f"HTTP {sending.status}: {message}"
    if secret:
        message = message.replace(secret, "…")
    message = " ".join(message.split())[:_MESSAGE_CHARS]
    return CallFailure(type(error).__name__, code, message, sending.left)


def _note_status(response: requests.Response, *_: Any, **__: Any) -> None:
    """Remember the HTTP status, which the package's exceptions do not always tell."""
    if _CURRENT.sending is not None:
        _CURRENT.sending.status = response.status_code


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _unexpected(call: str, reason: str) -> OrderCallError:
    return OrderCallError(call, CallFailure("UnexpectedAnswer", None, reason, request_sent=True))


def _orders(call: str, answer: object) -> list[BrokerOrder]:
    """Read an order book, whole: a row that is left out could be the one looked for."""
    try:
        return [read_order_row(row) for row in _rows(call, answer)]
    except OrderRowError as error:
        raise _unexpected(call, str(error)) from error


def _rows(call: str, answer: object) -> list[dict[str, Any]]:
    if isinstance(answer, list) and all(isinstance(row, dict) for row in answer):
        return answer
    raise _unexpected(call, f"the answer is no list of rows but {type(answer).__name__}")


def _mapping(call: str, answer: object) -> dict[str, Any]:
    if isinstance(answer, dict):
        return answer
    raise _unexpected(call, f"the answer is no object but {type(answer).__name__}")
