"""Reads the ledger of orders from PostgreSQL: tasks, their history, and the broker's word."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import asyncpg
import orjson

from libs.common.database import Database, DatabaseUnavailableError
from libs.common.domain.order_states import TERMINAL, UNCERTAIN, predecessor_state
from services.gateway.catalog import Page
from services.gateway.domain.order_requests import (
    OrderFilter,
    OrderPosition,
    TradeFilter,
    cursor_of,
)
from services.gateway.errors import AmbiguousTaskError, CatalogUnavailableError

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
Row: TypeAlias = dict[str, Any]

_TASK: Final = """
SELECT account, task_id, verb, user_name, state, code, message, command::text, fingerprint,
       event_count, valid_until, created_at, accepted_at, updated_at
FROM order_tasks t
"""
_INTENT_COLUMNS: Final = (
    "i.account, i.task_id, i.leg, i.tag, i.verb, i.state, i.exchange, i.tradingsymbol, "
    "i.quantity, i.attempts, i.order_id, i.status, i.status_message, i.filled_quantity, "
    "i.average_price, i.code, i.message, i.replaces, i.sent_at, i.settled_at, i.updated_at"
)
_INTENTS: Final = f"""
SELECT {_INTENT_COLUMNS}, i.parameters::text
FROM order_intents i
JOIN unnest($1::text[], $2::text[]) AS asked (account, task_id) USING (account, task_id)
ORDER BY i.account, i.task_id, i.leg
"""  # noqa: S608  # Constants only.
_EVENTS: Final = """
SELECT body::text, is_published FROM order_events
WHERE account = $1 AND task_id = $2 ORDER BY seq
"""
_UNKNOWN: Final = f"""
SELECT {_INTENT_COLUMNS}, i.parameters::text,
       (SELECT e.body::text FROM order_events e
        WHERE e.account = i.account AND e.task_id = i.task_id
          AND (e.tag = i.tag OR e.tag IS NULL)
        ORDER BY e.seq DESC LIMIT 1) AS last_event
FROM order_intents i
WHERE i.state = ANY ($1::text[]) AND ($2::text IS NULL OR i.account = $2)
ORDER BY i.sent_at NULLS FIRST, i.tag LIMIT $3
"""  # noqa: S608  # As above.
# Commands that never became a task, and tasks that used their attempts up: both wait for a person.
_DEAD: Final = """
WITH dead AS (
    SELECT 'command' AS kind, account, task_id, code, message, field, command, at
    FROM order_dead_letters
    UNION ALL
    SELECT 'task', account, task_id, code, message, NULL, command::text, updated_at
    FROM order_tasks WHERE state = 'dead_letter'
)
SELECT *, count(*) OVER () AS total FROM dead
WHERE $1::text IS NULL OR account = $1
ORDER BY at DESC, account, task_id LIMIT $2
"""
_MAY_BE_OPEN: Final = """
SELECT task_id FROM order_tasks
WHERE account = $1 AND verb = 'place' AND state <> ALL ($2::text[])
ORDER BY stream_sequence
"""
_TRADES: Final = """
SELECT account, day, at, body::text, count(*) OVER () AS total FROM broker_trades
WHERE ($1::text IS NULL OR account = $1)
  AND ($2::date IS NULL OR day = $2)
  AND ($3::text IS NULL OR order_id = $3)
