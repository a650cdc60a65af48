"""Every way a call about orders can fail, on real sockets: what is known afterwards is true."""

import asyncio
import collections
import contextlib
import random
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from libs.common.domain.order_answers import CallFailure
from libs.common.kite import orders as kite_orders
from libs.common.kite.orders import KiteOrderBroker, OrderBroker, OrderCallError
from services.orders.domain.outcomes import Outcome, classify
from tests.fakes.scripted_http import (
    Act,
    ScriptedHttp,
    answer,
    answer_once_and_close,
    hang_up,
    pausing,
    placed,
    redirected,
    refused,
    reset,
    silence,
    trickle,
)

pytestmark = pytest.mark.integration

TOKEN = "secret-access-token"
ORDER: dict[str, Any] = {
    "variety": "regular",
    "exchange": "NFO",
    "tradingsymbol": "NIFTY26NOV26000CE",
    "transaction_type": "BUY",
    "quantity": 65,
    "product": "NRML",
    "order_type": "LIMIT",
    "price": 101.05,
    "trigger_price": None,
}
TAG = "tfabcdefghijklmn"


def broker(url: str, *, deadline: float = 20.0, timeout: float = 15.0) -> KiteOrderBroker:
    """A client of the server at this address."""
    return KiteOrderBroker("key", TOKEN, url, deadline_seconds=deadline, timeout_seconds=timeout)


async def failure_of(client: OrderBroker) -> CallFailure:
    """What a place call fails with."""
    with pytest.raises(OrderCallError) as caught:
        await client.place(ORDER, TAG)
    assert caught.value.call == "place"
    assert TOKEN not in f"{caught.value!r} {caught.value}"
    return caught.value.failure


async def test_an_accepted_order_gives_the_brokers_number_and_carries_the_tag() -> None:
    with ScriptedHttp(placed("2511180000000001")) as server:
        assert await broker(server.url).place(ORDER, TAG) == "2511180000000001"
    head, _, body = server.requests[0].decode().partition("\r\n\r\n")
    assert head.startswith("POST /orders/regular HTTP/1.1")
    assert f"token key:{TOKEN}" in head
    fields = dict(pair.split("=") for pair in body.split("&"))
    assert fields["tag"] == TAG
    assert fields["price"] == "101.05"
    assert "trigger_price" not in fields, "what is None is left out"


async def test_modify_and_cancel_name_the_order() -> None:
    with ScriptedHttp(placed("7")) as server:
        client = broker(server.url)
        assert await client.modify("regular", "7", {"price": 5.0, "quantity": None}) == "7"
        assert await client.cancel("regular", "7") == "7"
    assert server.requests[0].startswith(b"PUT /orders/regular/7 ")
    assert b"price=5.0" in server.requests[0]
    assert b"quantity" not in server.requests[0].partition(b"\r\n\r\n")[2]
    assert server.requests[1].startswith(b"DELETE /orders/regular/7")


async def test_refused_connection_proves_that_nothing_was_sent() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound and not listening: refused, and nobody else's.
        failure = await failure_of(broker(f"http://127.0.0.1:{taken.getsockname()[1]}"))
    assert (failure.exception, failure.code) == ("ConnectionError", None)
    assert failure.request_sent is False


async def test_unknown_name_proves_that_nothing_was_sent() -> None:
    failure = await failure_of(broker("http://no-such-broker.invalid"))
    assert failure.request_sent is False


async def test_connect_timeout_proves_that_nothing_was_sent() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as full:
        address = full.getsockname()
        # Fill the queue of connections that nobody accepts: the next one gets no answer at all.
        crowd = [socket.socket() for _ in range(8)]
        try:
            for one in crowd:
                one.setblocking(False)
                one.connect_ex(address)
            failure = await failure_of(broker(f"http://127.0.0.1:{address[1]}", timeout=0.5))
        finally:
            for one in crowd:
                one.close()
    assert failure.exception == "ConnectTimeout"
    assert failure.request_sent is False


