"""What becomes of downloaded dumps: which are usable, what stays of before, which tokens moved."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from enum import StrEnum
from typing import Final

import msgspec

from libs.common.domain.clock import IST
from libs.common.domain.instruments import Dump, Instrument

ALL_EXCHANGES: Final = "all"
"""The name of the one file that holds every exchange."""

MAX_SHRINKAGE: Final = 0.5
"""A dump that lost more than this share of the rows of the one before is a damaged download."""

# A dump of which so much cannot be read has another format.
_MAX_UNREADABLE: Final = 0.5


class Outcome(StrEnum):
    """What a download came to.

    Attributes:
        LOADED: Its rows are in force.
        UNAVAILABLE: No answer, a fault of the server, or the limiter refused.
        REFUSED: The session is dead, or there is no such exchange.
        TRUNCATED: It ends before its end.
        EMPTY: No rows.
        SHRUNKEN: It lost more than half of the rows of the one before.
        UNREADABLE: Not a dump, or most of its rows cannot be read.
        UNSAVED: It was good, but PostgreSQL did not take it.
    """

    LOADED = "loaded"
    UNAVAILABLE = "unavailable"
    REFUSED = "refused"
    TRUNCATED = "truncated"
    EMPTY = "empty"
    SHRUNKEN = "shrunken"
    UNREADABLE = "unreadable"
    UNSAVED = "unsaved"


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a dump was not taken.

    Attributes:
        outcome: For metrics.
        reason: For people.
    """

    outcome: Outcome
    reason: str


