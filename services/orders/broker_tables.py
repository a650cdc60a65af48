"""Keeps what the broker says in PostgreSQL, and reads what the ledger says of the same orders."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from libs.common.contracts.orders import OrderState
from libs.common.database import Database
from libs.common.domain.order_answers import FINAL_STATUSES
from services.orders.domain.broker_rows import OrderRow, TradeRow
from services.orders.domain.differences import LedgerOrder

# A row in an end state is not put back by a book that was read before: two processes may overlap
# for a moment when an account changes hands.
_ORDERS = """
INSERT INTO broker_orders AS kept (account, order_id, day, status, tag, body)
SELECT $1, r.order_id, r.day, r.status, r.tag, r.body
FROM unnest($2::text[], $3::date[], $4::text[], $5::text[], $6::jsonb[])
     AS r (order_id, day, status, tag, body)
ON CONFLICT (account, day, order_id) DO UPDATE
SET status = excluded.status, tag = excluded.tag, body = excluded.body, updated_at = now()
WHERE kept.body IS DISTINCT FROM excluded.body
  AND (kept.status <> ALL ($7::text[]) OR excluded.status = ANY ($7::text[]))
"""
_TRADES = """
INSERT INTO broker_trades AS kept (account, trade_id, day, order_id, body, at)
SELECT $1, r.trade_id, r.day, r.order_id, r.body, r.at
FROM unnest($2::text[], $3::date[], $4::text[], $5::jsonb[], $6::timestamptz[])
     AS r (trade_id, day, order_id, body, at)
ON CONFLICT (account, day, trade_id) DO UPDATE
SET order_id = excluded.order_id, body = excluded.body, at = excluded.at
WHERE kept.body IS DISTINCT FROM excluded.body
"""
_SNAPSHOT = """
INSERT INTO broker_snapshots AS kept (account, kind, body, taken_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (account, kind) DO UPDATE SET body = excluded.body, taken_at = excluded.taken_at
WHERE kept.taken_at <= excluded.taken_at
"""
# Three questions with an index each; in one WHERE they would make one scan of the whole ledger.
# The last repeats the words of its index.
_LEDGER = """
WITH found AS (
    SELECT unnest($2::text[]) AS tag
    UNION
    SELECT tag FROM order_intents
    WHERE account = $1 AND order_id = ANY ($3::text[]) AND verb = 'place' AND order_id IS NOT NULL
    UNION
    SELECT tag FROM order_intents
    WHERE account = $1 AND verb = 'place' AND state IN ('acked', 'open')
      AND state NOT IN ('complete', 'cancelled', 'rejected', 'failed', 'dead_letter'))
SELECT i.task_id, i.leg, i.tag, i.state, i.exchange, i.tradingsymbol, i.order_id, i.quantity,
       i.filled_quantity, i.parameters ->> 'transaction_type' AS transaction_type
FROM order_intents i JOIN found USING (tag)
WHERE i.account = $1 AND i.verb = 'place'
ORDER BY i.task_id, i.leg
"""
# What changes that left us asked for, of the last two days: a book shows one.
_CHANGES = """
SELECT i.order_id, i.quantity FROM order_tasks t JOIN order_intents i USING (account, task_id)
WHERE t.account = $1 AND t.accepted_at > now() - interval '2 days' AND t.verb = 'modify'
  AND i.quantity IS NOT NULL AND i.sent_at IS NOT NULL AND i.order_id IS NOT NULL
"""


class BrokerTables:
    """The tables `broker_orders`, `broker_trades` and `broker_snapshots` of one account.

    Every method raises DatabaseUnavailableError while PostgreSQL is away.

    Args:
        database: Where they are.
        account: Whose.
    """

    def __init__(self, database: Database, account: str) -> None:
        self._database = database
        self._account = account

    async def store_book(self, orders: Sequence[OrderRow], trades: Sequence[TradeRow]) -> None:
        """Store a reading of the book as one transaction.

        Args:
            orders: Those that may have changed.
            trades: Those that may be new.
        """
        async with self._database.acquire() as connection, connection.transaction():
            if orders:
                await connection.execute(
                    _ORDERS,
                    self._account,
                    [row.order_id for row in orders],
                    [row.day for row in orders],
                    [row.status for row in orders],
                    [row.tag for row in orders],
                    [_json(row.body) for row in orders],
                    sorted(FINAL_STATUSES),
                )
            if trades:
                await connection.execute(
                    _TRADES,
                    self._account,
                    [row.trade_id for row in trades],
                    [row.day for row in trades],
                    [row.order_id for row in trades],
                    [_json(row.body) for row in trades],
                    [row.at for row in trades],
                )

    async def store_snapshot(self, kind: str, body: Any, taken_at: datetime) -> None:
        """Store what the broker shows now, unless a newer snapshot is there.

        Args:
            kind: `positions`, `holdings` or `margins`.
            body: As the broker sends it.
            taken_at: Aware: when the reading began.
        """
        async with self._database.acquire() as connection:
            await connection.execute(_SNAPSHOT, self._account, kind, _json(body), taken_at)

    async def ledger_orders(
        self, tags: Sequence[str], order_ids: Sequence[str]
    ) -> list[LedgerOrder]:
        """The ledger's requests with one of these tags or numbers, and all that are open."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_LEDGER, self._account, list(tags), list(order_ids))
            changes = await connection.fetch(_CHANGES, self._account)
        changed: dict[str, set[int]] = {}
        for change in changes:
            changed.setdefault(change["order_id"], set()).add(change["quantity"])
        return [
            LedgerOrder(
                task_id=row["task_id"],
                leg=row["leg"],
                tag=row["tag"],
                state=OrderState(row["state"]),
                exchange=row["exchange"] or "",
                tradingsymbol=row["tradingsymbol"] or "",
                transaction_type=row["transaction_type"] or "",
                quantities=frozenset({row["quantity"] or 0, *changed.get(row["order_id"], ())}),
                order_id=row["order_id"],
                filled_quantity=row["filled_quantity"],
            )
            for row in rows
        ]


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
