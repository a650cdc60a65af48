"""Where the plan lives: the key-value store for the data plane, PostgreSQL for people."""

from collections.abc import Collection

import msgspec

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.kv import Bucket, Mirror
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import AccountPlan
from libs.common.database import Database
from services.control.domain import planner

# Rows that did not change are left alone, so that `planned_at` says since when an instrument has
# its place, and a plan of thousands of instruments costs what differs.
_DELETE = """
DELETE FROM plan_entries p
WHERE NOT EXISTS (
    SELECT FROM unnest($1::bigint[]) AS f (instrument_token)
    WHERE f.instrument_token = p.instrument_token
)
"""
_UPSERT = """
INSERT INTO plan_entries AS p
    (instrument_token, account_id, connection, mode, reason, home_account_id, plan_revision)
SELECT f.*, $7::integer
FROM unnest($1::bigint[], $2::text[], $3::integer[], $4::text[], $5::text[], $6::text[])
    AS f (instrument_token, account_id, connection, mode, reason, home_account_id)
ORDER BY f.instrument_token
ON CONFLICT (instrument_token) DO UPDATE
SET account_id = EXCLUDED.account_id,
    connection = EXCLUDED.connection,
    mode = EXCLUDED.mode,
    reason = EXCLUDED.reason,
    home_account_id = EXCLUDED.home_account_id,
    plan_revision = EXCLUDED.plan_revision,
    planned_at = now()
WHERE (p.account_id, p.connection, p.mode, p.reason, p.home_account_id)
    IS DISTINCT FROM (EXCLUDED.account_id, EXCLUDED.connection, EXCLUDED.mode, EXCLUDED.reason,
                      EXCLUDED.home_account_id)
"""

log = logs.get_logger(__name__)


class PlanStore:
    """Reads the last plan; writes the next one where it differs.

    Args:
        bus: The connection.
        database: PostgreSQL.
        plans: Mirror of the bucket `plan`; it must be ready.
    """

    def __init__(self, bus: Bus, database: Database, plans: Mirror) -> None:
        self._bucket = Bucket(bus, streams.PLAN.name)
        self._database = database
        self._held: dict[str, AccountPlan] = {}
        self._copy: _Copy | None = None
        self._saved: _Copy | None = None
        for key, value in plans.items().items():
            try:
                entry = codec.from_json(AccountPlan, value)
            except codec.DecodeError as error:
                log.error("plan.unreadable", key=key, reason=error.reason)
                continue
            self._held[entry.account] = entry
        self._slots = planner.slots_of(self._held)
        self._since = {
            token: self._held[slot.account].revision for token, slot in self._slots.items()
        }

    @property
    def revision(self) -> int:
        """Revision of the newest plan, 0 before the first."""
        return max((entry.revision for entry in self._held.values()), default=0)

    @property
    def slots(self) -> dict[int, planner.Slot]:
        """Where each instrument was put by the last plan, whether or not all of it was written."""
        return self._slots

    @property
    def since(self) -> dict[int, int]:
        """With which revision each instrument came to its account."""
        return self._since

    async def write(
        self, outcome: planner.Plan, accounts: Collection[str], *, planned_at_ns: int
    ) -> bool:
        """Write the entries that differ from what is there; says whether any did.

        Accounts that are no longer configured lose their entry, which ends their feed.

        Raises:
            BusUnavailableError: Some entries may be written; the next call writes the others.
        """
        revision = self.revision + 1
        plans = planner.account_plans(
            outcome, accounts, revision=revision, planned_at_ns=planned_at_ns
        )
        changed = {
            account: entry
            for account, entry in plans.items()
            if account not in self._held or self._held[account].connections != entry.connections
        }
        gone = [account for account in self._held if account not in plans]
        self._remember(outcome, revision)
        # What leaves an account goes first: an instrument that moves is briefly on none of them
        # instead of on two.
        order = sorted(changed, key=lambda a: (changed[a].total - self._total(a), a))
        for account in gone:
            await self._bucket.delete(subjects.escape(account))
            del self._held[account]
        for account in order:
            await self._bucket.put(subjects.escape(account), codec.to_json(changed[account]))
            self._held[account] = changed[account]
        if changed or gone:
            log.info(
                "plan.written",
                revision=revision,
                instruments=len(outcome.slots),
                unplaced=len(outcome.unplaced),
                away=outcome.away,
                accounts={account: entry.total for account, entry in plans.items()},
            )
        self._copy = _Copy.of(outcome, revision=self.revision)
        return bool(changed or gone)

    def _remember(self, outcome: planner.Plan, revision: int) -> None:
        slots = {**outcome.slots, **outcome.stranded}
        before, since = self._slots, self._since
        self._since = {
            token: since[token]
            if token in since and before[token].account == slot.account
            else revision
            for token, slot in slots.items()
        }
        self._slots = slots

    def _total(self, account: str) -> int:
        held = self._held.get(account)
        return held.total if held is not None else 0

    async def save_for_people(self) -> bool:
        """Copy the newest plan to PostgreSQL where it differs; says whether that was needed.

        Raises:
            DatabaseUnavailableError: If PostgreSQL is away; the next call tries again.
        """
        copy = self._copy
        if copy is None or (self._saved is not None and copy.rows == self._saved.rows):
            return False
        columns = list(zip(*copy.rows, strict=True)) or [()] * 6
        async with self._database.acquire() as connection, connection.transaction():
            await connection.execute(_DELETE, columns[0])
            await connection.execute(_UPSERT, *columns, copy.revision)
        self._saved = copy
        return True


class _Copy(msgspec.Struct, frozen=True):
    """A plan as rows of `plan_entries`."""

    rows: list[tuple[int, str, int, str, str, str | None]]
    revision: int

    @classmethod
    def of(cls, outcome: planner.Plan, *, revision: int) -> "_Copy":
        slots = {**outcome.slots, **outcome.stranded}
        rows = []
        for token, slot in sorted(slots.items()):
            item = outcome.wanted[token]
            rows.append(
                (token, slot.account, slot.connection, item.mode.value, item.reason, slot.home)
            )
        return cls(rows, revision)
