"""The tables of explicit subscriptions as REST sees them: claims in and out, lists with states."""

import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import date
from typing import Any, TypeAlias

import asyncpg
import msgspec

from libs.common.database import Database, DatabaseUnavailableError
from services.gateway.catalog import Page
from services.gateway.domain.subscription_requests import (
    EVERYBODY,
    Accepted,
    Claim,
    Known,
    Outcome,
    OutcomeKind,
    Registry,
    Withdrawal,
    accept,
)
from services.gateway.errors import CatalogUnavailableError, NoInstrumentsError

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

_FIND_BY_NUMBER = """
SELECT i.instrument_token, i.tradingsymbol, i.segment, i.exchange
FROM instruments i JOIN unnest($1::bigint[]) AS asked (instrument_token) USING (instrument_token)
"""
_FIND_BY_SYMBOL = """
SELECT i.instrument_token, i.tradingsymbol, i.segment, i.exchange
FROM instruments i
JOIN unnest($1::text[], $2::text[]) AS asked (exchange, tradingsymbol)
    USING (exchange, tradingsymbol)
"""
# Makes the rows that are missing and locks those that are there, in the order of their tokens, as
# everybody does who changes them: whoever comes second waits, and nobody waits in a circle. A
# conflict without an update locks the row and leaves it as it is.
_LOCK_OR_MAKE = """
INSERT INTO instrument_subscriptions AS s
    (instrument_token, tradingsymbol, segment, status, requested_mode)
SELECT asked.*, 'inactive', 'LTP'
FROM unnest($1::bigint[], $2::text[], $3::text[])
    AS asked (instrument_token, tradingsymbol, segment)
ORDER BY asked.instrument_token
ON CONFLICT (instrument_token) DO UPDATE SET segment = s.segment WHERE false
"""
_LOCK = """
SELECT s.instrument_token, s.tradingsymbol
FROM instrument_subscriptions s JOIN unnest($1::bigint[]) AS asked (instrument_token)
    USING (instrument_token)
ORDER BY s.instrument_token
FOR NO KEY UPDATE OF s
"""
# The exchanges give the token of an expired contract to a new one: who claimed the old contract has
# no claim to the new one. A company that changes its symbol keeps its token, and its claims.
_DROP_CLAIMS_OF_OLD_CONTRACTS = """
DELETE FROM subscription_claims c
USING instrument_subscriptions s, instruments i
WHERE c.instrument_token = ANY ($1::bigint[])
  AND s.instrument_token = c.instrument_token
  AND i.instrument_token = c.instrument_token
  AND (s.segment <> i.segment
       OR (i.kind IN ('option', 'future') AND s.tradingsymbol <> i.tradingsymbol))
"""
_PINS = """
SELECT DISTINCT instrument_token, subscriber, account_id
FROM subscription_claims
WHERE instrument_token = ANY ($1::bigint[]) AND account_id IS NOT NULL
"""
_CLAIM = """
INSERT INTO subscription_claims (instrument_token, mode, subscriber, account_id)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[])
ON CONFLICT DO NOTHING
RETURNING instrument_token, mode, subscriber
"""
_PIN = """
UPDATE subscription_claims c
SET account_id = asked.account_id
FROM (SELECT DISTINCT * FROM unnest($1::bigint[], $2::text[], $3::text[])
          AS f (instrument_token, subscriber, account_id)) asked
WHERE c.instrument_token = asked.instrument_token
  AND c.subscriber = asked.subscriber
  AND c.account_id IS DISTINCT FROM asked.account_id
RETURNING c.instrument_token, c.subscriber
"""
_WITHDRAW = """
DELETE FROM subscription_claims c
USING unnest($1::bigint[], $2::text[], $3::text[]) AS asked (instrument_token, mode, subscriber)
WHERE c.instrument_token = asked.instrument_token
  AND (asked.mode IS NULL OR c.mode = asked.mode)
  AND (asked.subscriber = '*' OR c.subscriber = asked.subscriber)
RETURNING c.instrument_token, c.mode, c.subscriber
"""
# The row is what its claims come to; it changes only when they do.
_AGGREGATE = """
WITH claimed AS (
    SELECT asked.instrument_token,
           count(c.mode) > 0 AS is_active,
           CASE WHEN bool_or(c.mode = 'FULL') THEN 'FULL'
                WHEN bool_or(c.mode = 'QUOTE') THEN 'QUOTE'
                WHEN bool_or(c.mode = 'LTP') THEN 'LTP' END AS mode,
           max(c.account_id) AS account_id
    FROM unnest($1::bigint[]) AS asked (instrument_token)
    LEFT JOIN subscription_claims c USING (instrument_token)
    GROUP BY asked.instrument_token
), target AS (
    SELECT s.instrument_token,
           coalesce(i.tradingsymbol, s.tradingsymbol) AS tradingsymbol,
           coalesce(i.segment, s.segment) AS segment,
           CASE WHEN claimed.is_active THEN 'active' ELSE 'inactive' END AS status,
           coalesce(claimed.mode, s.requested_mode) AS requested_mode,
           claimed.account_id
    FROM instrument_subscriptions s
    JOIN claimed USING (instrument_token)
    LEFT JOIN instruments i ON i.instrument_token = s.instrument_token AND $2
)
UPDATE instrument_subscriptions s
SET tradingsymbol = t.tradingsymbol,
    segment = t.segment,
    status = t.status,
    requested_mode = t.requested_mode,
    account_id = t.account_id,
    updated_at = now(),
    state = CASE WHEN s.status = t.status THEN s.state ELSE 'pending' END,
    state_reason = CASE WHEN s.status = t.status THEN s.state_reason ELSE '' END,
    state_at = CASE WHEN s.status = t.status THEN s.state_at ELSE now() END
FROM target t
WHERE s.instrument_token = t.instrument_token
  AND (s.tradingsymbol, s.segment, s.status, s.requested_mode, s.account_id)
      IS DISTINCT FROM (t.tradingsymbol, t.segment, t.status, t.requested_mode, t.account_id)
"""
# What streams, for whatever reason, and what people subscribed. An inactive subscription whose
# instrument streams because a window wants it is an active row of that origin.
_LIST = """
SELECT instrument_token,
       CASE WHEN s.status = 'active' THEN s.tradingsymbol
            ELSE coalesce(i.tradingsymbol, s.tradingsymbol) END AS tradingsymbol,
       i.exchange,
       CASE WHEN s.status = 'active' THEN s.segment
            ELSE coalesce(i.segment, s.segment) END AS segment,
       CASE WHEN s.status = 'active' OR p.account_id IS NOT NULL THEN 'active' ELSE 'inactive' END
           AS status,
       CASE WHEN s.status = 'active' THEN s.state ELSE p.state END AS state,
       nullif(CASE WHEN s.status = 'active' THEN s.state_reason ELSE p.state_reason END, '')
           AS state_reason,
       CASE WHEN s.status = 'active' THEN s.state_at ELSE p.state_at END AS state_at,
       CASE WHEN s.status = 'active' OR p.account_id IS NULL THEN s.requested_mode
            ELSE upper(p.mode) END AS requested_mode,
       upper(p.mode) AS streamed_mode,
       coalesce(p.account_id, s.account_id) AS account_id,
       s.account_id AS pinned_account_id,
       p.home_account_id,
       i.underlying, i.kind, i.expiry, i.strike, i.option_type,
       CASE WHEN s.status = 'active' THEN 'explicit' ELSE coalesce(p.reason, 'explicit') END
           AS origin,
       coalesce(c.full_claims, 0) AS full_claims,
       coalesce(c.quote_claims, 0) AS quote_claims,
       coalesce(c.ltp_claims, 0) AS ltp_claims,
       coalesce(s.created_at, p.planned_at) AS created_at,
       coalesce(s.updated_at, p.planned_at) AS updated_at,
       p.planned_at
FROM plan_entries p
FULL JOIN instrument_subscriptions s USING (instrument_token)
LEFT JOIN instruments i USING (instrument_token)
LEFT JOIN (
    SELECT instrument_token,
           count(*) FILTER (WHERE mode = 'FULL') AS full_claims,
           count(*) FILTER (WHERE mode = 'QUOTE') AS quote_claims,
           count(*) FILTER (WHERE mode = 'LTP') AS ltp_claims
    FROM subscription_claims GROUP BY instrument_token
) c USING (instrument_token)
"""
_CLAIMED_BY = "SELECT instrument_token FROM subscription_claims WHERE subscriber ="
_ORDER = "ORDER BY underlying, expiry NULLS FIRST, strike, instrument_token"


class SubscriptionFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which subscriptions are wanted; None means any.

    Attributes:
        state: `pending`, `live`, `no_data` or `rejected`.
        status: `active` or `inactive`.
        requested_mode: `FULL`, `QUOTE` or `LTP`.
        account_id: Who streams it, or to whom it is pinned.
        underlying: Exact name.
        expiry: Exact day.
        kind: `option`, `future`, `index` or `equity`.
        segment: Exact name.
        origin: `explicit`, `window` or `priced_with`.
        subscriber: Claimed by this one.
        limit: Rows at most.
        offset: Rows to skip.
    """

    state: str | None = None
    status: str | None = None
    requested_mode: str | None = None
    account_id: str | None = None
    underlying: str | None = None
    expiry: date | None = None
    kind: str | None = None
    segment: str | None = None
    origin: str | None = None
    subscriber: str | None = None
    limit: int
    offset: int


_EXACT = (
    "state",
    "status",
    "requested_mode",
    "account_id",
    "underlying",
    "expiry",
    "kind",
    "segment",
    "origin",
)


class Subscriptions:
    """Claims and lists; each call raises CatalogUnavailableError when PostgreSQL does not answer.

    Every change is one transaction: claims and the row that sums them up agree for every reader.

    Args:
        database: PostgreSQL.
        is_account: Whether an account of this name exists.
    """

    def __init__(self, database: Database, is_account: Callable[[str], bool]) -> None:
        self._database = database
        self._is_account = is_account

    async def subscribe(self, claims: Sequence[Claim]) -> list[Outcome]:
        """Hold the claims; those that cannot stand are refused one by one.

        Returns:
            One outcome per claim, in their order.
        """
        async with self._transaction() as connection:
            registry = await _registry(connection, claims)
            found = (registry.find(claim) for claim in claims)
            known = {item.instrument_token: item for item in found if item is not None}
            accepted = accept(claims, registry, pins=(), is_account=self._is_account)
            held = sorted({row.instrument_token for row in accepted.rows})
            if held:
                await connection.execute(
                    _LOCK_OR_MAKE,
                    held,
                    [known[token].tradingsymbol for token in held],
                    [known[token].segment for token in held],
                )
                await connection.execute(_DROP_CLAIMS_OF_OLD_CONTRACTS, held)
            # Pins are read under the locks: nobody can add one meanwhile.
            pins = await connection.fetch(_PINS, held)
            accepted = accept(
                claims,
                registry,
                pins=[tuple(pin) for pin in pins],
                is_account=self._is_account,
            )
            added, moved = await _hold(connection, accepted)
            await connection.execute(_AGGREGATE, held, True)
        return _subscribed(accepted, len(claims), known, added, moved)

    async def unsubscribe(self, withdrawals: Sequence[Withdrawal]) -> list[Outcome]:
        """Drop the claims; what nobody claims any more becomes inactive.

        What was never claimed is `unchanged`: the wish is fulfilled.

        Returns:
            One outcome per withdrawal, in their order.
        """
        async with self._transaction() as connection:
            # By symbol only: what left the instruments must stay removable by its token.
            registry = await _registry(
                connection, [item for item in withdrawals if item.instrument_token is None]
            )
            tokens = [
                item.instrument_token
                if item.instrument_token is not None
                else known.instrument_token
                if (known := registry.find(item)) is not None
                else None
                for item in withdrawals
            ]
            wanted = sorted({token for token in tokens if token is not None})
            rows = await connection.fetch(_LOCK, wanted)
            symbols = {row["instrument_token"]: row["tradingsymbol"] for row in rows}
            pairs = [
                (token, item)
                for token, item in zip(tokens, withdrawals, strict=True)
                if token is not None
            ]
            gone = await connection.fetch(
                _WITHDRAW,
                [token for token, _ in pairs],
                [None if i.requested_mode is None else i.requested_mode.value for _, i in pairs],
                [item.subscriber for _, item in pairs],
            )
            await connection.execute(_AGGREGATE, list(symbols), False)
        left: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for row in gone:
            left[row["instrument_token"]].append((row["mode"], row["subscriber"]))
        return [
            _unsubscribed(index, item, token, symbols, left)
            for index, (item, token) in enumerate(zip(withdrawals, tokens, strict=True))
        ]

    async def get(self, instrument_token: int) -> dict[str, Any] | None:
        """One subscription or planned instrument; None when it is neither."""
        rows = await self._fetch(
            f"SELECT * FROM ({_LIST}) l WHERE instrument_token = $1",  # noqa: S608
            instrument_token,
        )
        return _item(rows[0]) if rows else None

    async def page(self, wanted: SubscriptionFilter) -> Page:
        """What streams and what was subscribed, by underlying, expiry, strike."""
        conditions, values = [], []
        for column in _EXACT:
            value = getattr(wanted, column)
            if value is not None:
                values.append(value)
                conditions.append(f"{column} = ${len(values)}")
        if wanted.subscriber is not None:
            values.append(wanted.subscriber)
            conditions.append(f"instrument_token IN ({_CLAIMED_BY} ${len(values)})")
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        # One statement, so that page and total belong together; the outer join keeps the total
        # when the page lies beyond the end. Every fragment is a constant of this module: values
        # travel as parameters only.
        query = f"""
            WITH wanted AS MATERIALIZED (
                     SELECT l.*, row_number() OVER ({_ORDER}) AS place FROM ({_LIST}) l {where}),
                 page AS (SELECT * FROM wanted ORDER BY place
                          LIMIT ${len(values) + 1} OFFSET ${len(values) + 2})
            SELECT c.total, page.* FROM (SELECT count(*) AS total FROM wanted) c
            LEFT JOIN page ON true ORDER BY page.place
        """  # noqa: S608
        rows = await self._fetch(query, *values, wanted.limit, wanted.offset)
        total = int(rows[0].pop("total"))
        for row in rows[1:]:
            del row["total"]
        return Page(items=[_item(row) for row in rows if row.pop("place") is not None], total=total)

    async def _fetch(self, query: str, *values: Any) -> list[dict[str, Any]]:
        async with self._acquired() as connection:
            return [dict(row) for row in await connection.fetch(query, *values)]

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        async with self._acquired() as connection, connection.transaction():
            yield connection

    @contextlib.asynccontextmanager
    async def _acquired(self) -> AsyncIterator[Connection]:
        try:
            async with self._database.acquire() as connection:
                yield connection
        except DatabaseUnavailableError as error:
            raise CatalogUnavailableError(error.reason) from error
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
            raise CatalogUnavailableError(f"the schema is not there yet ({error})") from error


async def _registry(connection: Connection, items: Sequence[Claim | Withdrawal]) -> Registry:
    """Read what today's instruments say of those that a request names.

    Raises:
        NoInstrumentsError: None have been loaded yet, so nothing can be judged.
    """
    tokens = {i.instrument_token for i in items if i.instrument_token is not None}
    symbols = {(i.exchange, i.tradingsymbol) for i in items if i.instrument_token is None}
    by_token = await connection.fetch(_FIND_BY_NUMBER, sorted(tokens)) if tokens else []
    by_symbol = (
        await connection.fetch(_FIND_BY_SYMBOL, *map(list, zip(*symbols, strict=True)))
        if symbols
        else []
    )
    if (
        items
        and not by_token
        and not by_symbol
        and not await connection.fetchval("SELECT EXISTS (SELECT FROM instruments)")
    ):
        raise NoInstrumentsError
    return Registry(
        by_token={row["instrument_token"]: Known(**row) for row in by_token},
        by_symbol={(row["exchange"], row["tradingsymbol"]): Known(**row) for row in by_symbol},
    )


async def _hold(
    connection: Connection, accepted: Accepted
) -> tuple[set[tuple[int, str, str]], set[tuple[int, str]]]:
    """Write claims and pins; gives the claims that are new and the subscribers whose pin moved."""
    rows = accepted.rows
    if not rows:
        return set(), set()
    tokens = [row.instrument_token for row in rows]
    subscribers = [row.subscriber for row in rows]
    accounts = [row.account for row in rows]
    added = await connection.fetch(
        _CLAIM, tokens, [row.mode.value for row in rows], subscribers, accounts
    )
    moved = await connection.fetch(_PIN, tokens, subscribers, accounts)
    return {tuple(row) for row in added}, {tuple(row) for row in moved}


def _subscribed(
    accepted: Accepted,
    count: int,
    known: Mapping[int, Known],
    added: set[tuple[int, str, str]],
    moved: set[tuple[int, str]],
) -> list[Outcome]:
    outcomes = dict(accepted.outcomes)
    for index, (token, mode, subscriber) in accepted.places.items():
        key = (token, mode.value, subscriber)
        if key in added:
            kind = OutcomeKind.SUBSCRIBED
            added.discard(key)  # The same claim once more in one request changes nothing.
        elif (token, subscriber) in moved:
            kind = OutcomeKind.UPDATED
        else:
            kind = OutcomeKind.UNCHANGED
        outcomes[index] = Outcome(
            index=index,
            instrument_token=token,
            tradingsymbol=known[token].tradingsymbol,
            outcome=kind,
        )
    return [outcomes[index] for index in range(count)]


def _unsubscribed(
    index: int,
    item: Withdrawal,
    token: int | None,
    symbols: Mapping[int, str],
    gone: Mapping[int, Sequence[tuple[str, str]]],
) -> Outcome:
    touched = token is not None and any(
        item.requested_mode in (None, mode) and item.subscriber in (EVERYBODY, subscriber)
        for mode, subscriber in gone.get(token, ())
    )
    return Outcome(
        index=index,
        instrument_token=token,
        tradingsymbol=item.tradingsymbol if token is None else symbols.get(token),
        outcome=OutcomeKind.UNSUBSCRIBED if touched else OutcomeKind.UNCHANGED,
    )


def _item(row: dict[str, Any]) -> dict[str, Any]:
    row["claims"] = {
        "FULL": row.pop("full_claims"),
        "QUOTE": row.pop("quote_claims"),
        "LTP": row.pop("ltp_claims"),
    }
    return row
