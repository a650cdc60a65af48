"""Request limits, subscriptions, encoding and the book of faults."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from libs.common.kite.frames import Mode, decode
from services.simulator.domain.encoding import (
    NOTHING,
    PACKETS_PER_FRAME,
    encode,
    plan_of,
    union,
)
from services.simulator.domain.faults import Fault, FaultBook, FaultKind, parse_fault
from services.simulator.domain.rate_limits import RateLimiter, RequestClass
from services.simulator.domain.subscriptions import (
    TOKENS_PER_CONNECTION,
    Command,
    Rejected,
    Subscriptions,
    parse_command,
)
from services.simulator.errors import FaultError
from services.simulator.settings import SimulatorSettings
from tests.unit.simulator.markets import at, shared_market

MARKET = shared_market()
QUOTES = MARKET.start(at(11))
NIFTY = 256265


def fault_of(**fields: object) -> Fault:
    return parse_fault(msgspec.json.encode(fields), ["key"])


def test_each_class_has_its_own_budget_per_calendar_second_and_key():
    limiter = RateLimiter()
    assert limiter.allow("a", RequestClass.QUOTE, 5)
    assert not limiter.allow("a", RequestClass.QUOTE, 5)
    assert limiter.allow("b", RequestClass.QUOTE, 5)
    assert [limiter.allow("a", RequestClass.HISTORICAL, 5) for _ in range(4)] == [True] * 3 + [
        False
    ]
    assert sum(limiter.allow("a", RequestClass.OTHER, 5) for _ in range(12)) == 10
    assert limiter.allow("a", RequestClass.QUOTE, 6)
    assert limiter.refused == 4


def test_orders_have_a_budget_of_their_own_per_second_and_per_minute():
    limiter = RateLimiter()
    assert sum(limiter.allow("a", RequestClass.OTHER, 60) for _ in range(11)) == 10
    taken = [
        sum(limiter.allow("a", RequestClass.ORDER, 60 + second) for _ in range(11))
        for second in range(60)
    ]
    assert taken == [10] * 40 + [0] * 20
    assert limiter.allow("b", RequestClass.ORDER, 119)
    assert limiter.allow("a", RequestClass.ORDER, 120)


def test_a_limiter_that_is_off_allows_everything():
    limiter = RateLimiter(enabled=False)
    assert all(limiter.allow("a", RequestClass.QUOTE, 5) for _ in range(100))


def test_a_bare_subscribe_means_quote_and_mode_changes_it():
    subscriptions = Subscriptions()
    assert subscriptions.apply(Command("subscribe", (1, 2, 2))) == ([1, 2], None)
    assert subscriptions.modes == {1: Mode.QUOTE, 2: Mode.QUOTE}
    assert subscriptions.apply(Command("mode", (1, 3), Mode.FULL)) == ([1], None)
    assert subscriptions.modes == {1: Mode.FULL, 2: Mode.QUOTE}
    assert subscriptions.apply(Command("subscribe", (1,))) == ([], None)
    assert subscriptions.modes[1] is Mode.FULL
    subscriptions.apply(Command("unsubscribe", (1, 9)))
    assert subscriptions.modes == {2: Mode.QUOTE}


def test_only_the_tokens_beyond_the_limit_are_refused():
    subscriptions = Subscriptions()
    fresh, rejected = subscriptions.apply(Command("subscribe", tuple(range(1, 10_001))))
    assert fresh == list(range(1, TOKENS_PER_CONNECTION + 1))
    assert rejected is not None
    assert "7000 ignored" in rejected.message
    subscriptions.apply(Command("unsubscribe", (1,)))
    assert subscriptions.apply(Command("subscribe", (9_999,))) == ([9_999], None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "1",
        '{"a":"dance","v":[1]}',
        '{"a":[],"v":[1]}',
        '{"a":"subscribe"}',
        '{"a":"subscribe","v":"1"}',
        '{"a":"subscribe","v":[-1]}',
        '{"a":"subscribe","v":[true]}',
        '{"a":"subscribe","v":[4294967296]}',
        '{"a":"mode","v":[1]}',
        '{"a":"mode","v":["huge",[1]]}',
        '{"a":"mode","v":[["full"],[1]]}',
        '{"a":"mode","v":["full",1]}',
    ],
)
def test_a_bad_command_is_answered_and_not_raised(text):
    assert isinstance(parse_command(text), Rejected)


def test_good_commands_are_read_with_and_without_spaces():
    assert parse_command('{"a": "subscribe", "v": [256265]}') == Command("subscribe", (256265,))
    assert parse_command('{"a":"mode","v":["full",[1,2]]}') == Command("mode", (1, 2), Mode.FULL)


@given(st.text())
def test_no_text_breaks_the_command_parser(text):
    parse_command(text)


def test_every_lane_encodes_what_the_columns_say():
    rows = [0, 7, 8, 40, 41, 300]
    modes = {
        int(MARKET.universe.tokens[row]): mode
        for row, mode in zip(
            rows, [Mode.FULL, Mode.QUOTE, Mode.LTP, Mode.FULL, Mode.QUOTE, Mode.LTP], strict=True
        )
    }
    plan = plan_of(MARKET.universe, {**modes, 12345: Mode.FULL})
    (frame,) = encode(MARKET, QUOTES, plan, ticked_only=False).frames(plan)
    packets = {packet.instrument_token: packet for packet in decode(frame)}
    assert {token: packet.mode for token, packet in packets.items()} == modes
    for row in rows:
        packet = packets[int(MARKET.universe.tokens[row])]
        assert packet.last_price == QUOTES.last[row] / 100
        assert packet.tradable is not bool(MARKET.universe.is_index[row])
        if packet.mode is Mode.FULL:
            assert packet.exchange_timestamp_s == QUOTES.at_seconds
        if packet.mode is Mode.FULL and packet.tradable:
            assert packet.oi == QUOTES.oi[row]
            assert packet.depth_buy[0].price == QUOTES.bid[row] / 100
            assert packet.depth_sell[0].price == QUOTES.ask[row] / 100


def test_frames_are_bounded_and_complete():
    tokens = [int(token) for token in MARKET.universe.tokens[:1_000]]
    modes = {token: list(Mode)[place % 3] for place, token in enumerate(tokens)}
    plan = plan_of(MARKET.universe, modes)
    frames = encode(MARKET, QUOTES, plan, ticked_only=False).frames(plan)
    assert [int.from_bytes(frame[:2], "big") for frame in frames] == [300, 300, 300, 100]
    assert PACKETS_PER_FRAME == 300
    seen = [packet.instrument_token for frame in frames for packet in decode(frame)]
    assert sorted(seen) == sorted(tokens)


def test_a_connection_gets_its_own_rows_of_the_common_batch():
    first = plan_of(
        MARKET.universe, {int(MARKET.universe.tokens[row]): Mode.FULL for row in (9, 50)}
    )
    second = plan_of(
        MARKET.universe, {int(MARKET.universe.tokens[row]): Mode.FULL for row in (50,)}
    )
    batch = encode(MARKET, QUOTES, union([first, second, NOTHING]), ticked_only=False)
    assert [p.instrument_token for f in batch.frames(second) for p in decode(f)] == [
        int(MARKET.universe.tokens[50])
    ]
    assert len(decode(batch.frames(first)[0])) == 2
    assert batch.frames(NOTHING) == []


def test_only_what_ticked_is_sent():
    later = MARKET.advance(QUOTES, at(11, 0, 1))
    plan = plan_of(MARKET.universe, {int(token): Mode.LTP for token in MARKET.universe.tokens})
    frames = encode(MARKET, later, plan, ticked_only=True).frames(plan)
    assert sum(len(decode(frame)) for frame in frames) == np.count_nonzero(later.ticked)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "kind"),
        ({"kind": "earthquake"}, "kind"),
        ({"kind": "burst", "colour": "red"}, "colour"),
        ({"kind": "reset", "api_key": "other"}, "api_key"),
        ({"kind": "reset", "count": 0}, "count"),
        ({"kind": "silent_socket", "count": 2}, "count"),
        ({"kind": "silent_socket", "seconds": -1}, "seconds"),
        ({"kind": "silent_socket", "seconds": "long"}, "seconds"),
        ({"kind": "refused_handshake", "status": 200}, "status"),
        ({"kind": "slow_replies", "milliseconds": 0}, "milliseconds"),
        ({"kind": "odd_packet", "length": 184}, "length"),
        ({"kind": "burst", "factor": 1}, "factor"),
        ({"kind": "slow_replies", "path": "quote"}, "path"),
        ({"kind": "text_message", "type": "poem"}, "type"),
        ({"kind": "burst", "exchange": "NFO"}, "exchange"),
    ],
)
def test_a_bad_fault_is_refused_with_the_name_of_its_field(fields, field):
    with pytest.raises(FaultError) as caught:
        fault_of(**fields)
    assert caught.value.field == field


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff"])
def test_a_fault_that_is_no_object_is_refused(body):
    with pytest.raises(FaultError) as caught:
        parse_fault(body, [])
    assert caught.value.field == "body"


def test_faults_are_used_up_by_count():
    book = FaultBook(lambda: 0.0)
    book.add(fault_of(kind="garbage_frame", count=2, api_key="key"))
    assert book.strike(FaultKind.GARBAGE_FRAME, "someone") is None
    assert book.strike(FaultKind.TRUNCATED_FRAME, "key") is None
    assert [book.strike(FaultKind.GARBAGE_FRAME, "key") is None for _ in range(3)] == [
        False,
        False,
        True,
    ]
    assert book.active() == []


def test_a_frame_fault_without_bounds_strikes_once():
    book = FaultBook(lambda: 0.0)
    book.add(fault_of(kind="truncated_frame"))
    assert book.strike(FaultKind.TRUNCATED_FRAME, "key") is not None
    assert book.strike(FaultKind.TRUNCATED_FRAME, "key") is None


def test_faults_are_over_after_their_time():
    now = 0.0
    book = FaultBook(lambda: now)
    book.add(fault_of(kind="silent_socket", seconds=5))
    now = 4.9
    assert book.find(FaultKind.SILENT_SOCKET, "anybody") is not None
    now = 5.0
    assert book.find(FaultKind.SILENT_SOCKET, "anybody") is None


def test_faults_can_be_lifted_one_by_one_or_all():
    book = FaultBook(lambda: 0.0)
    first = book.add(fault_of(kind="silent_socket"))
    book.add(fault_of(kind="burst"))
    assert book.remove(first.id) == 1
    assert [entry.fault.kind for entry in book.active()] == [FaultKind.BURST]
    assert book.remove(None) == 1
    assert book.remove(None) == 0


def test_immediate_faults_do_not_stay():
    book = FaultBook(lambda: 0.0)
    book.add(fault_of(kind="reset"))
    assert book.active() == []


def test_a_fault_can_be_meant_for_some_paths():
    book = FaultBook(lambda: 0.0)
    book.add(fault_of(kind="slow_replies", path="/quote"))
    assert book.find(FaultKind.SLOW_REPLIES, None, "/quote/ltp") is not None
    assert book.find(FaultKind.SLOW_REPLIES, None, "/instruments") is None


def test_a_fault_of_dumps_can_be_meant_for_one_exchange():
    book = FaultBook(lambda: 0.0)
    book.add(Fault(kind=FaultKind.EMPTY_DUMP, exchange="NFO", count=2))
    book.add(Fault(kind=FaultKind.REUSED_TOKEN, api_key="other"))
    assert book.strike_dump("key", "NSE") == []
    assert [f.kind for f in book.strike_dump("key", "NFO")] == [FaultKind.EMPTY_DUMP]
    assert len(book.strike_dump("other", "")) == 2, "the dump of all exchanges has its rows too"
    assert [f.kind for f in book.strike_dump("other", "NFO")] == [FaultKind.REUSED_TOKEN]


def test_the_number_of_faults_is_bounded():
    book = FaultBook(lambda: 0.0)
    for _ in range(100):
        book.add(fault_of(kind="silent_socket"))
    with pytest.raises(FaultError):
        book.add(fault_of(kind="silent_socket"))


ACCOUNT = {
    "api_key": "k",
    "api_secret": "s",
    "user_id": "u",
    "password": "p",
    "totp_secret": "ABCDEFGH",
}


def test_settings_read_accounts_and_hide_their_secrets():
    settings = SimulatorSettings(sim_accounts=[{**ACCOUNT, "password": "hunter2"}])
    assert settings.accounts()[0].password == "hunter2"
    assert "hunter2" not in str(settings.describe())


@pytest.mark.parametrize(
    ("values", "variable"),
    [
        ({"sim_start": "noon"}, "sim_start"),
        ({"sim_rate": 0}, "sim_rate"),
        ({"sim_universe": "tiny"}, "sim_universe"),
        ({"sim_accounts": [ACCOUNT, ACCOUNT]}, "SIM_ACCOUNTS"),
        ({"sim_accounts": [{**ACCOUNT, "totp_secret": "1"}]}, "totp_secret"),
        ({"environment": "production"}, "ENVIRONMENT"),
    ],
)
def test_bad_settings_are_refused_by_name(values, variable):
    with pytest.raises(ValidationError, match=variable):
        SimulatorSettings(**values)
