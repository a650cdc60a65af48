"""Explicit subscriptions as control sees them: reads the wishes, writes how they fare."""

from collections.abc import Iterable, Mapping

import msgspec

from libs.common import logs
from libs.common.bus.kv import Mirror
from libs.common.contracts import codec
from libs.common.contracts.messages import FeedCoverage, StreamMode
from libs.common.database import Database, DatabaseUnavailableError
from services.control import metrics
from services.control.domain.subscriptions import Condition, Coverage, State, Subscription

_READ = """
SELECT instrument_token, tradingsymbol, segment, requested_mode, account_id, state, state_reason
FROM instrument_subscriptions
WHERE status = 'active'
"""
# Rows are locked in the order of their tokens, as the gateway does: whoever comes second waits, and
# nobody waits in a circle.
_WRITE = """
WITH found AS (
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[])
        AS f (instrument_token, state, state_reason)
), locked AS (
    SELECT t.instrument_token
    FROM {table} t JOIN found USING (instrument_token)
    WHERE {condition}
    ORDER BY t.instrument_token
    FOR NO KEY UPDATE OF t
)
UPDATE {table} t
SET state = f.state,
    state_reason = f.state_reason,
    state_at = CASE WHEN t.state = f.state THEN t.state_at ELSE now() END
FROM found f JOIN locked USING (instrument_token)
WHERE t.instrument_token = f.instrument_token
  AND (t.state, t.state_reason) IS DISTINCT FROM (f.state, f.state_reason)
"""
_WRITE_SUBSCRIPTIONS = _WRITE.format(
    table="instrument_subscriptions", condition="t.status = 'active'"
)
_WRITE_ENTRIES = _WRITE.format(table="plan_entries", condition="true")

log = logs.get_logger(__name__)


class SubscriptionStates:
    """What people subscribed, and the state of each subscription and plan entry.

    Args:
        database: PostgreSQL.

    Attributes:
        known: Whether the subscriptions have been read at least once.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows: dict[int, Subscription] = {}
        self.known = False
        # How the copied plan fares, as the table says it; None when it must be read again.
        self._entries: dict[int, Condition] | None = None

    @property
    def rows(self) -> Iterable[Subscription]:
        """The active subscriptions as they were last read."""
        return self._rows.values()

    async def read(self) -> bool:
        """Read the active subscriptions; the last known ones stay while PostgreSQL is away."""
        try:
            async with self._database.acquire() as connection:
                rows = await connection.fetch(_READ)
        except DatabaseUnavailableError as error:
            log.warning("subscriptions.stale", reason=error.reason)
            return False
        self._rows = {
            row["instrument_token"]: Subscription(
                instrument_token=row["instrument_token"],
                tradingsymbol=row["tradingsymbol"],
                segment=row["segment"],
                mode=StreamMode(row["requested_mode"].lower()),
                account=row["account_id"],
                condition=Condition(State(row["state"]), row["state_reason"]),
            )
            for row in rows
        }
        self.known = True
        return True

    def forget_entries(self) -> None:
        """The copied plan was rewritten: read its states again before judging what differs."""
        self._entries = None

    async def write(
        self, subscriptions: Mapping[int, Condition], entries: Mapping[int, Condition]
    ) -> int:
        """Write the states that differ from what the tables say; gives how many.

        Args:
            subscriptions: Conditions of explicit subscriptions.
            entries: Conditions of plan entries.

        Raises:
            DatabaseUnavailableError: If PostgreSQL is away; the next call writes what was missed.
        """
        changed = {
            token: condition
            for token, condition in subscriptions.items()
            if token in self._rows and self._rows[token].condition != condition
        }
        if self._entries is not None and not changed and not self._differing(entries):
            return 0
        async with self._database.acquire() as connection:
            if self._entries is None:
                rows = await connection.fetch(
                    "SELECT instrument_token, state, state_reason FROM plan_entries"
                )
                self._entries = {
                    row["instrument_token"]: Condition(State(row["state"]), row["state_reason"])
                    for row in rows
                }
            planned = self._differing(entries)
            for statement, conditions in (
                (_WRITE_SUBSCRIPTIONS, changed),
                (_WRITE_ENTRIES, planned),
            ):
                if conditions:
                    await connection.execute(
                        statement,
                        list(conditions),
                        [condition.state.value for condition in conditions.values()],
                        [condition.reason for condition in conditions.values()],
                    )
        for token, condition in changed.items():
            row = self._rows.get(token)
            if row is not None:
                self._rows[token] = msgspec.structs.replace(row, condition=condition)
        if self._entries is not None:
            self._entries.update(planned)
        written = len(changed) + len(planned)
        metrics.STATES_WRITTEN_TOTAL.inc(written)
        return written

    def _differing(self, entries: Mapping[int, Condition]) -> dict[int, Condition]:
        held = self._entries or {}
        return {
            token: condition
            for token, condition in entries.items()
            if token in held and held[token] != condition
        }


class CoverageBook:
    """The newest coverage of every account, decoded once.

    Args:
        mirror: Mirror of the bucket `coverage`; it must be running.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._decoded: dict[str, tuple[int, str, Coverage]] = {}
        self._unreadable: dict[str, int] = {}

    def refresh(self) -> bool:
        """Take in what is new; says whether anything is."""
        entries = self._mirror.entries()
        changed = False
        for key in self._decoded.keys() - entries.keys():
            del self._decoded[key]
            changed = True
        for key, entry in entries.items():
            held = self._decoded.get(key)
            if entry.revision in (held and held[0], self._unreadable.get(key)):
                continue
            try:
                message = codec.from_msgpack(FeedCoverage, entry.value)
            except codec.DecodeError as error:
                # What was known before stands; it ends with the entry.
                log.error("coverage.unreadable", key=key, reason=error.reason)
                self._unreadable[key] = entry.revision
                continue
            coverage = Coverage.of(message)
            if held is None or held[2] != coverage:
                changed = True
            self._decoded[key] = (entry.revision, message.account, coverage)
        return changed

    def by_account(self) -> dict[str, Coverage]:
        """Coverage of every account that reports."""
        return {account: coverage for _, account, coverage in self._decoded.values()}
