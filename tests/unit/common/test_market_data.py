"""Kite's candles and quotes: read exactly, in Indian time on every host, errors sorted."""

import time
from datetime import UTC, datetime, timedelta

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.messages import Candle, CandleInterval
from libs.common.domain.candle_spans import Span
from libs.common.domain.clock import IST
from libs.common.kite.errors import (
    KiteInputError,
    KitePermissionError,
    KiteRateLimitedError,
    KiteTokenError,
    KiteUnavailableError,
)
from libs.common.kite.market_data import (
    KiteAccess,
    KiteMarketData,
    classify,
    parse_candles,
    parse_quotes,
    wall_clock,
)

ALWAYS = Span(0, 10**11)
ACCESS = KiteAccess(api_key="key", access_token="hush", root="http://kite.test/")
moments = st.integers(631_000_000, 4_100_000_000).map(
    lambda seconds: datetime.fromtimestamp(seconds, IST)
)


def body_of(*rows):
    return msgspec.json.encode({"status": "success", "data": {"candles": list(rows)}})


def stamp_of(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%S+0530")


def row(stamp, *more):
    return [stamp, 1.5, 2.5, 0.5, 2.0, 10, *more]


@given(st.lists(moments, unique=True, max_size=50))
def test_stamps_are_indian_time_and_candles_come_in_order(stamps):
    found = parse_candles(body_of(*(row(stamp_of(stamp)) for stamp in stamps)), ALWAYS)
    expected = sorted(int(stamp.timestamp()) for stamp in stamps)
    assert [candle.start for candle in found] == expected


def test_zone_of_the_host_does_not_matter(monkeypatch):
    answers = set()
    for zone in ("UTC", "Asia/Kolkata", "America/New_York"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        candle = parse_candles(body_of(row("2026-11-18T09:15:00+0530")), ALWAYS)[0]
        answers.add((candle.start, wall_clock(candle.start)))
    monkeypatch.undo()
    time.tzset()
    moment = datetime(2026, 11, 18, 3, 45, tzinfo=UTC)
    assert answers == {(int(moment.timestamp()), "2026-11-18 09:15:00")}


def test_stamps_of_another_shape_are_read_too():
    rows = [row("2026-11-18T03:45:00+00:00"), row("2026-11-18T09:16:00")]
    starts = [candle.start for candle in parse_candles(body_of(*rows), ALWAYS)]
    assert starts == [1794973500, 1794973560]


def test_open_interest_is_none_when_it_was_not_sent_and_counts_may_be_floats():
    plain, with_oi = parse_candles(
        body_of(row("2026-11-18T09:15:00+0530"), row("2026-11-18T09:16:00+0530", 7.0)), ALWAYS
    )
    assert plain == Candle(1794973500, 1.5, 2.5, 0.5, 2.0, 10, None)
    assert with_oi.oi == 7
    assert isinstance(with_oi.oi, int)


def test_candles_outside_the_span_and_repeated_ones_are_left_out():
    minutes = [row(f"2026-11-18T09:{minute}:00+0530") for minute in (14, 15, 16, 16, 17)]
    span = Span(1794973500, 1794973560)
    assert [candle.start for candle in parse_candles(body_of(*minutes), span)] == list(span)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html></html>",
        b"{}",
        b'{"data": {"candles": null}}',
        b'{"data": {"candles": [["soon", 1, 1, 1, 1, 1]]}}',
        b'{"data": {"candles": [["2026-11-18T09:15:00+0530", 1]]}}',
        b'{"data": {"candles": [["2026-11-18Tab:15:00+0530", 1, 1, 1, 1, 1]]}}',
        b'{"data": {"candles": [["9999-99-99T09:15:00+0530", 1, 1, 1, 1, 1]]}}',
    ],
)
def test_answer_that_holds_no_candles_is_a_fault_of_kite(body):
    with pytest.raises(KiteUnavailableError, match="cannot be read"):
        parse_candles(body, ALWAYS)


