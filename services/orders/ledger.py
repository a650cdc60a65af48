"""The ledger in PostgreSQL: what was taken, what may have left, and what became of it.

Each change is one statement, so one transaction and one round trip. A task's `event_count` and the
old states of its requests are compared in it: of two workers that both believe to hold an account
at most one can move a request, and only who has moved it to `sending` sends it.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import asyncpg
import msgspec

from libs.common.contracts import codec
from libs.common.contracts.orders import DeadLetter, OrderCommand, OrderEvent, OrderState
from libs.common.database import Database
from services.orders.domain.intent import Intent, Verb
from services.orders.domain.order_limits import OrderUse
from services.orders.domain.send_budget import PastSend
from services.orders.errors import KeyTakenError, OrderNumberTakenError, StaleTaskError
from services.orders.task import Task, TaskChange, command_values

Record: TypeAlias = asyncpg.Record

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SETTLED: Final = "('complete', 'cancelled', 'rejected', 'failed', 'dead_letter')"

_ACCEPT: Final = """
WITH taken AS (
    INSERT INTO order_tasks (account, task_id, verb, user_name, command, fingerprint, state,
                             stream_sequence, event_count, valid_until, created_at, accepted_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, $9, $10, $11)
    ON CONFLICT (account, task_id) DO NOTHING
    RETURNING 1),
told AS (
    INSERT INTO order_events (account, task_id, seq, kind, state, at, body)
    SELECT $1, $2, 1, 'accepted', $7, $11, $12 FROM taken)
SELECT EXISTS (SELECT 1 FROM taken) AS is_new
"""
_FINGERPRINT: Final = "SELECT fingerprint FROM order_tasks WHERE account = $1 AND task_id = $2"
_INTENT_COLUMNS: Final = (
    "tag, account, task_id, leg, verb, state, exchange, tradingsymbol, parameters, quantity, "
    "attempts, order_id, status, status_message, filled_quantity, average_price, code, message, "
    "replaces, sent_at, settled_at, updated_at"
)
_APPLY: Final = f"""
WITH given AS (SELECT * FROM jsonb_populate_recordset(NULL::order_intents, $7)),
held AS (
    SELECT i.tag FROM order_intents i
    JOIN jsonb_to_recordset($8) AS was(tag text, state text) ON i.tag = was.tag
    WHERE i.state = was.state
    FOR UPDATE OF i),
task AS (
    UPDATE order_tasks
    SET state = $4, code = $5, message = $6, updated_at = now(),
        event_count = event_count + jsonb_array_length($9)
    WHERE account = $1 AND task_id = $2 AND event_count = $3
      AND (SELECT count(*) FROM held) = jsonb_array_length($8)
    RETURNING 1),
written AS (
    INSERT INTO order_intents ({_INTENT_COLUMNS})
    SELECT {", ".join("g." + name for name in _INTENT_COLUMNS.split(", "))} FROM given g, task
    ON CONFLICT (tag) DO UPDATE
    SET state = EXCLUDED.state, parameters = EXCLUDED.parameters, quantity = EXCLUDED.quantity,
        attempts = EXCLUDED.attempts, order_id = EXCLUDED.order_id, status = EXCLUDED.status,
        status_message = EXCLUDED.status_message, filled_quantity = EXCLUDED.filled_quantity,
        average_price = EXCLUDED.average_price, code = EXCLUDED.code,
        message = EXCLUDED.message, sent_at = EXCLUDED.sent_at,
        settled_at = EXCLUDED.settled_at, updated_at = EXCLUDED.updated_at
    WHERE order_intents.account = EXCLUDED.account
      AND order_intents.task_id = EXCLUDED.task_id),
told AS (
    INSERT INTO order_events (account, task_id, seq, kind, state, leg, tag, at, body)
    SELECT $1, $2, e.seq, e.kind, e.state, e.leg, e.tag, e.at, e.body
    FROM jsonb_to_recordset($9) AS
         e(seq integer, kind text, state text, leg integer, tag text, at timestamptz, body jsonb),
         task)
SELECT EXISTS (SELECT 1 FROM task)
"""  # noqa: S608  # Every fragment is a constant.
_EVENT: Final = "SELECT body FROM order_events WHERE account = $1 AND task_id = $2 AND seq = $3"
_TASKS: Final = """
SELECT command, fingerprint, state, code, message, stream_sequence, event_count, valid_until,
       accepted_at, account, task_id
