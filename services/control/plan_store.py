"""Where the plan lives: the key-value store for the data plane, PostgreSQL for people."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.kv import Bucket, Mirror
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import AccountPlan, StreamMode
from libs.common.database import Database, DatabaseUnavailableError
from libs.common.domain.instruments import Instrument
from services.control.domain import planner
from services.control.domain.windows import Wanted

log = logs.get_logger(__name__)


class PlanStore:
    """Reads what people want and the last plan; writes the next one where it differs.

    Args:
        bus: The connection.
        database: PostgreSQL.
        plans: Mirror of the bucket `plan`; it must be ready.
    """

    def __init__(self, bus: Bus, database: Database, plans: Mirror) -> None:
        self._bucket = Bucket(bus, streams.PLAN.name)
        self._database = database
        self._held: dict[str, AccountPlan] = {}
        self._explicit: list[Wanted] = []
        self._unsaved: planner.Plan | None = None
        for key, value in plans.items().items():
            try:
                entry = codec.from_json(AccountPlan, value)
            except codec.DecodeError as error:
                log.error("plan.unreadable", key=key, reason=error.reason)
                continue
            self._held[entry.account] = entry

    @property
    def revision(self) -> int:
        """Revision of the newest plan, 0 before the first."""
        return max((entry.revision for entry in self._held.values()), default=0)

    def slots(self) -> dict[int, planner.Slot]:
        """Where each instrument is streamed now."""
        return planner.slots_of(self._held)

    async def explicit(self, instruments: Mapping[int, Instrument]) -> list[Wanted]:
        """The active subscriptions of people; the last known ones while PostgreSQL is away."""
        try:
            async with self._database.acquire() as connection:
                rows = await connection.fetch(
                    "SELECT instrument_token, requested_mode, account_id"
                    " FROM instrument_subscriptions WHERE status = 'active'"
                )
        except DatabaseUnavailableError as error:
            log.warning("subscriptions.stale", reason=error.reason)
            return list(self._explicit)
        self._explicit = [
            Wanted(
                instrument_token=row["instrument_token"],
                underlying=instruments[row["instrument_token"]].underlying,
                mode=StreamMode(row["requested_mode"].lower()),
                reason="explicit",
                account=row["account_id"],
            )
            for row in rows
            if row["instrument_token"] in instruments
        ]
        return list(self._explicit)

    async def write(
        self, outcome: planner.Plan, accounts: Sequence[str], *, planned_at_ns: int
    ) -> bool:
        """Write the entries that differ from what is there; says whether any did.

        Accounts that are no longer configured lose their entry, which ends their feed.
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
                accounts={account: entry.total for account, entry in plans.items()},
            )
            self._unsaved = outcome
        await self._save_for_people()
        return bool(changed or gone)

    def _total(self, account: str) -> int:
        held = self._held.get(account)
        return held.total if held is not None else 0

    async def _save_for_people(self) -> None:
        """Copy the plan into PostgreSQL; tried again with the next round while that is away."""
        outcome = self._unsaved
        if outcome is None:
            return
        now = datetime.now(UTC)
        revision = self.revision
        records = [
            (
                token,
                slot.account,
                slot.connection,
                outcome.wanted[token].mode.value,
                outcome.wanted[token].reason,
                revision,
                now,
            )
            for token, slot in outcome.slots.items()
        ]
        try:
            async with self._database.acquire() as connection, connection.transaction():
                await connection.execute("DELETE FROM plan_entries")
                await connection.copy_records_to_table(
                    "plan_entries",
                    records=records,
                    columns=(
                        "instrument_token",
                        "account_id",
                        "connection",
                        "mode",
                        "reason",
                        "plan_revision",
                        "planned_at",
                    ),
                )
        except DatabaseUnavailableError as error:
            log.warning("plan.copy_waits", reason=error.reason)
        else:
            self._unsaved = None