ORDER BY at DESC, account, trade_id LIMIT $4
"""
_SNAPSHOTS: Final = """
SELECT account, taken_at, body::text FROM broker_snapshots
WHERE kind = $1 AND ($2::text IS NULL OR account = $2) ORDER BY account
"""


class OrderBook:
    """Read-only queries; each raises CatalogUnavailableError when PostgreSQL does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, account: str, task_id: str) -> Row | None:
        """One task with its requests, as lists show it; None when the ledger has none.

        `fingerprint` is added, which no answer shows.
        """
        async with self._reading() as connection:
            row = await connection.fetchrow(
                f"{_TASK} WHERE account = $1 AND task_id = $2", account, task_id
            )
            if row is None:
                return None
            requests = await self._requests(connection, [row])
        return {**_task(row, requests), "fingerprint": row["fingerprint"]}

    async def task(self, task_id: str, account: str | None) -> Row | None:
        """One task with its requests and its whole history; None when the ledger has none.

        Raises:
            AmbiguousTaskError: Several accounts have one, and none was named.
        """
        async with self._snapshot() as connection:
            rows = await connection.fetch(
                f"{_TASK} WHERE task_id = $1 AND ($2::text IS NULL OR account = $2) "
                "ORDER BY account",
                task_id,
                account,
            )
            if not rows:
                return None
            if len(rows) > 1:
                raise AmbiguousTaskError(task_id, tuple(row["account"] for row in rows))
            [row] = rows
            requests = await self._requests(connection, rows)
            events = await connection.fetch(_EVENTS, row["account"], task_id)
        found = _task(row, requests)
        found["events"] = [orjson.loads(event["body"]) for event in events]
        return found

    async def tasks(self, wanted: OrderFilter) -> tuple[list[Row], str | None]:
        """Tasks, newest first, and the cursor of the next page if there is one."""
        clauses, values = _conditions(wanted)
        where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
        async with self._snapshot() as connection:
            # Every fragment is a constant: values travel as parameters only. One row more tells
            # whether there is another page.
            rows = await connection.fetch(
                f"{_TASK} {where} ORDER BY t.accepted_at DESC, t.account DESC, t.task_id DESC "
                f"LIMIT ${len(values) + 1}",
                *values,
                wanted.limit + 1,
            )
            page = rows[: wanted.limit]
            requests = await self._requests(connection, page)
        last = page[-1] if len(rows) > wanted.limit else None
        cursor = (
            None
            if last is None
            else cursor_of(
                OrderPosition(
                    accepted_at=last["accepted_at"],
                    account=last["account"],
                    task_id=last["task_id"],
                )
            )
        )
        return [_task(row, requests) for row in page], cursor

    async def unknown(self, account: str | None, limit: int) -> Page:
        """Requests whose outcome nobody knows, oldest first, with what was seen last."""
        async with self._reading() as connection:
            rows = await connection.fetch(_UNKNOWN, sorted(UNCERTAIN), account, limit)
        items = []
        for row in rows:
            item = {**_request(row), "account": row["account"], "task_id": row["task_id"]}
            last = row["last_event"]
            item["last_event"] = None if last is None else orjson.loads(last)
            items.append(item)
        return Page(items=items, total=len(items))

    async def dead(self, account: str | None, limit: int) -> Page:
        """Commands that were not and will not be executed, newest first."""
        async with self._reading() as connection:
            rows = await connection.fetch(_DEAD, account, limit)
        return _counted([dict(row) for row in rows])

    async def may_be_open(self, account: str) -> list[str]:
        """Keys of the tasks of an account that placed, or may yet place, an order."""
        async with self._reading() as connection:
            rows = await connection.fetch(_MAY_BE_OPEN, account, sorted(TERMINAL))
        return [row["task_id"] for row in rows]

    async def trades(self, wanted: TradeFilter) -> Page:
        """Trades as the broker told them, newest first."""
        async with self._reading() as connection:
            rows = await connection.fetch(
                _TRADES, wanted.account, wanted.day, wanted.order_id, wanted.limit
            )
        return _counted(
            [
                {
                    **orjson.loads(row["body"]),
                    "account": row["account"],
                    "day": row["day"],
                    "at": row["at"],
                    "total": row["total"],
                }
                for row in rows
            ]
        )

    async def snapshots(self, kind: str, account: str | None) -> Page:
        """The newest positions, holdings or margins of each account, as the broker told them."""
        async with self._reading() as connection:
            rows = await connection.fetch(_SNAPSHOTS, kind, account)
        items = [
            {
                "account": row["account"],
                "taken_at": row["taken_at"],
                kind: orjson.loads(row["body"]),
            }
            for row in rows
        ]
        return Page(items=items, total=len(items))

    async def _requests(
        self, connection: Connection, tasks: Sequence[asyncpg.Record]
    ) -> dict[tuple[str, str], list[Row]]:
        rows = await connection.fetch(
            _INTENTS, [task["account"] for task in tasks], [task["task_id"] for task in tasks]
        )
        found: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in rows:
            found[row["account"], row["task_id"]].append(_request(row))
        return found

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Connection]:
        """Several statements on the same state, whatever is committed meanwhile."""
        async with (
            self._reading() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Connection]:
        try:
            async with self._database.acquire() as connection:
                yield connection
        except DatabaseUnavailableError as error:
            raise CatalogUnavailableError(error.reason) from error
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
            raise CatalogUnavailableError(f"the schema is not there yet ({error})") from error