async def test_failed_tls_handshake_proves_that_nothing_was_sent() -> None:
    def babble(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(b"this is no handshake, and nobody's certificate\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=babble, args=(listener,))
        thread.start()
        failure = await failure_of(broker(f"https://127.0.0.1:{listener.getsockname()[1]}"))
        thread.join(20)
    assert failure.exception == "SSLError"
    assert failure.request_sent is False


async def test_wrong_parameters_never_leave() -> None:
    with ScriptedHttp(placed()) as server, pytest.raises(OrderCallError) as caught:
        await broker(server.url).place(ORDER | {"colour": "red"}, TAG)
    assert caught.value.failure.exception == "TypeError"
    assert caught.value.failure.request_sent is False
    assert server.requests == []


@pytest.mark.parametrize(
    ("act", "exception", "code", "words", "outcome"),
    [
        pytest.param(
            reset, "ConnectionError", None, "", Outcome.AMBIGUOUS, id="reset after the request"
        ),
        pytest.param(
            hang_up, "ConnectionError", None, "", Outcome.AMBIGUOUS, id="closed after the request"
        ),
        pytest.param(
            refused(400, "InputException", "Invalid `price`"),
            "InputException",
            400,
            "Invalid `price`",
            Outcome.REFUSED,
            id="400 JSON",
        ),
        pytest.param(
            refused(400, "MarginException", "Insufficient funds"),
            "GeneralException",
            400,
            "Insufficient funds",
            Outcome.REFUSED,
            id="400 JSON of a class the package does not know",
        ),
        pytest.param(
            refused(403, "TokenException", "Incorrect `api_key` or `access_token`."),
            "TokenException",
            403,
            "Incorrect",
            Outcome.SESSION_REFUSED,
            id="403 token",
        ),
        pytest.param(
            refused(403, "PermissionException", "IP not allowed"),
            "PermissionException",
            403,
            "IP not allowed",
            Outcome.NOT_PERMITTED,
            id="403 permission",
        ),
        pytest.param(
            refused(429, "NetworkException", "Too many requests"),
            "NetworkException",
            429,
            "Too many requests",
            Outcome.LIMITED,
            id="429 JSON",
        ),
        pytest.param(
            answer(429, "<html>429 Too Many Requests</html>", "text/html"),
            "DataException",
            429,
            "Too Many Requests",
            Outcome.LIMITED,
            id="429 HTML",
        ),
        pytest.param(
            refused(503, "NetworkException", "OMS is down"),
            "NetworkException",
            503,
            "OMS is down",
            Outcome.AMBIGUOUS,
            id="503 JSON",
        ),
        pytest.param(
            answer(502, "<html>502 Bad Gateway</html>", "text/html"),
            "DataException",
            502,
            "Bad Gateway",
            Outcome.AMBIGUOUS,
            id="502 HTML",
        ),
        pytest.param(
            answer(403, "<html>Forbidden</html>", "text/html"),
            "DataException",
            502,
            "HTTP 403",
            Outcome.AMBIGUOUS,
            id="403 HTML proves nothing",
        ),
        pytest.param(
            answer(200, {"status": "success"}, None),
            "KeyError",
            None,
            "content-type",
            Outcome.AMBIGUOUS,
            id="no content type",
        ),
        pytest.param(
            answer(400, {"status": "error", "error_type": "InputException"}),
            "KeyError",
            None,
            "HTTP 400",
            Outcome.AMBIGUOUS,
            id="400 JSON without a message proves nothing",
        ),
        pytest.param(
            answer(200, "not JSON"), "DataException", 502, "", Outcome.AMBIGUOUS, id="broken JSON"
        ),
        pytest.param(
            answer(500, {"data": {"order_id": "1"}}),
            "UnexpectedAnswer",
            500,
            "HTTP 500",
            Outcome.AMBIGUOUS,
            id="500 that the package takes for success",
        ),
        pytest.param(
            answer(404, {"data": {"order_id": "1"}}),
            "UnexpectedAnswer",
            None,
            "HTTP 404",
            Outcome.AMBIGUOUS,
            id="404 that the package takes for success",
        ),
        pytest.param(
            placed(""), "UnexpectedAnswer", None, "order_id", Outcome.AMBIGUOUS, id="empty order_id"
        ),
        pytest.param(
            placed(None),
            "UnexpectedAnswer",
            None,
            "order_id",
            Outcome.AMBIGUOUS,
            id="null order_id",
        ),
        pytest.param(
            answer(200, {"status": "success", "data": {}}),
            "KeyError",
            None,
            "order_id",
            Outcome.AMBIGUOUS,
            id="no order_id",
        ),
        pytest.param(
            answer(200, {"status": "success", "data": None}),
            "TypeError",
            None,
            "",
            Outcome.AMBIGUOUS,
            id="no data",
        ),
    ],
)
async def test_failure_tells_class_code_and_that_the_request_left(
    act: Act, exception: str, code: int | None, words: str, outcome: Outcome
) -> None:
    with ScriptedHttp(act) as server:
        failure = await failure_of(broker(server.url))
    assert (failure.exception, failure.code) == (exception, code)
    assert words in failure.message
    assert failure.request_sent is True
    assert classify(failure) is outcome
    assert len(server.requests) == 1, "the request arrived once"


async def test_read_timeout_leaves_the_outcome_open() -> None:
    with ScriptedHttp(silence) as server:
        failure = await failure_of(broker(server.url, timeout=0.3))
    assert failure.exception == "ReadTimeout"
    assert failure.request_sent is True
    assert len(server.requests) == 1


@pytest.mark.parametrize("act", [silence, trickle])
async def test_deadline_ends_a_call_that_no_timeout_ends_and_frees_its_thread(act: Act) -> None:
    with ScriptedHttp(act) as server:
        failure = await failure_of(broker(server.url, deadline=0.5, timeout=60))
        assert failure.exception == "DeadlineExceeded"
        assert failure.request_sent is True
        assert len(server.requests) == 1
        # The connection is broken from this side: the server's thread sees the end of it while
        # the act itself, silence, still lasts.
        if act is trickle:
            assert await asyncio.to_thread(server.closed_one.wait, 30)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process with a single thread for orders and room for two calls."""
    threads = kite_orders._Threads("test-order", 1, 2)
    monkeypatch.setattr(kite_orders, "_WRITES", threads)
    yield
    threads._pool.shutdown()


@pytest.mark.usefixtures("one_thread")
async def test_a_call_that_no_thread_took_in_time_is_proven_unsent() -> None:
    with ScriptedHttp(silence) as busy, ScriptedHttp(placed()) as idle:
        first = asyncio.create_task(failure_of(broker(busy.url, timeout=60, deadline=60)))
        while not busy.requests:  # noqa: ASYNC110  # A real server has no event of this loop.
            await asyncio.sleep(0.01)
        failure = await failure_of(broker(idle.url, deadline=0.3))
        assert failure.exception == "DeadlineExceeded"
        assert failure.request_sent is False
        busy.released.set()
        assert (await first).request_sent is True
        assert await broker(idle.url).place(ORDER, "tfanother") == "2511180000000001"
    assert len(idle.requests) == 1, "what was called unsent never left later"
    assert b"tfanother" in idle.requests[0]


@pytest.mark.usefixtures("one_thread")
async def test_more_calls_than_may_wait_are_refused_unsent() -> None:
    with ScriptedHttp(silence) as server:
        clients = [asyncio.create_task(failure_of(broker(server.url))) for _ in range(2)]
        await asyncio.sleep(0)
        failure = await failure_of(broker(server.url))
        assert failure.exception == "TooManyCalls"
        assert failure.request_sent is False
        server.released.set()
        await asyncio.gather(*clients)
        # Their places are free again.
    with ScriptedHttp(placed()) as server:
        assert await broker(server.url).place(ORDER, TAG)


async def test_a_call_given_up_while_it_connects_never_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connecting, go_on = threading.Event(), threading.Event()
    connect = kite_orders._Watched.connect

    def slow(self: kite_orders._Watched) -> None:
        connecting.set()
        go_on.wait(30)
        connect(self)

    monkeypatch.setattr(kite_orders._Watched, "connect", slow)
    with ScriptedHttp(placed()) as server:
        client = broker(server.url, deadline=0.3)
        failure = await failure_of(client)
        assert connecting.is_set()
        assert failure.request_sent is False
        go_on.set()
        # The thread goes on to connect and must stop there: the server sees no request but an end.
        assert await asyncio.to_thread(server.closed_one.wait, 30)
    assert server.connections == 1
    assert server.requests == []


async def test_a_cancelled_call_that_had_left_is_not_broken_off() -> None:
    with ScriptedHttp(silence, placed()) as server:
        client = broker(server.url)
        call = asyncio.create_task(client.place(ORDER, TAG))
        while not server.requests:  # noqa: ASYNC110  # As above.
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not server.closed_one.is_set()


async def test_a_connection_the_server_closed_is_not_used_again() -> None:
    with ScriptedHttp(answer_once_and_close(placed("1")), placed("2")) as server:
        client = broker(server.url)
        assert await client.place(ORDER, "tffirst") == "1"
        assert await asyncio.to_thread(server.closed_one.wait, 30)
        assert await client.place(ORDER, "tfsecond") == "2"
    assert server.connections == 2
    assert [b"tfsecond" in request for request in server.requests] == [False, True]


@pytest.mark.parametrize("act", [reset, hang_up])
async def test_a_kept_connection_that_breaks_under_the_request_sends_it_once(act: Act) -> None:
    with ScriptedHttp(placed("1"), act, placed("3")) as server:
        client = broker(server.url)
        assert await client.place(ORDER, "tffirst") == "1"
        failure = await failure_of(client)
        assert failure.request_sent is True
        assert server.connections == 1, "the kept connection was used"
        assert await client.place(ORDER, "tfthird") == "3"
    assert [b"tfthird" in request for request in server.requests] == [False, False, True]


async def test_a_connection_idle_for_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedHttp(placed()) as server:
        client = broker(server.url)
        await client.place(ORDER, "tffirst")
        await client.place(ORDER, "tfsecond")
        assert server.connections == 1
        monkeypatch.setattr(kite_orders, "CONNECTION_IDLE_SECONDS", 0.0)
        await client.place(ORDER, "tfthird")
    assert server.connections == 2


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_redirect_carries_an_order_along(status: int) -> None:
    with ScriptedHttp(placed()) as other, ScriptedHttp(redirected(status, other.url)) as server:
        failure = await failure_of(broker(server.url))
    assert failure.exception == "TooManyRedirects"
    assert failure.request_sent is True
    assert other.requests == []


async def test_a_proxy_is_watched_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedHttp(hang_up) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        failure = await failure_of(broker("http://broker.invalid"))
    assert failure.request_sent is True
    assert len(proxy.requests) == 1


async def test_a_socks_proxy_is_refused_unsent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    failure = await failure_of(broker("http://broker.invalid"))
    assert "SOCKS" in failure.message
    assert failure.request_sent is False


async def test_an_echoed_token_is_not_passed_on() -> None:
    with ScriptedHttp(refused(403, "TokenException", f"unknown token {TOKEN}")) as server:
        failure = await failure_of(broker(server.url))
    assert TOKEN not in failure.message


async def test_reads_give_parsed_rows_and_refuse_a_book_with_a_row_that_is_none() -> None:
    row = {
        "order_id": 12,
        "status": "OPEN",
        "tag": TAG,
        "tags": [TAG, "mktp"],
        "exchange": "NFO",
        "tradingsymbol": "NIFTY26NOV26000CE",
        "transaction_type": "BUY",
        "quantity": 65,
        "order_timestamp": "2026-11-18 11:00:00",
    }
    book = {"status": "success", "data": [row]}
    torn = {"status": "success", "data": [row, {"status": "OPEN"}]}
    with ScriptedHttp(answer(200, book), answer(200, book), answer(200, torn)) as server:
        client = broker(server.url)
        for order in (*await client.orders(), *await client.order_history("12")):
            assert (order.order_id, order.tag, order.tags) == ("12", TAG, (TAG, "mktp"))
        with pytest.raises(OrderCallError) as caught:
            await client.orders()
    assert caught.value.failure.exception == "UnexpectedAnswer"


async def test_other_reads_come_as_the_broker_sends_them() -> None:
    positions = {"net": [{"quantity": 65}], "day": []}
    script = [
        answer(200, {"status": "success", "data": data})
        for data in ([{"trade_id": "1"}], positions, [], {"equity": {"net": 1.5}}, "nonsense")
    ]
    with ScriptedHttp(*script) as server:
        client = broker(server.url)
        assert await client.trades() == [{"trade_id": "1"}]
        assert await client.positions() == positions
        assert await client.holdings() == []
        assert await client.margins() == {"equity": {"net": 1.5}}
        with pytest.raises(OrderCallError):
            await client.positions()


async def test_hasty_callers_are_never_told_that_nothing_was_sent_when_something_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = kite_orders._Threads("test-order", 4, 1_000)
    monkeypatch.setattr(kite_orders, "_WRITES", threads)
    luck = random.Random(3)
    deadlines = [luck.choice((0.0, luck.uniform(0, 0.2), 5.0)) for _ in range(300)]
    acts = [placed(), pausing(placed(), 0.02), pausing(hang_up, 0.01), reset]

    def any_act(connection: socket.socket, server: ScriptedHttp) -> bool:
        return luck.choice(acts)(connection, server)

    async def call(number: int) -> bool | None:
        """Whether a failed call was sent by its own account; None when it succeeded."""
        client = clients[number % len(clients)]
        client._deadline_seconds = deadlines[number]
        try:
            await client.place(ORDER, f"tf{number:04d}x")
        except OrderCallError as error:
            return error.failure.request_sent
        return None

    with ScriptedHttp(any_act) as server:
        clients = [broker(server.url) for _ in range(3)]
        told = await asyncio.gather(*(call(number) for number in range(len(deadlines))))
        # Whatever still waits or runs in a thread has its say before the requests are counted.
        await asyncio.to_thread(threads._pool.shutdown)
    arrived = collections.Counter(
        match.group()
        for request in server.requests
        for match in [re.search(rb"tf\d+x", request)]
        if match
    )
    assert max(arrived.values()) == 1, "no request arrived twice"
    for number, sent in enumerate(told):
        if sent is not True:
            assert arrived[f"tf{number:04d}x".encode()] == (sent is None)
    assert {None, True, False} == set(told), "all three ends were seen"


async def test_orders_do_not_wait_for_reads() -> None:
    with ScriptedHttp(silence) as slow, ScriptedHttp(placed("5")) as server:
        reader = broker(slow.url, deadline=60, timeout=60)
        reads = [asyncio.create_task(reader.trades()) for _ in range(20)]
        assert await broker(server.url).place(ORDER, TAG) == "5"
        slow.released.set()
        for outcome in await asyncio.gather(*reads, return_exceptions=True):
            assert isinstance(outcome, OrderCallError)


async def test_a_certificate_nobody_trusts_proves_that_nothing_was_sent(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*_self_signed(tmp_path))
    received: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with (
            connection,
            contextlib.suppress(OSError),
            context.wrap_socket(connection, server_side=True) as secured,
        ):
            received.append(secured.recv(65_536))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        failure = await failure_of(broker(f"https://127.0.0.1:{listener.getsockname()[1]}"))
        thread.join(20)
    assert failure.exception == "SSLError"
    assert failure.request_sent is False
    assert not any(received)


def _self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for the loopback address that no authority signed, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths
