"""Judging and merging dumps: a good exchange is never lost, and days are never mixed silently."""

from datetime import date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.clock import IST
from libs.common.domain.instruments import Dump, Instrument, Kind, SkippedRow
from services.control.domain import dumps
from services.control.domain.dumps import ALL_EXCHANGES, ExchangeDump, Outcome, Registry

MONDAY = datetime(2026, 11, 23, 9, tzinfo=IST)
EXCHANGES = ("NSE", "NFO", "BSE")


def item(token: int, exchange: str = "NSE", symbol: str | None = None) -> Instrument:
    return Instrument(
        instrument_token=token,
        exchange_token=token >> 8,
        tradingsymbol=symbol or f"S{token}",
        name="",
        exchange=exchange,
        segment=exchange,
        underlying="S",
        kind=Kind.EQUITY,
        lot_size=1,
        tick_size=0.05,
    )


def rows(exchange: str, *tokens: int) -> list[Instrument]:
    return [item(token, exchange) for token in tokens]


def dump(*instruments: Instrument, skipped: int = 0, is_truncated: bool = False) -> Dump:
    bad = [SkippedRow(line=9, field="row", reason="is bad")] * skipped
    return Dump(instruments=list(instruments), skipped=bad, is_truncated=is_truncated)


def held(exchange: str, count: int) -> dict[str, ExchangeDump]:
    return {
        exchange: ExchangeDump(
            exchange=exchange,
            market_date=MONDAY.date(),
            fetched_at=MONDAY,
            instruments=rows(exchange, *range(1, count + 1)),
        )
    }


def renewed(before, fresh, *, now=MONDAY, failed=(), wanted=EXCHANGES):
    return dumps.renew(before, fresh, failed=failed, wanted=wanted, now=now)


@pytest.mark.parametrize(
    ("came", "outcome"),
    [
        (dump(), Outcome.EMPTY),
        (dump(*rows("BSE", 1, 2)), Outcome.EMPTY),
        (dump(*rows("NSE", *range(1, 10)), skipped=1, is_truncated=True), Outcome.TRUNCATED),
        (dump(*rows("NSE", *range(1, 10)), skipped=10), Outcome.UNREADABLE),
        (dump(*rows("NSE", 1, 2, 3, 4)), Outcome.SHRUNKEN),
        (dump(*rows("NSE", 1, 2, 3, 4, 5)), None),
        (dump(*rows("NSE", *range(1, 40)), skipped=5), None),
    ],
)
def test_damaged_dump_is_not_taken(came, outcome):
    good, bad = dumps.exchanges_of("NSE", came, held("NSE", 10))
    if outcome is None:
        assert (good, bad) == ({"NSE": came.instruments}, {})
    else:
        assert good == {}
        assert {name: failure.outcome for name, failure in bad.items()} == {"NSE": outcome}
        assert bad["NSE"].reason


def test_first_dump_has_nothing_to_shrink_from():
    good, bad = dumps.exchanges_of("NSE", dump(item(1)), {})
    assert (list(good), bad) == (["NSE"], {})


def test_allowed_shrinkage_is_configured():
    came = dump(item(1))
    assert dumps.exchanges_of("NSE", came, held("NSE", 10), max_shrinkage=1.0)[1] == {}
    assert dumps.exchanges_of("NSE", came, held("NSE", 2), max_shrinkage=0.4)[0] == {}


def test_rows_of_an_exchange_that_was_not_asked_for_are_left_out():
    came = dump(*rows("NSE", 1, 2), *rows("BSE", 3))
    assert dumps.exchanges_of("NSE", came, {}) == ({"NSE": rows("NSE", 1, 2)}, {})


def test_dump_of_all_is_judged_exchange_by_exchange():
    before = held("NSE", 4) | held("NFO", 4) | held("BSE", 4)
    came = dump(*rows("NSE", 1, 2, 3), *rows("NFO", 4), *rows("MCX", 9))
    good, bad = dumps.exchanges_of(ALL_EXCHANGES, came, before)
    assert sorted(good) == ["MCX", "NSE"]
    assert {name: failure.outcome for name, failure in bad.items()} == {
        "NFO": Outcome.SHRUNKEN,
        "BSE": Outcome.EMPTY,
    }
    cut = dump(*rows("NSE", 1), skipped=1, is_truncated=True)
    good, bad = dumps.exchanges_of(ALL_EXCHANGES, cut, before)
    assert (good, sorted(bad)) == ({}, ["BSE", "NFO", "NSE"])


def test_failed_exchange_keeps_its_rows_and_their_day():
    first = renewed(None, {"NSE": rows("NSE", 1, 2), "NFO": rows("NFO", 3)})
    tuesday = MONDAY + timedelta(days=1)
    second = renewed(first.registry, {"NSE": rows("NSE", 2, 5)}, now=tuesday, failed=["NFO"])
    assert sorted(second.registry.instruments) == [2, 3, 5]
    assert second.registry.market_date == tuesday.date()
    days = {n: d.market_date.day for n, d in second.registry.exchanges.items()}
    assert days == {"NSE": 24, "NFO": 23}
    assert (second.kept, second.is_changed) == (["NFO"], True)