FROM order_tasks WHERE """
_UNSETTLED: Final = f"""{_TASKS} account = $1 AND (state NOT IN {_SETTLED} OR EXISTS (
    SELECT 1 FROM order_intents i WHERE i.account = $1 AND i.task_id = order_tasks.task_id
    AND i.state NOT IN {_SETTLED}))
ORDER BY stream_sequence
"""  # noqa: S608
_UNSETTLED_KEYS: Final = f"""
SELECT task_id FROM order_tasks WHERE account = $1 AND state NOT IN {_SETTLED}
"""  # noqa: S608
_BY_KEYS: Final = _TASKS + "account = $1 AND task_id = ANY($2)"
_INTENTS_OF: Final = f"""
SELECT {_INTENT_COLUMNS} FROM order_intents WHERE account = $1 AND task_id = ANY($2)
ORDER BY task_id, leg
"""  # noqa: S608
_OWNERS_OF_TAGS: Final = "SELECT task_id FROM order_intents WHERE account = $1 AND tag = ANY($2)"
_OWNERS_OF_NUMBERS: Final = """
SELECT task_id FROM order_intents WHERE account = $1 AND verb = 'place' AND order_id = ANY($2)
"""
_SENDS: Final = """
SELECT e.at, i.verb, i.order_id, i.parameters FROM order_events e
JOIN order_intents i ON i.tag = e.tag
WHERE e.account = $1 AND e.kind = 'sending' AND e.at >= $2 ORDER BY e.at
"""
_SENDERS: Final = """
SELECT t.user_name FROM order_events e
JOIN order_intents i ON i.tag = e.tag AND i.verb = 'place'
JOIN order_tasks t ON t.account = i.account AND t.task_id = i.task_id
WHERE e.account = $1 AND e.kind = 'sending' AND e.at >= $2
"""
_ELSEWHERE: Final = f"""
SELECT count(*) FILTER (WHERE i.state NOT IN {_SETTLED} OR i.attempts > 0) AS today,
       count(*) FILTER (WHERE i.state NOT IN {_SETTLED}) AS open