@given(st.binary(max_size=200))
def test_reading_is_total(body):
    for parse in (lambda: parse_candles(body, ALWAYS), lambda: parse_quotes(body)):
        try:
            parse()
        except KiteUnavailableError:
            continue


def test_quotes_keep_every_number_as_spelled_and_their_times_get_a_zone():
    body = (
        b'{"status":"success","data":{"NSE:X":{"last_price":1.10,"timestamp":"2026-11-18 09:15:01",'
        b'"last_trade_time":null,"depth":{"buy":[{"price":1.00}]}},"7":{"timestamp":"never"}}}'
    )
    quotes = parse_quotes(body)
    assert bytes(quotes["NSE:X"]) == (
        b'{"last_price":1.10,"timestamp":"2026-11-18T09:15:01+05:30",'
        b'"last_trade_time":null,"depth":{"buy":[{"price":1.00}]}}'
    )
    assert bytes(quotes["7"]) == b'{"timestamp":"never"}'


def error(message="no", error_type="GeneralException"):
    return msgspec.json.encode({"status": "error", "message": message, "error_type": error_type})


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, error("invalid token", "InputException"), KiteInputError),
        (404, error(), KiteInputError),
        (403, error("dead", "TokenException"), KiteTokenError),
        (403, b"<html>", KiteTokenError),
        (403, error("not for you", "PermissionException"), KitePermissionError),
        (429, error("Too many requests", "NetworkException"), KiteRateLimitedError),
        (429, b"<html>", KiteRateLimitedError),
        (500, error(), KiteUnavailableError),
        (502, b"<html>", KiteUnavailableError),
        (503, error("down", "NetworkException"), KiteUnavailableError),
        (302, b"", KiteUnavailableError),
    ],
)
def test_status_and_not_the_error_type_decides(status, body, kind):
    found = classify("historical", status, body)
    assert type(found) is kind
    assert found.call == "historical"


async def fetch(handler, **options):
    transport = httpx.MockTransport(handler)
    async with httpx.AsyncClient(transport=transport) as client:
        data = KiteMarketData(client, deadline_seconds=5)
        return await data.candles(
            ACCESS, 256265, CandleInterval.MINUTE, Span(1794973500, 1794973560), **options
        )


async def test_request_is_spelled_as_kite_wants_it():
    seen = []

    def answer(request):
        seen.append(request)
        return httpx.Response(200, content=body_of())

    assert await fetch(answer, oi=True) == []
    (request,) = seen
    assert request.url.path == "/instruments/historical/256265/minute"
    assert dict(request.url.params) == {
        "from": "2026-11-18 09:15:00",
        "to": "2026-11-18 09:16:00",
        "interval": "minute",
        "continuous": "0",
        "oi": "1",
    }
    assert request.headers["authorization"] == "token key:hush"


async def test_network_failures_are_faults_of_kite_without_the_token():
    def fail(request):
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(KiteUnavailableError, match="ConnectError") as caught:
        await fetch(fail)
    assert "hush" not in repr(caught.value)


async def test_call_ends_by_its_deadline_though_bytes_keep_coming():
    async def trickle():
        import asyncio

        while True:
            yield b" "
            await asyncio.sleep(0.01)

    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=trickle()))
    async with httpx.AsyncClient(transport=transport, timeout=60) as client:
        data = KiteMarketData(client, deadline_seconds=0.2)
        with pytest.raises(KiteUnavailableError, match=r"no answer within 0\.2 s"):
            await data.quotes(ACCESS, ["NSE:X"])


def test_access_is_never_printed():
    assert repr(ACCESS) == "KiteAccess(root='http://kite.test/', …)"


def test_wall_clock_is_indian_time():
    moment = datetime(2026, 1, 1, 0, 0, tzinfo=IST) - timedelta(seconds=1)
    assert wall_clock(int(moment.timestamp())) == "2025-12-31 23:59:59"
