"""Talks to processes of the same machine: free ports and small HTTP requests."""

import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable

import httpx

from services.fleet.errors import PortTakenError

HOST = "127.0.0.1"
# Plain HTTP only: an empty context spares the 20 ms that reading the certificate store takes.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def free_ports(count: int) -> list[int]:
    """Give distinct TCP ports on which nobody listens at the moment."""
    with contextlib.ExitStack() as sockets:
        ports = []
        for _ in range(count):
            # All stay open until the last one is chosen, or the kernel could give one out twice.
            listener = sockets.enter_context(socket.socket())
            listener.bind((HOST, 0))
            ports.append(int(listener.getsockname()[1]))
        return ports


def claim_port(port: int, option: str) -> int:
    """Check that a port asked for by number is free.

    Args:
        port: The port; 0 chooses any free one.
        option: The command line option that the error shall name.

    Raises:
        PortTakenError: Somebody listens there, on any address of this machine.
    """
    if port == 0:
        return free_ports(1)[0]
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # All addresses: the kernel refuses this when any one of them is taken.
            listener.bind(("", port))
        except OSError as error:
            raise PortTakenError(port, option) from error
    return port


async def fetch(url: str, timeout_seconds: float = 1.0) -> httpx.Response | None:
    """GET a page of a process on this machine; None when it does not answer in time."""
    # trust_env would send loopback requests to the user's web proxy.
    async with httpx.AsyncClient(
        trust_env=False, verify=_NO_TLS, timeout=timeout_seconds
    ) as client:
        try:
            return await client.get(url)
        except httpx.HTTPError:
            return None


def http_probe(url: str) -> Callable[[int], Awaitable[bool]]:
    """Give a readiness probe: the URL answers 200."""

    async def probe(pid: int) -> bool:
        del pid
        response = await fetch(url)
        return response is not None and response.status_code == httpx.codes.OK

    return probe
