"""A real HTTP server on a socket that answers each request with the next act of a script."""

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

Act = Callable[[socket.socket, "ScriptedHttp"], bool]
"""Answers one request; gives whether the connection stays open."""


class ScriptedHttp:
    """A server on loopback, one thread a connection.

    Args:
        acts: What is done with the first, second, … request; the last one is repeated.
    """

    def __init__(self, *acts: Act) -> None:
        self._acts = list(acts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.requests: list[bytes] = []
        self.connections = 0
        self.released = threading.Event()
        self.closed_one = threading.Event()
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.released.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)

    def _spawn(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.append(connection)
            self._spawn(lambda connection=connection: self._serve(connection))  # type: ignore[misc]

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while (request := _read(connection)) is not None:
                with self._lock:
                    number = len(self.requests)
                    self.requests.append(request)
                act = self._acts[min(number, len(self._acts) - 1)]
                if not act(connection, self):
                    break
        self.closed_one.set()


def _read(connection: socket.socket) -> bytes | None:
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65_536)
        if not part:
            return None
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        part = connection.recv(65_536)
        if not part:
            return None
        body += part
    return head + b"\r\n\r\n" + body


def answer(
    status: int, body: object, content_type: str | None = "application/json", *, keep: bool = True
) -> Act:
    """Answer; `body` is sent as JSON unless it is text."""
    text = body if isinstance(body, str) else json.dumps(body)
    head = f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(text.encode())}\r\n"
    if content_type is not None:
        head += f"Content-Type: {content_type}\r\n"

    def act(connection: socket.socket, _: ScriptedHttp) -> bool:
        connection.sendall(f"{head}\r\n{text}".encode())
        return keep

    return act


def placed(order_id: object = "2511180000000001") -> Act:
    """Answer as Kite does to an order it takes."""
    return answer(200, {"status": "success", "data": {"order_id": order_id}})


def refused(status: int, error_type: str, message: str) -> Act:
    """Answer with Kite's envelope of an error."""
    return answer(status, {"status": "error", "message": message, "error_type": error_type})


def redirected(status: int, to: str) -> Act:
    """Send the client elsewhere."""

    def act(connection: socket.socket, _: ScriptedHttp) -> bool:
        head = f"HTTP/1.1 {status} Elsewhere\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(head.encode())
        return True

    return act


def reset(connection: socket.socket, _: ScriptedHttp) -> bool:
    """Break the connection with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def hang_up(_: socket.socket, __: ScriptedHttp) -> bool:
    """Close the connection without an answer."""
    return False


def silence(_: socket.socket, server: ScriptedHttp) -> bool:
    """Say nothing until the server is released."""
    server.released.wait(60)
    return False


def trickle(connection: socket.socket, server: ScriptedHttp) -> bool:
    """Answer so slowly that no read times out and the answer never ends."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
    connection.sendall(b"Content-Length: 100000\r\n\r\n")
    while not server.released.wait(0.05):
        connection.sendall(b" ")
    return False


def pausing(act: Act, seconds: float) -> Act:
    """Do something a little later."""

    def later(connection: socket.socket, server: ScriptedHttp) -> bool:
        server.released.wait(seconds)
        return act(connection, server)

    return later


def answer_once_and_close(act: Act) -> Act:
    """Answer as if the connection stayed open, and close it after all."""

    def both(connection: socket.socket, server: ScriptedHttp) -> bool:
        act(connection, server)
        return False

    return both
