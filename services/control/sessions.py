"""The accounts' sessions: who needs one, when and how it is made, and what ends it."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusUnavailableError
from libs.common.bus.kv import Mirror
from libs.common.bus.tasks import OwnedTasks
from libs.common.contracts.messages import (
    AccountCondition,
    AccountState,
    FeedState,
    FeedStatus,
    KiteSession,
    Source,
)
from libs.common.domain.clock import IST, ist_datetime
from libs.common.kite.errors import KiteUnavailableError, LoginRefusedError
from libs.common.kite.login import Minted, SessionMinter, TokenDesk
from libs.common.kite.rest import KiteRest
from services.control import metrics
from services.control.account_book import AccountBook
from services.control.account_record import AccountRecord
from services.control.account_sources import AccountSources
from services.control.domain import login_rules, session_schedule
from services.control.domain.login_rules import Verdict
from services.control.domain.planner import Capacity
from services.control.errors import AccountCommandError, NotLeadingError
from services.control.settings import ControlSettings
from services.control.stand_in import StandInAccounts
from services.control.token_files import OfferedToken, TokenFolder, offered_by_description

# Logins run beside the leader's rounds; a quick one is waited for, so that the round sees it.
_LOGIN_PATIENCE_SECONDS = 0.5
_CLOSE_PATIENCE_SECONDS = 0.2
_OFFER_RETRY_SECONDS = 10.0
# An account that Kite has left without an answer so often does not hold up the first plan.
_FAILURES_WAITED_FOR = 3
_USABLE = frozenset({AccountCondition.READY, AccountCondition.LOGGING_IN})

log = logs.get_logger(__name__)


class Sessions:
    """Keeps every account logged in, one login at a time per account.

    A login that Kite refuses is never repeated with the same credentials, by no leader: wrong ones
    do not become right, and too many attempts lock the account. `login_rules` has the rules.

    Args:
        bus: Where the sealed sessions and the states go.
        settings: Intervals and addresses.
        minter: How to log in without a person.
        desk: How to use what a person brings.
        sources: Who the accounts are.
        states: Mirror of the bucket `accounts`; it must be ready before `adopt`.
        is_leading: Whether this process still leads; asked right before a login and before its
            session is stored.
    """

    def __init__(
        self,
        bus: Bus,
        settings: ControlSettings,
        minter: SessionMinter,
        desk: TokenDesk,
        sources: AccountSources | StandInAccounts,
        *,
        states: Mirror,
        is_leading: Callable[[], bool],
    ) -> None:
        self._book = AccountBook(
            bus,
            settings,
            states=states,
            is_leading=is_leading,
            stand_in=isinstance(sources, StandInAccounts),
        )
        self._settings = settings
        self._minter = minter
        self._desk = desk
        self._sources = sources
        self._is_leading = is_leading
        self._folder = TokenFolder(
            Path(settings.kite_token_dir) if settings.kite_token_dir else None
        )
        self._token_problems: dict[str, str] = {}
        self._market_now: datetime | None = None
        self._looking = asyncio.Lock()
        self._tasks = OwnedTasks()
        self._logins: dict[str, asyncio.Task[None]] = {}
        self._jitter = random.Random()  # noqa: S311  # Delays, not secrets.

    # -- what others ask ---------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """All accounts that are described well enough, switched off ones included."""
        return sorted(self._book.records)

    def usable(self) -> list[str]:
        """Accounts that have a session or will have one: the plan counts on them."""
        return [
            name
            for name, record in sorted(self._book.records.items())
            if record.condition(self._book.limits)[0] in _USABLE
        ]

    def capacities(self) -> list[Capacity]:
        """How much each usable account can stream."""
        settings = self._settings
        return [
            Capacity(
                account=name,
                connections=(
                    self._book.records[name].description.connections
                    or settings.ws_connections_per_account
                ),
                tokens_per_connection=(
                    self._book.records[name].description.tokens_per_connection
                    or settings.max_instruments_per_ws_connection
                ),
            )
            for name in self.usable()
        ]

    def states(self) -> dict[str, AccountState]:
        """What is known of every account, the badly described ones included; no secrets."""
        return self._book.states()

    def words(self) -> dict[str, str]:
        """A word per account for status pages, with the reason where there is one."""
        return {
            name: f"{state.condition.value}: {state.reason}"
            if state.reason
            else state.condition.value
            for name, state in self.states().items()
        }

    def record(self, name: str) -> AccountRecord | None:
        """One account, None when no source describes it well enough."""
        return self._book.records.get(name)

    def rest(self) -> KiteRest | None:
        """A REST client of the first account with a living session, or None."""
        for _, record in sorted(self._book.records.items()):
            if record.is_alive and record.session is not None:
                return KiteRest(
                    api_key=record.session.api_key,
                    access_token=record.session.access_token,
                    root=self._settings.kite_api_url,
                )
        return None

    # -- what others report --------------------------------------------------------------------

    def token_died(self, api_token: KiteRest) -> None:
        """A REST call was refused: the account behind that client needs a new session."""
        for record in self._book.records.values():
            if record.session is not None and api_token.uses(record.session.access_token):
                self._session_died(record, "a REST call of control")

    def notice(self, feeds: Mapping[str, FeedStatus]) -> None:
        """Mark accounts whose feed was refused with the session that is in force.

        Once per session: reports about the one before change nothing.
        """
        for feed in feeds.values():
            record = self._book.records.get(feed.account)
            refused = feed.session_refused or feed.state is FeedState.PARKED
            if record is not None and refused and record.is_refused_by(feed):
                self._session_died(record, f"the feed of {feed.worker}")

    def note_lost(self, lost_since_ns: Mapping[str, int]) -> None:
        """Take over since when feeds have been away, for their states."""
        for name, record in self._book.records.items():
            record.lost_since_ns = lost_since_ns.get(name)

    def _session_died(self, record: AccountRecord, who: str) -> None:
        if record.session_died(self._book.limits):
            log.warning("session.refused", account=record.name, reported_by=who)

    # -- the leader's rounds -------------------------------------------------------------------

    async def adopt(self) -> None:
        """Take over what an earlier leader left: sessions, refusals, waiting times.

        Raises:
            BusUnavailableError: The bus does not answer; ask again.
        """
        self._book.recall()
        await self._look()

    async def refresh(self, now: datetime | None = None) -> bool:
        """Read the sources, log in whoever needs it and may try now, and write the states.

        Args:
            now: The market's time; None while that is not known.

        Returns:
            Whether nothing more is to be expected soon: every account has a session, or needs a
            person, or Kite has left it without an answer several times.
        """
        await self._look()
        if now is not None or self._settings.feed_source is Source.LIVE:
            self._turn_day(now if now is not None else datetime.now(IST))
        for record in list(self._book.records.values()):
            if record.unsaved:
                await self._book.save(record)
            if self._is_due(record):
                self._begin(record)
        if self._logins:
            await asyncio.wait(set(self._logins.values()), timeout=_LOGIN_PATIENCE_SECONDS)
        for name, task in list(self._logins.items()):
            if task.done():
                del self._logins[name]
                task.result()  # What is not foreseen there is a defect.
        await self._book.publish()
        return self._book.snapshot is not None and not any(
            self._may_be_ready_soon(record) for record in self._book.records.values()
        )

    def _may_be_ready_soon(self, record: AccountRecord) -> bool:
        condition, _ = record.condition(self._book.limits)
        if condition is AccountCondition.LOGGING_IN:
            return record.history.failures < _FAILURES_WAITED_FOR
        # A token from elsewhere is being proven.
        return condition is AccountCondition.WAITING and record.name in self._logins

    async def close(self) -> None:
        """End every login that is under way."""
        for task in self._logins.values():
            task.cancel()
        await self._tasks.finish(patience_seconds=_CLOSE_PATIENCE_SECONDS)
        await self._sources.close()

    def require_leading(self) -> None:
        """Raise NotLeadingError unless this process still leads."""
        if not self._is_leading():
            raise NotLeadingError

    async def table_changed(self) -> None:
        """The table was just changed: read it now and write the states that follow.

        Raises:
            BusUnavailableError: The bus does not answer; the change stands.
        """
        await self._look(table_at_once=True)
        await self._book.publish()

    async def log_in(self, name: str) -> AccountState:
        """A person wants an account logged in now; what happened before does not count.

        Raises:
            AccountCommandError: `not_found`, `conflict` (switched off), `bad_request` (a person's
                token is needed), `rate_limited`, or `refused`.
            KiteUnavailableError: No answer.
            NotLeadingError: Another process leads now.
        """
        record = self._known(name)
        if record.description.credentials() is None:
            raise AccountCommandError(
                "bad_request",
                f"account {name} cannot log in by itself: log in in a browser, then give the "
                "request_token of the address that Kite redirects to, or an access_token",
                field="request_token",
            )
        async with record.lock:
            self.require_leading()
            left = record.begun_at + self._book.limits.interval_seconds - time.monotonic()
            if left > 0:
                raise AccountCommandError(
                    "rate_limited",
                    f"account {name} was just logged in: once in "
                    f"{self._book.limits.interval_seconds:g} s is enough",
                    retry_after_seconds=round(left, 1),
                )
            record.forgive()
            try:
                await self._log_in(record)
            except LoginRefusedError as error:
                raise AccountCommandError("refused", self._clean(record, str(error))) from error
            finally:
                await self._publish_if_possible()
        return self._book.state(record)

    async def use_request_token(self, name: str, request_token: str) -> AccountState:
        """Exchange the token of a person's login; raises as `log_in` does."""
        record = self._known(name)
        if record.description.api_secret is None:
            raise AccountCommandError(
                "bad_request",
                f"account {name} has no api_secret, so it can take an access_token only",
                field="request_token",
            )
        return await self._use(
            record, lambda: self._desk.exchange(record.description.app, request_token)
        )

    async def use_access_token(self, name: str, access_token: str) -> AccountState:
        """Take a token that was made elsewhere, if it lives; raises as `log_in` does."""
        record = self._known(name)
        return await self._use(
            record, lambda: self._desk.verify(record.description.app, access_token)
        )

    def login_url(self, name: str) -> str | None:
        """Where a person logs the account in; None for one that is not known."""
        record = self._book.records.get(name)
        return self._desk.login_url(record.description.app) if record is not None else None

    # -- sources -------------------------------------------------------------------------------

    async def _look(self, *, table_at_once: bool = False) -> None:
        async with self._looking:
            snapshot = await self._sources.look(table_at_once=table_at_once)
            await self._book.take(snapshot)
            await self._look_at_tokens()

    # -- tokens from elsewhere -----------------------------------------------------------------

    async def _look_at_tokens(self) -> None:
        read = await asyncio.to_thread(self._folder.read, list(self._book.records))
        for name, problem in read.problems.items():
            if self._token_problems.get(name) != problem:
                metrics.TOKENS_REFUSED_TOTAL.inc()
                log.warning("token_file.unusable", account=name, problem=problem)
        self._token_problems = read.problems
        for name, record in self._book.records.items():
            offers = [read.tokens.get(name)]
            if record.description.access_token is not None:
                offers.append(
                    offered_by_description(
                        record.description.access_token, record.description.place
                    )
                )
            for offer in offers:
                if offer is not None and self._is_of_use(record, offer):
                    self._begin(record, offer)
                    break

    def _is_of_use(self, record: AccountRecord, offer: OfferedToken) -> bool:
        if (
            offer.digest in record.tried
            or not record.enabled
            or record.remembered
            or time.monotonic() < record.offer_after
        ):
            return False
        session = record.session
        if session is None or record.wants_new:
            return True
        newer = offer.made_at_ns is not None and offer.made_at_ns > session.minted_at_ns
        return newer and offer.access_token != session.access_token

    async def _take_offer(self, record: AccountRecord, offer: OfferedToken) -> None:
        record.tried.add(offer.digest)
        if offer.api_key is not None and offer.api_key != record.description.api_key:
            self._turn_down(record, offer, "it is of another app (api_key)")
            return
        try:
            minted = await self._desk.verify(record.description.app, offer.access_token)
            self._check_user(record, minted)
            await self._keep(record, minted)
        except KiteUnavailableError as error:
            # Not its fault: looked at again, and until then the account may log in by itself.
            record.tried.discard(offer.digest)
            record.offer_after = time.monotonic() + _OFFER_RETRY_SECONDS
            log.warning("token.unverified", account=record.name, reason=error.reason)
        except LoginRefusedError as error:
            self._turn_down(record, offer, error.reason)
        except AccountCommandError as error:
            self._turn_down(record, offer, error.message)
        except NotLeadingError:
            return

    def _turn_down(self, record: AccountRecord, offer: OfferedToken, reason: str) -> None:
        metrics.TOKENS_REFUSED_TOTAL.inc()
        log.warning(
            "token.unusable",
            account=record.name,
            origin=offer.origin,
            problem=self._clean(record, reason),
        )

    # -- logins --------------------------------------------------------------------------------

    def _turn_day(self, now: datetime) -> None:
        day = session_schedule.session_day(now)
        for record in self._book.records.values():
            record.history = login_rules.on_day(record.history, day)
            if not record.is_alive or record.session is None:
                continue
            minted = self._minted(record, now)
            if minted is not None and session_schedule.is_over(minted, now):
                record.wants_new = True
                log.info("session.over", account=record.name, session_day=day.isoformat())
        self._market_now = now

    def _minted(self, record: AccountRecord, now: datetime) -> datetime | None:
        """When the session was made, on the market's clock."""
        session = record.session
        assert session is not None  # noqa: S101  # The caller looked.
        if self._settings.feed_source is Source.LIVE:
            return ist_datetime(session.minted_at_ns)
        # A simulated market's time is only known from its quotes, and the one known when the
        # session was made may be that of the day before: the first later reading counts.
        if record.session_market_time is None and now != record.market_at_mint:
            record.session_market_time = now
        return record.session_market_time

    def _is_due(self, record: AccountRecord) -> bool:
        if not record.enabled or record.is_alive or record.name in self._logins:
            return False
        if record.description.credentials() is None or record.lock.locked():
            return False
        if self._settings.feed_source is Source.LIVE and session_schedule.is_pause(
            self._market_now or datetime.now(IST)
        ):
            return False
        verdict = login_rules.verdict(record.history, time.monotonic(), self._book.limits)
        return verdict is Verdict.GO

    def _begin(self, record: AccountRecord, offer: OfferedToken | None = None) -> None:
        """Make a session in a task of its own: a login may take half a minute."""
        if record.name in self._logins:
            return

        async def work() -> None:
            async with record.lock:
                if offer is not None:
                    await self._take_offer(record, offer)
                elif not record.is_alive:
                    try:
                        await self._log_in(record)
                    except (LoginRefusedError, KiteUnavailableError, NotLeadingError):
                        return  # Noted where it happened.

        self._logins[record.name] = self._tasks.spawn(work(), name=f"login-{record.name}")

    async def _log_in(self, record: AccountRecord) -> None:
        """Log in with the credentials; the caller holds the record's lock.

        Raises:
            LoginRefusedError: Kite refused; noted, and not repeated.
            KiteUnavailableError: No answer; noted, and repeated later.
            NotLeadingError: Another process leads now.
        """
        credentials = record.description.credentials()
        assert credentials is not None  # noqa: S101  # The callers looked.
        self.require_leading()
        record.begun_at = time.monotonic()
        record.history = login_rules.begun(record.history, record.begun_at, self._book.limits)
        try:
            minted = await self._minter.mint(credentials)
        except LoginRefusedError as error:
            self._refused(record, error)
            # At once: the next leader must not try these credentials again.
            await self._publish_if_possible()
            raise
        except KiteUnavailableError as error:
            self._unanswered(record, error)
            raise
        except Exception as error:  # noqa: BLE001  # The outcome of a login must be counted.
            # An answer nobody foresaw. Ending the process would mean that its successor sends the
            # same password again, and the next one too.
            unforeseen = KiteUnavailableError(call="login", reason=type(error).__name__)
            # Without the message, which may be the password that was looked up.
            log.error("login.unforeseen", account=record.name, error=logs.kind_of(error))
            self._unanswered(record, unforeseen)
            raise unforeseen from None
        record.history = login_rules.succeeded(record.history)
        record.refused_fingerprint, record.refusal_before = None, ""
        await self._keep(record, minted)
        metrics.LOGINS_TOTAL.labels(outcome="minted").inc()
        log.info("login.minted", account=record.name)

    def _refused(self, record: AccountRecord, error: LoginRefusedError) -> None:
        period = login_rules.CODE_PERIOD_SECONDS
        reason = self._clean(record, error.reason)
        record.history = login_rules.turned_down(
            record.history,
            time.monotonic(),
            step=error.step,
            reason=reason,
            period_left_seconds=period - time.time() % period,
        )
        record.refused_fingerprint = self._book.fingerprint(record)
        record.refusal_before = ""
        metrics.LOGINS_TOTAL.labels(outcome="refused").inc()
        final = record.history.refused is not None
        log.error(
            "login.refused",
            account=record.name,
            step=error.step,
            reason=reason,
            remedy="correct the credentials, or log in by hand: tickfleet login"
            if final
            else "the code is tried once more in the next half minute",
        )

    def _unanswered(self, record: AccountRecord, error: KiteUnavailableError) -> None:
        now = time.monotonic()
        record.history = login_rules.unanswered(
            record.history, now, self._book.limits, self._jitter.random()
        )
        metrics.LOGINS_TOTAL.labels(outcome="unavailable").inc()
        log.warning(
            "login.unavailable",
            account=record.name,
            reason=self._clean(record, error.reason),
            attempts=record.history.attempts,
            retry_in_seconds=round(record.history.not_before - now, 2),
        )

    async def _use(
        self, record: AccountRecord, make: Callable[[], Awaitable[Minted]]
    ) -> AccountState:
        async with record.lock:
            self.require_leading()
            try:
                minted = await make()
            except LoginRefusedError as error:
                raise AccountCommandError("refused", self._clean(record, str(error))) from error
            self._check_user(record, minted)
            # A person answers for the account now: earlier refusals do not count any more.
            record.forgive()
            await self._keep(record, minted)
        metrics.LOGINS_TOTAL.labels(outcome="given").inc()
        log.info("login.given", account=record.name)
        await self._publish_if_possible()
        return self._book.state(record)

    def _check_user(self, record: AccountRecord, minted: Minted) -> None:
        """Refuse a session of another user than the one described."""
        wanted = record.description.user_id
        if wanted and minted.user_id and wanted.upper() != minted.user_id.upper():
            raise AccountCommandError(
                "bad_request",
                f"the token belongs to another user than the one of account {record.name}",
                field="access_token",
            )

    async def _keep(self, record: AccountRecord, minted: Minted) -> None:
        """Put a fresh session into force and onto the bus."""
        if self._book.records.get(record.name) is not record or not self._is_leading():
            # Removed meanwhile, or another process leads: nobody may find this session.
            metrics.LOGINS_TOTAL.labels(outcome="unused").inc()
            raise NotLeadingError
        before = record.session.minted_at_ns if record.session is not None else 0
        record.session = KiteSession(
            account=record.name,
            api_key=record.description.api_key,
            access_token=minted.access_token,
            user_id=minted.user_id,
            ws_url=self._settings.kite_ws_url,
            api_url=self._settings.kite_api_url,
            source=self._settings.feed_source,
            # Feeds go by it: a later session has a larger number, whatever the clock does.
            minted_at_ns=max(time.time_ns(), before + 1),
            # Orders checks with it whether a postback is the broker's.
            api_secret=record.description.api_secret,
        )
        record.wants_new = False
        record.market_at_mint, record.session_market_time = self._market_now, None
        record.unsaved = True
        await self._book.save(record)

    async def _publish_if_possible(self) -> None:
        """Write the states now; what the bus does not take is written with the next round."""
        try:
            await self._book.publish()
        except BusUnavailableError as error:
            log.warning("account.state_waits", reason=error.reason)

    def _known(self, name: str) -> AccountRecord:
        record = self._book.records.get(name)
        if record is None or record.remembered:
            raise AccountCommandError(
                "not_found", f"there is no usable account {name}", field="account"
            )
        if not record.enabled:
            raise AccountCommandError(
                "conflict", f"account {name} is switched off: enable it first", field="account"
            )
        return record

    def _clean(self, record: AccountRecord, text: str) -> str:
        return record.description.scrub(logs.redact(text))
