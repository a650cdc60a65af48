"""Downloading a dump over real sockets: what did not come whole is never taken for all of it."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from libs.common.kite.errors import (
    KiteInputError,
    KiteRateLimitedError,
    KiteTokenError,
    KiteTruncatedError,
    KiteUnavailableError,
)
from libs.common.kite.rest import KiteRest

pytestmark = pytest.mark.integration

DUMP = b"instrument_token,tradingsymbol\n" + b"1,A\n" * 5000
ZIPPED = gzip.compress(DUMP)


@asynccontextmanager
async def answering(*parts: bytes) -> AsyncIterator[tuple[KiteRest, list[bytes]]]:
    """A server that says these bytes to every request and hangs up; gives what it was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"".join(parts))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield KiteRest(api_key="key", access_token="t", root=f"http://127.0.0.1:{port}"), asked


def head(length: int, *, status: str = "200 OK", zipped: bool = False) -> bytes:
    encoding = "Content-Encoding: gzip\r\n" if zipped else ""
    return f"HTTP/1.1 {status}\r\n{encoding}Content-Length: {length}\r\n\r\n".encode()


@pytest.mark.parametrize("zipped", [False, True])
async def test_whole_dump_is_given_decompressed(zipped):
    body = ZIPPED if zipped else DUMP
    async with answering(head(len(body), zipped=zipped), body) as (rest, asked):
        assert await rest.instruments_csv("NFO") == DUMP
        assert await rest.instruments_csv() == DUMP
    assert [line.split(b" ")[1] for line in asked] == [b"/instruments/NFO", b"/instruments"]
    assert b"authorization: token key:t\r\n" in asked[0].lower()


@pytest.mark.parametrize("zipped", [False, True])
async def test_fewer_bytes_than_announced_are_a_truncated_dump(zipped):
    body = ZIPPED if zipped else DUMP
    async with answering(head(len(body), zipped=zipped), body[:-7]) as (rest, _):
        with pytest.raises(KiteTruncatedError, match="instruments/NFO"):
            await rest.instruments_csv("NFO")


async def test_half_a_gzip_body_is_truncated_although_its_length_is_as_announced():
    half = ZIPPED[: len(ZIPPED) // 2]
    async with answering(head(len(half), zipped=True), half) as (rest, _):
        with pytest.raises(KiteTruncatedError, match="does not end"):
            await rest.instruments_csv()


async def test_chunks_without_their_end_are_a_truncated_dump():
    start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with answering(start, b"5\r\n1,A\n2\r\n") as (rest, _):
        with pytest.raises(KiteTruncatedError):
            await rest.instruments_csv()


async def test_body_that_only_says_it_is_gzip_is_unavailable():
    async with answering(head(4, zipped=True), b"1,A\n") as (rest, _):
        with pytest.raises(KiteUnavailableError, match="no gzip"):
            await rest.instruments_csv()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("403 Forbidden", KiteTokenError),
        ("429 Too Many Requests", KiteRateLimitedError),
        ("400 Bad Request", KiteInputError),
        ("502 Bad Gateway", KiteUnavailableError),
        ("302 Found", KiteUnavailableError),
    ],
)
async def test_status_decides_the_error(status, error):
    async with answering(head(4, status=status), b"why?") as (rest, _):
        with pytest.raises(error):
            await rest.instruments_csv("NFO")


async def test_nobody_there_is_unavailable():
    async with answering() as (rest, _):
        pass
    with pytest.raises(KiteUnavailableError):
        await rest.instruments_csv()