def test_same_rows_on_the_same_day_change_nothing_but_their_age():
    first = renewed(None, {"NSE": rows("NSE", 1)}).registry
    later = MONDAY + timedelta(hours=3)
    again = renewed(first, {"NSE": rows("NSE", 1)}, now=later)
    assert not again.is_changed
    assert again.registry.exchanges["NSE"].fetched_at == later
    assert renewed(first, {"NSE": rows("NSE", 1)}, now=MONDAY + timedelta(days=1)).is_changed


def test_nothing_new_is_nothing_to_put_into_force():
    assert renewed(None, {}) is None
    first = renewed(None, {"NSE": rows("NSE", 1)}).registry
    assert renewed(first, {}, failed=["NSE"], now=MONDAY + timedelta(days=1)) is None


def test_exchange_that_is_no_longer_wanted_leaves_with_its_rows():
    first = renewed(None, {"NSE": rows("NSE", 1), "NFO": rows("NFO", 2)}).registry
    fewer = renewed(first, {}, wanted=["NSE"])
    assert (fewer.removed, sorted(fewer.registry.instruments)) == (["NFO"], [1])
    assert fewer.registry.market_date == first.market_date
    assert renewed(first, {"NSE": rows("NSE", 1)}, wanted=None).removed == []


def test_token_claimed_by_two_exchanges_belongs_to_the_newer_download():
    first = renewed(None, {"NSE": rows("NSE", 1, 2), "NFO": rows("NFO", 3)}).registry
    later = renewed(first, {"NFO": rows("NFO", 2, 3)}, now=MONDAY + timedelta(hours=1))
    assert later.registry.instruments[2] == item(2, "NFO")
    assert [(c.kept.exchange, c.dropped.exchange) for c in later.conflicts] == [("NFO", "NSE")]
    assert len(later.registry.exchanges["NSE"].instruments) == 2, "what it had is not forgotten"


def test_reused_token_is_told_for_the_rest_of_the_day():
    first = renewed(None, {"NSE": [item(1, symbol="OLD"), item(2)]}).registry
    tuesday = MONDAY + timedelta(days=1)
    second = renewed(first, {"NSE": [item(1, symbol="NEW"), item(2)]}, now=tuesday)
    assert [(r.before.key, r.after.key) for r in second.reused] == [("NSE:OLD", "NSE:NEW")]
    assert second.registry.reused_from == {1: "NSE:OLD"}
    more = [item(1, symbol="NEW"), item(2), item(3)]
    third = renewed(second.registry, {"NSE": more}, now=tuesday + timedelta(hours=2))
    assert (third.reused, third.registry.reused_from) == ([], {1: "NSE:OLD"})
    back = renewed(third.registry, {"NSE": [item(1, symbol="OLD")]}, now=tuesday)
    assert back.registry.reused_from == {1: "NSE:NEW"}
    wednesday = renewed(third.registry, {"NSE": more}, now=tuesday + timedelta(days=1))
    assert wednesday.registry.reused_from == {}


def test_a_lot_size_that_changes_reuses_no_token():
    first = renewed(None, {"NSE": [item(1)]}).registry
    changed = Instrument(
        **{f: getattr(item(1), f) for f in Instrument.__struct_fields__} | {"lot_size": 9}
    )
    second = renewed(first, {"NSE": [changed]})
    assert (second.is_changed, second.reused) == (True, [])


tokens = st.sets(st.integers(1, 40), min_size=1, max_size=8)
rounds = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.dictionaries(st.sampled_from(EXCHANGES), st.tuples(tokens, st.sampled_from("ABC"))),
    ),
    min_size=1,
    max_size=6,
)


@given(rounds)
def test_no_round_loses_a_good_exchange_or_mixes_days_silently(history):
    before: Registry | None = None
    newest: dict[str, tuple[date, frozenset[str]]] = {}
    now = MONDAY
    for days, given_rows in history:
        now += timedelta(days=days, minutes=1)
        fresh = {
            name: [item(token, name, f"{suffix}{token}") for token in sorted(chosen)]
            for name, (chosen, suffix) in given_rows.items()
        }
        failed = set(EXCHANGES) - set(fresh)
        renewal = renewed(before, fresh, now=now, failed=failed)
        for name, instruments in fresh.items():
            newest[name] = (now.date(), frozenset(i.key for i in instruments))
        if renewal is None:
            assert not fresh
            continue
        found = renewal.registry
        # Every exchange that ever came is there, whole, and says of which day it is.
        assert {
            name: (dump.market_date, frozenset(i.key for i in dump.instruments))
            for name, dump in found.exchanges.items()
        } == newest
        # Every row is in force or lost its token to a row that is told.
        lost = {c.dropped.key for c in renewal.conflicts}
        expected = {key for _, keys in newest.values() for key in keys}
        in_force = {i.key for i in found.instruments.values()}
        assert in_force | lost == expected
        assert not in_force & lost
        assert all(token == i.instrument_token for token, i in found.instruments.items())
        assert renewal.kept == sorted(failed & set(found.exchanges))
        if before is not None:
            for reuse in renewal.reused:
                token = reuse.after.instrument_token
                assert before.instruments[token].key != found.instruments[token].key
                assert found.reused_from[token] == before.instruments[token].key
        before = found