class ExchangeDump(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one exchange, all of one download.

    Attributes:
        exchange: Such as "NFO".
        market_date: The market's day on which they were downloaded.
        fetched_at: The market's time of the download.
        instruments: The rows.
    """

    exchange: str
    market_date: date
    fetched_at: datetime
    instruments: Sequence[Instrument]


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    """Two exchanges claim one token; the newer download won.

    Attributes:
        kept: The row that counts.
        dropped: The row that does not.
    """

    kept: Instrument
    dropped: Instrument


class Reuse(msgspec.Struct, frozen=True, kw_only=True):
    """A token means another contract than before.

    Attributes:
        before: What it meant.
        after: What it means now.
    """

    before: Instrument
    after: Instrument


class Registry(msgspec.Struct, frozen=True, kw_only=True):
    """All instruments in force, and of which day each exchange's are.

    Attributes:
        market_date: The day it is in force for; no exchange's rows are of a later one.
        exchanges: By exchange.
        instruments: By token; of each exchange all rows that lost no token to another one.
        reused_from: Token → `EXCHANGE:tradingsymbol` that it meant on the day before, for tokens
            that were given away again.
    """

    market_date: date
    exchanges: Mapping[str, ExchangeDump]
    instruments: Mapping[int, Instrument]
    reused_from: Mapping[int, str]


class Renewal(msgspec.Struct, frozen=True, kw_only=True):
    """What a round of downloads makes of the registry.

    Attributes:
        registry: As it is from now on.
        is_changed: Whether it differs from before in an instrument or in the day.
        conflicts: Tokens claimed by two exchanges.
        reused: Tokens that mean another contract than before.
        kept: Exchanges whose rows of before stay, although they were to be renewed.
        removed: Exchanges that are no longer wanted.
    """

    registry: Registry
    is_changed: bool
    conflicts: list[Conflict]
    reused: list[Reuse]
    kept: list[str]
    removed: list[str]


def judge(dump: Dump) -> Failure | None:
    """Whether a file as a whole can be believed; None if it can."""
    usable, unreadable = len(dump.instruments), len(dump.skipped)
    if dump.is_truncated:
        last = dump.skipped[-1]
        return Failure(
            outcome=Outcome.TRUNCATED,
            reason=f"it ends in the middle of line {last.line}: {last.field} {last.reason}",
        )
    if not usable and not unreadable:
        return Failure(outcome=Outcome.EMPTY, reason="it has no rows")
    if unreadable > (usable + unreadable) * _MAX_UNREADABLE:
        first = dump.skipped[0]
        return Failure(
            outcome=Outcome.UNREADABLE,
            reason=f"{unreadable} of {usable + unreadable} rows cannot be read, the first is line"
            f" {first.line}: {first.field} {first.reason}",
        )
    return None


def rows_by_exchange(instruments: Iterable[Instrument]) -> dict[str, list[Instrument]]:
    """Sort rows by their exchange, in their order."""
    found: dict[str, list[Instrument]] = {}
    for item in instruments:
        found.setdefault(item.exchange, []).append(item)
    return found


def judge_exchange(
    exchange: str, rows: Sequence[Instrument], before: ExchangeDump | None, *, max_shrinkage: float
) -> Failure | None:
    """Whether the rows of one exchange may replace those of before; None if they may."""
    if not rows:
        return Failure(outcome=Outcome.EMPTY, reason=f"it has no rows of {exchange}")
    if before is not None and len(rows) < len(before.instruments) * (1 - max_shrinkage):
        return Failure(
            outcome=Outcome.SHRUNKEN,
            reason=f"it has {len(rows)} rows of {exchange}, the dump before had"
            f" {len(before.instruments)}; if that is right, set INSTRUMENT_MAX_SHRINKAGE=1 once",
        )
    return None


def exchanges_of(
    name: str,
    dump: Dump,
    before: Mapping[str, ExchangeDump],
    *,
    max_shrinkage: float = MAX_SHRINKAGE,
) -> tuple[dict[str, list[Instrument]], dict[str, Failure]]:
    """Judge one file exchange by exchange.

    Args:
        name: The exchange that was asked for, or `ALL_EXCHANGES`.
        dump: What came.
        before: What is in force.
        max_shrinkage: Share of its rows that an exchange may lose.

    Returns:
        The rows of every exchange that may be renewed, and why each other one may not. Rows of
        an exchange that was not asked for are in neither.
    """
    failure = judge(dump)
    if failure is not None:
        expected = sorted(before) if name == ALL_EXCHANGES else [name]
        return {}, dict.fromkeys(expected or [name], failure)
    found = rows_by_exchange(dump.instruments)
    expected = sorted({*found, *before}) if name == ALL_EXCHANGES else [name]
    good: dict[str, list[Instrument]] = {}
    bad: dict[str, Failure] = {}
    for exchange in expected:
        rows = found.get(exchange, [])
        failure = judge_exchange(exchange, rows, before.get(exchange), max_shrinkage=max_shrinkage)
        if failure is None:
            good[exchange] = rows
        else:
            bad[exchange] = failure
    return good, bad


def renew(
    before: Registry | None,
    fresh: Mapping[str, Sequence[Instrument]],
    *,
    failed: Iterable[str],
    wanted: Iterable[str] | None,
    now: datetime,
) -> Renewal | None:
    """Put renewed exchanges beside those that stay.

    Every exchange in the result is of one download: the newest good one. What stays is of an
    earlier day and says so.

    Args:
        before: What is in force; None for nothing, or for another market.
        fresh: Usable rows by exchange.
        failed: Exchanges that were to be renewed and could not be.
        wanted: All configured exchanges; None if whatever comes is wanted.
        now: The market's time.

    Returns:
        None if there is nothing to put into force.
    """
    today = now.astimezone(IST).date()
    held = dict(before.exchanges) if before is not None else {}
    removed = [] if wanted is None else sorted(set(held) - set(wanted))
    exchanges = {name: dump for name, dump in held.items() if name not in removed}
    exchanges |= {
        name: ExchangeDump(
            exchange=name, market_date=today, fetched_at=now, instruments=tuple(rows)
        )
        for name, rows in fresh.items()
    }
    if not exchanges or not (fresh or removed):
        return None
    instruments, conflicts = _by_token(exchanges.values())
    market_date = today if fresh or before is None else before.market_date
    known = before.instruments if before is not None else {}
    reused = [
        Reuse(before=known[token], after=item)
        for token, item in instruments.items()
        if token in known and known[token].key != item.key
    ]
    reused_from = dict(_carried(before, instruments, market_date))
    reused_from |= {item.after.instrument_token: item.before.key for item in reused}
    registry = Registry(
        market_date=market_date,
        exchanges=exchanges,
        instruments=instruments,
        reused_from=reused_from,
    )
    # Row by row: one comparison of two mappings would keep the interpreter from every other thread
    # until it is through, the event loop's among them.
    is_changed = (
        before is None
        or before.market_date != market_date
        or len(known) != len(instruments)
        or any(known.get(token) != item for token, item in instruments.items())
    )
    return Renewal(
        registry=registry,
        is_changed=is_changed,
        conflicts=conflicts,
        reused=reused,
        kept=sorted(name for name in set(failed) if name in exchanges and name not in fresh),
        removed=removed,
    )


def _carried(
    before: Registry | None, instruments: Mapping[int, Instrument], market_date: date
) -> Iterable[tuple[int, str]]:
    # Within a day the dump is loaded several times; its reused tokens stay reused for that day.
    if before is None or before.market_date != market_date:
        return
    for token, name in before.reused_from.items():
        item = instruments.get(token)
        if item is not None and item.key != name:
            yield token, name


def _by_token(
    dumps: Iterable[ExchangeDump],
) -> tuple[dict[int, Instrument], list[Conflict]]:
    found: dict[int, Instrument] = {}
    conflicts: list[Conflict] = []
    # The newer download knows better who holds a token; among equals the name decides, always
    # the same way.
    for dump in sorted(dumps, key=lambda d: (-d.fetched_at.timestamp(), d.exchange)):
        for item in dump.instruments:
            first = found.setdefault(item.instrument_token, item)
            if first is not item:
                conflicts.append(Conflict(kept=first, dropped=item))
    return found, conflicts
