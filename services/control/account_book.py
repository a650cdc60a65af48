"""All accounts of a leadership term, and what of them lies on the bus: sessions and states."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable

import msgspec

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusUnavailableError
from libs.common.bus.kv import Bucket, Mirror
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import (
    AccountCondition,
    AccountSource,
    AccountState,
    KiteSession,
)
from libs.common.kite.sessions import SessionSeal, SessionSealError
from libs.common.seal import Seal
from services.control import metrics
from services.control.account_record import AccountRecord, remembered
from services.control.account_sources import Snapshot
from services.control.domain import login_rules
from services.control.domain.accounts import Account
from services.control.settings import ControlSettings

log = logs.get_logger(__name__)


class AccountBook:
    """The records, kept in step with the sources, and their copies in NATS.

    Args:
        bus: The connection.
        settings: Defaults, keys and addresses.
        states: Mirror of the bucket `accounts`; it must be ready before `recall`.
        is_leading: Whether this process still leads; nothing is written otherwise.
        stand_in: Whether these are the stand-ins; states of the other kind are not its business.

    Attributes:
        records: Accounts that are described well enough, by name.
        limits: Of their logins.
        snapshot: The sources as they were read last.
    """

    def __init__(
        self,
        bus: Bus,
        settings: ControlSettings,
        *,
        states: Mirror,
        is_leading: Callable[[], bool],
        stand_in: bool = False,
    ) -> None:
        self._stand_in = stand_in
        self.records: dict[str, AccountRecord] = {}
        self.snapshot: Snapshot | None = None
        self.limits = login_rules.Limits(
            delay_ceiling_seconds=settings.login_retry_ceiling_seconds,
            attempts_per_day=settings.login_attempts_per_day,
            interval_seconds=settings.login_min_interval_seconds,
        )
        self._sessions = Bucket(bus, streams.KITE_SESSIONS.name)
        self._states = Bucket(bus, streams.ACCOUNTS.name)
        self._settings = settings
        self._mirror = states
        self._is_leading = is_leading
        self._seal = SessionSeal(settings.account_encryption_key)
        self._fingerprints = Seal(settings.account_encryption_key)
        self._written: dict[str, AccountState] = {}
        self._publishing = asyncio.Lock()
        self._nobody_told = False
        self._jitter = random.Random()  # noqa: S311  # Delays, not secrets.

    def recall(self) -> None:
        """Read what the leader before wrote of its accounts."""
        for key, value in self._mirror.items().items():
            try:
                state = codec.from_json(AccountState, value)
            except codec.DecodeError as error:
                log.warning("account.state_unreadable", key=key, reason=error.reason)
                continue
            if (state.source is AccountSource.STAND_IN) is self._stand_in:
                self._written[state.account] = state

    def states(self) -> dict[str, AccountState]:
        """What is known of every account, the badly described ones included; no secrets."""
        states = {name: self.state(record) for name, record in self.records.items()}
        if self.snapshot is not None:
            for name, problem in self.snapshot.directory.incomplete.items():
                if name not in states:
                    states[name] = AccountState(
                        account=name,
                        source=problem.source,
                        condition=AccountCondition.INCOMPLETE,
                        reason=problem.message,
                        connections=self._settings.ws_connections_per_account,
                        tokens_per_connection=self._settings.max_instruments_per_ws_connection,
                        at_ns=time.time_ns(),
                    )
        return dict(sorted(states.items()))

    def state(self, record: AccountRecord) -> AccountState:
        """What is known of one account."""
        return record.state(
            self.limits,
            connections=self._settings.ws_connections_per_account,
            tokens_per_connection=self._settings.max_instruments_per_ws_connection,
        )

    def fingerprint(self, record: AccountRecord) -> str:
        """A keyed hash of an account's credentials."""
        return self._fingerprints.fingerprint(record.description.identity())

    async def take(self, snapshot: Snapshot) -> None:
        """Follow the sources: accounts come, change, and go.

        Raises:
            BusUnavailableError: The bus does not answer; take it again.
        """
        described = snapshot.directory.accounts
        for name, description in described.items():
            record = self.records.get(name)
            if record is None or record.remembered:
                record = AccountRecord(description)
                await self._adopt_into(record)
                self.records[name] = record
                log.info("account.known", account=name, source=description.source.value)
            elif record.description != description:
                self._redescribe(record, description)
            record.enabled = self._is_enabled(name, snapshot)
        for name in list(self.records):
            if name not in described and not self.records[name].remembered:
                del self.records[name]
                log.info("account.gone", account=name)
        await self._remember(snapshot)
        if self.records:
            self._nobody_told = False
        elif not self._nobody_told:
            self._nobody_told = True
            log.warning(
                "accounts.none",
                remedy="set KITE_ACCOUNTS, KITE_ACCOUNTS_FILE or KITE_API_KEY, or add one: "
                "tickfleet accounts add",
            )
        self.snapshot = snapshot

    def _is_enabled(self, name: str, snapshot: Snapshot) -> bool:
        if AccountSource.DATABASE in snapshot.unread:
            # What people switched off stays off while nobody can ask the table.
            state = self._written.get(name)
            return state is None or state.condition is not AccountCondition.DISABLED
        return snapshot.enabled.get(name, True)

    async def _remember(self, snapshot: Snapshot) -> None:
        """Keep running what an earlier leader knew from a source that has not answered yet."""
        known = snapshot.directory
        for name, record in list(self.records.items()):
            if record.remembered and record.description.source not in snapshot.unread:
                del self.records[name]
        for name, state in self._written.items():
            if (
                state.source not in snapshot.unread
                or name in self.records
                or name in known.incomplete
                or state.condition is AccountCondition.DISABLED
            ):
                continue
            session = await self._stored_session(name)
            if session is None or not self._fits(session):
                continue
            record = remembered(state, session)
            record.session, record.wants_new = session, False
            self.records[name] = record
            log.warning("account.remembered", account=name, source=state.source.value)

    def _redescribe(self, record: AccountRecord, description: Account) -> None:
        before = record.description
        record.description = description
        if before.identity() != description.identity():
            log.info("account.credentials_changed", account=record.name)
            record.forgive()
            # Another login so soon after the last has to wait, with other credentials too.
            record.history = msgspec.structs.replace(
                record.history, not_before=record.begun_at + self.limits.interval_seconds
            )
        if record.session is not None and record.session.api_key != description.api_key:
            record.session, record.wants_new, record.unsaved = None, True, False

    async def _adopt_into(self, record: AccountRecord) -> None:
        session = await self._stored_session(record.name)
        if (
            session is not None
            and self._fits(session)
            and session.api_key == record.description.api_key
        ):
            record.session, record.wants_new = session, False
        state = self._written.get(record.name)
        if state is None:
            return
        fingerprint = state.refused_fingerprint
        if fingerprint is not None and self._fingerprints.matches(
            fingerprint, record.description.identity()
        ):
            # Also after a first refused code: an earlier leader may have used the second try.
            record.refused_fingerprint = self.fingerprint(record)
            record.refusal_before = state.reason
            record.history = msgspec.structs.replace(record.history, refused="of an earlier leader")
        elif state.login_failures:
            waited = (time.time_ns() - state.at_ns) / 1e9
            held = login_rules.History(
                failures=state.login_failures - 1, attempts=state.login_failures
            )
            record.history = login_rules.unanswered(
                held, time.monotonic() - max(0.0, waited), self.limits, self._jitter.random()
            )

    async def _stored_session(self, name: str) -> KiteSession | None:
        """The session on the bus; one sealed under an older key is sealed anew."""
        key = subjects.escape(name)
        entry = await self._sessions.get(key)
        if entry is None:
            return None
        try:
            session = self._seal.open(entry.value)
        except SessionSealError as error:
            log.warning("session.unreadable", account=name, reason=error.reason)
            return None
        if not self._seal.is_current(entry.value) and self._is_leading():
            await self._sessions.put(key, self._seal.seal(session))
            log.info("session.resealed", account=name)
        return session

    def _fits(self, session: KiteSession) -> bool:
        return (
            session.ws_url == self._settings.kite_ws_url
            and session.api_url == self._settings.kite_api_url
            and session.source is self._settings.feed_source
        )

    async def save(self, record: AccountRecord) -> None:
        """Write the session; one that the bus did not take is kept and written later."""
        if record.session is None or not self._is_leading():
            return
        try:
            await self._sessions.put(subjects.escape(record.name), self._seal.seal(record.session))
        except BusUnavailableError as error:
            log.warning("session.unsaved", account=record.name, reason=error.reason)
        else:
            record.unsaved = False

    async def publish(self) -> None:
        """Write the states that changed, and remove what belongs to accounts that are gone."""
        async with self._publishing:
            if self.snapshot is None or not self._is_leading():
                return
            states = self.states()
            if not self._stand_in:
                counts = Counter(state.condition for state in states.values())
                for condition in AccountCondition:
                    metrics.ACCOUNTS.labels(condition=condition.value).set(counts[condition])
            for name, state in states.items():
                if not _is_same(self._written.get(name), state):
                    await self._states.put(subjects.escape(name), codec.to_json(state))
                    self._written[name] = state
            for name in [n for n in self._written if n not in states]:
                if self._written[name].source in self.snapshot.unread:
                    continue  # It may still be there.
                await self._sessions.delete(subjects.escape(name))
                await self._states.delete(subjects.escape(name))
                del self._written[name]


def _is_same(before: AccountState | None, after: AccountState) -> bool:
    """Whether a state says what the last one said; when it was written does not count."""
    return before is not None and (
        msgspec.structs.replace(before, at_ns=0) == msgspec.structs.replace(after, at_ns=0)
    )