FROM order_tasks t JOIN order_intents i ON i.account = t.account AND i.task_id = t.task_id
WHERE t.user_name = $1 AND t.account <> $2 AND t.accepted_at >= $3 AND i.verb = 'place'
"""  # noqa: S608
_RECENT: Final = _TASKS + "account = $1 AND verb = 'place' AND accepted_at >= $2"
# By time, but never against the numbers of a task: two workers' clocks may have written it.
_UNPUBLISHED: Final = """
SELECT body FROM order_events WHERE account = $1 AND NOT is_published
ORDER BY max(at) OVER (PARTITION BY task_id ORDER BY seq), task_id, seq LIMIT $2
"""
_PUBLISHED: Final = """
UPDATE order_events e SET is_published = true
FROM unnest($2::text[], $3::integer[]) AS done(task_id, seq)
WHERE e.account = $1 AND e.task_id = done.task_id AND e.seq = done.seq
"""
_BURY: Final = """
INSERT INTO order_dead_letters
    (account, task_id, stream_sequence, code, message, field, command, at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (account, stream_sequence) DO NOTHING
"""


class Ledger:
    """Reads and writes the ledger. All calls raise DatabaseUnavailableError while it is away.

    A write that raised so may have taken effect; `accept` and `apply` can be called again with the
    same values and then say what is true.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def accept(self, task: Task, accepted: OrderEvent) -> bool:
        """Take a command.

        Args:
            task: With nothing in it yet but its command.
            accepted: The first event of its history.

        Returns:
            Whether it is new; False when the same command was taken before.

        Raises:
            KeyTakenError: The key belongs to another command.
        """
        command = task.command
        values = command_values(command)
        async with self._database.acquire() as connection:
            is_new = await connection.fetchval(
                _ACCEPT,
                task.account,
                task.task_id,
                values["verb"],
                command.user,
                _json(values),
                task.fingerprint,
                task.state.value,
                task.stream_sequence,
                _moment(task.valid_until_ns),
                _moment(command.created_at_ns),
                _moment(task.accepted_at_ns),
                codec.to_json(accepted).decode(),
            )
            if is_new:
                return True
            # One that another worker took at this very moment was not visible to the statement.
            known = await connection.fetchval(_FINGERPRINT, task.account, task.task_id)
        if known != task.fingerprint:
            raise KeyTakenError(task.account, task.task_id)
        return False

    async def apply(self, task: Task, change: TaskChange, *, again: bool = False) -> None:
        """Write a change of a task whose memory is as the ledger was.

        Args:
            task: The task.
            change: What is written.
            again: Whether an earlier call with this very change ended without an answer. Only then
                a ledger that holds its last event is taken for its success: whoever moved a
                request to `sending` sends it, so two must never both believe that they did.

        Raises:
            StaleTaskError: Somebody else has changed the task; nothing was written.
            OrderNumberTakenError: The broker's number belongs to another request; nothing was
                written.
        """
        known = [(old, new) for new in change.intents if (old := task.intent(new.leg))]
        now = datetime.now(UTC)
        try:
            async with self._database.acquire() as connection:
                done = await connection.fetchval(
                    _APPLY,
                    task.account,
                    task.task_id,
                    task.event_count,
                    change.state.value,
                    change.code,
                    change.message,
                    _json([_intent_row(intent, now) for intent in change.intents]),
                    _json([{"tag": old.tag, "state": old.state.value} for old, _ in known]),
                    _json([_event_row(event) for event in change.events]),
                )
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name == "order_intents_order":
                raise OrderNumberTakenError(task.account, error.detail or str(error)) from error
            raise
        if not done and not (again and await self._is_written(change.events)):
            raise StaleTaskError(task.account, task.task_id)

    async def _is_written(self, events: Sequence[OrderEvent]) -> bool:
        """Whether it was this very change that a call without an answer has written before."""
        if not events:
            return False
        last = events[-1]
        async with self._database.acquire() as connection:
            body = await connection.fetchval(_EVENT, last.account, last.task_id, last.seq)
        return body is not None and codec.from_json(OrderEvent, body.encode()) == last

    async def unsettled(self, account: str) -> list[Task]:
        """The tasks of an account that are not at their end, in the order of their commands."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_UNSETTLED, account)
            return await _tasks(connection, account, rows)

    async def unsettled_keys(self, account: str) -> set[str]:
        """The keys of the tasks that are not at their end."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_UNSETTLED_KEYS, account)
        return {row["task_id"] for row in rows}

    async def tasks(self, account: str, task_ids: Iterable[str]) -> list[Task]:
        """These tasks, those that exist."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_BY_KEYS, account, list(task_ids))
            return await _tasks(connection, account, rows)

    async def owners(
        self, account: str, *, tags: Iterable[str] = (), order_ids: Iterable[str] = ()
    ) -> set[str]:
        """The keys of the tasks whose requests carry one of these tags or numbers."""
        found: set[str] = set()
        async with self._database.acquire() as connection:
            for query, wanted in ((_OWNERS_OF_TAGS, tags), (_OWNERS_OF_NUMBERS, order_ids)):
                if names := list(wanted):
                    rows = await connection.fetch(query, account, names)
                    found.update(row["task_id"] for row in rows)
        return found

    async def sends(self, account: str, since_ns: int) -> list[PastSend]:
        """What left for an account since then, or may have."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_SENDS, account, _moment(since_ns))
        return [
            PastSend(
                at_ns=_ns(row["at"]) or 0,
                verb=Verb(row["verb"]),
                order_id=row["order_id"] if row["verb"] != Verb.PLACE else None,
                units=int(msgspec.json.decode(row["parameters"]).get("iceberg_legs") or 1),
            )
            for row in rows
        ]

    async def senders(self, account: str, since_ns: int) -> list[str]:
        """The user of each placement that left for an account since then."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_SENDERS, account, _moment(since_ns))
        return [row["user_name"] for row in rows]

    async def use_elsewhere(self, user: str, account: str, since_ns: int) -> OrderUse:
        """What a user has ordered since then for all accounts but this one."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(_ELSEWHERE, user, account, _moment(since_ns))
        return OrderUse(orders_today=row["today"], open_orders=row["open"]) if row else OrderUse()

    async def placed_since(self, account: str, since_ns: int) -> list[Task]:
        """The placements of an account taken since then, settled ones too."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_RECENT, account, _moment(since_ns))
            return await _tasks(connection, account, rows)

    async def unpublished(self, account: str, limit: int) -> list[OrderEvent]:
        """Events that nobody may have been told of yet, oldest first."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_UNPUBLISHED, account, limit)
        return [codec.from_json(OrderEvent, row["body"].encode()) for row in rows]

    async def note_published(self, account: str, events: Sequence[OrderEvent]) -> None:
        """Remember that these events were told."""
        async with self._database.acquire() as connection:
            await connection.execute(
                _PUBLISHED,
                account,
                [event.task_id for event in events],
                [event.seq for event in events],
            )

    async def bury(self, letter: DeadLetter, stream_sequence: int) -> None:
        """Keep a command that will not be carried out; again changes nothing."""
        async with self._database.acquire() as connection:
            await connection.execute(
                _BURY,
                letter.account,
                letter.task_id,
                stream_sequence,
                letter.code,
                letter.message,
                letter.field,
                letter.command,
                _moment(letter.at_ns),
            )


async def _tasks(
    connection: "asyncpg.pool.PoolConnectionProxy[Record]", account: str, rows: Sequence[Record]
) -> list[Task]:
    keys = [row["task_id"] for row in rows]
    ends = {row["task_id"]: _ns(row["valid_until"]) for row in rows}
    intents: dict[str, list[Intent]] = {}
    for row in await connection.fetch(_INTENTS_OF, account, keys) if keys else ():
        intents.setdefault(row["task_id"], []).append(_intent(row, ends[row["task_id"]]))
    return [
        Task(
            _command(row["command"]),
            fingerprint=row["fingerprint"],
            stream_sequence=row["stream_sequence"],
            accepted_at_ns=_ns(row["accepted_at"]) or 0,
            state=OrderState(row["state"]),
            code=row["code"],
            message=row["message"],
            event_count=row["event_count"],
            valid_until_ns=ends[row["task_id"]],
            intents=intents.get(row["task_id"], ()),
        )
        for row in rows
    ]


def _command(text: str) -> OrderCommand:
    command: OrderCommand = msgspec.json.decode(text, type=OrderCommand)
    return command


def _intent(row: Record, valid_until_ns: int | None) -> Intent:
    return Intent(
        tag=row["tag"],
        account=row["account"],
        task_id=row["task_id"],
        leg=row["leg"],
        verb=Verb(row["verb"]),
        state=OrderState(row["state"]),
        exchange=row["exchange"],
        tradingsymbol=row["tradingsymbol"],
        parameters=msgspec.json.decode(row["parameters"]),
        quantity=row["quantity"],
        attempts=row["attempts"],
        order_id=row["order_id"],
        status=row["status"],
        status_message=row["status_message"],
        filled_quantity=row["filled_quantity"],
        average_price=row["average_price"],
        code=row["code"],
        message=row["message"],
        replaces=row["replaces"],
        sent_at_ns=_ns(row["sent_at"]),
        settled_at_ns=_ns(row["settled_at"]),
        # The end of the command says nothing about what a person decided to send again later.
        valid_until_ns=valid_until_ns if row["replaces"] is None else None,
    )


def _intent_row(intent: Intent, now: datetime) -> Mapping[str, Any]:
    return {
        "tag": intent.tag,
        "account": intent.account,
        "task_id": intent.task_id,
        "leg": intent.leg,
        "verb": intent.verb.value,
        "state": intent.state.value,
        "exchange": intent.exchange,
        "tradingsymbol": intent.tradingsymbol,
        "parameters": intent.parameters,
        "quantity": intent.quantity,
        "attempts": intent.attempts,
        "order_id": intent.order_id,
        "status": intent.status,
        "status_message": intent.status_message,
        "filled_quantity": intent.filled_quantity,
        "average_price": intent.average_price,
        "code": intent.code,
        "message": intent.message,
        "replaces": intent.replaces,
        "sent_at": _moment(intent.sent_at_ns),
        "settled_at": _moment(intent.settled_at_ns),
        "updated_at": now,
    }


def _event_row(event: OrderEvent) -> Mapping[str, Any]:
    return {
        "seq": event.seq,
        "kind": event.kind,
        "state": event.state.value,
        "leg": event.leg,
        "tag": event.tag,
        "at": _moment(event.at_ns),
        "body": event,
    }


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _moment(at_ns: int | None) -> datetime | None:
    """Epoch ns as PostgreSQL keeps it, which is to the microsecond."""
    return None if at_ns is None else _EPOCH + timedelta(microseconds=at_ns // 1_000)


def _ns(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - _EPOCH) // timedelta(microseconds=1) * 1_000