def _conditions(wanted: OrderFilter) -> tuple[list[str], list[Any]]:
    clauses: list[str] = []
    values: list[Any] = []

    def add(clause: str, *given: Any) -> None:
        numbers = [f"${len(values) + place}" for place in range(1, len(given) + 1)]
        clauses.append(clause.format(*numbers))
        values.extend(given)

    for column, value in (
        ("account", wanted.account),
        ("user_name", wanted.user),
        ("state", wanted.state),
        ("verb", wanted.verb),
    ):
        if value is not None:
            add(f"t.{column} = {{}}", value)
    if wanted.tradingsymbol is not None:
        # Of a change or a cancellation the request knows it, not the command.
        add(
            "(t.command->>'tradingsymbol' = {0} OR EXISTS (SELECT 1 FROM order_intents i "
            "WHERE i.account = t.account AND i.task_id = t.task_id AND i.tradingsymbol = {0}))",
            wanted.tradingsymbol,
        )
    if wanted.since is not None:
        add("t.accepted_at >= {}", wanted.since)
    if wanted.until is not None:
        add("t.accepted_at < {}", wanted.until)
    if wanted.after is not None:
        place = wanted.after
        add(
            "(t.accepted_at, t.account, t.task_id) < ({}, {}, {})",
            place.accepted_at,
            place.account,
            place.task_id,
        )
    return clauses, values


def _task(row: asyncpg.Record, requests: dict[tuple[str, str], list[Row]]) -> Row:
    found = requests.get((row["account"], row["task_id"]), [])
    return {
        "account": row["account"],
        "task_id": row["task_id"],
        "verb": row["verb"],
        "user": row["user_name"],
        "state": row["state"],
        "predecessor_state": predecessor_state(row["state"]),
        "code": row["code"],
        "message": row["message"],
        **totals(found),
        "command": orjson.loads(row["command"]),
        "valid_until": row["valid_until"],
        "created_at": row["created_at"],
        "accepted_at": row["accepted_at"],
        "updated_at": row["updated_at"],
        "requests": found,
    }


def _request(row: asyncpg.Record) -> Row:
    found = dict(row)
    for name in ("account", "task_id", "last_event"):
        found.pop(name, None)
    found["parameters"] = orjson.loads(row["parameters"])
    return found


def totals(requests: Iterable[Row]) -> Row:
    """What a task's requests come to: the broker's number, fills, and their average price."""
    placed = [request for request in requests if request["order_id"] is not None]
    filled = sum(request["filled_quantity"] for request in placed)
    priced = [r for r in placed if r["average_price"] is not None and r["filled_quantity"]]
    paid = sum(request["average_price"] * request["filled_quantity"] for request in priced)
    known = sum(request["filled_quantity"] for request in priced)
    return {
        "order_ids": [request["order_id"] for request in placed],
        "filled_quantity": filled,
        "average_price": paid / known if known else None,
    }


def _counted(rows: list[Row]) -> Page:
    total = rows[0]["total"] if rows else 0
    for row in rows:
        del row["total"]
    return Page(items=rows, total=total)
