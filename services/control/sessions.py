"""The accounts' sessions: mint when needed, seal, store; careful with credentials that fail."""

import time
from collections.abc import Mapping

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.kv import Bucket
from libs.common.contracts import streams, subjects
from libs.common.contracts.messages import FeedState, FeedStatus, KiteSession
from libs.common.domain.credentials import Credentials
from libs.common.kite.errors import KiteUnavailableError, LoginRefusedError
from libs.common.kite.login import SessionMinter
from libs.common.kite.rest import KiteRest
from libs.common.kite.sessions import SessionSeal, SessionSealError
from libs.common.resilience.backoff import Backoff
from services.control import metrics
from services.control.settings import ControlSettings

log = logs.get_logger(__name__)


class _Account:
    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self.session: KiteSession | None = None
        self.backoff = Backoff(first_seconds=0.5, ceiling_seconds=4.0)
        self.not_before = 0.0
        self.refused: str | None = None
        self.wants_new = True


class Sessions:
    """Keeps every account logged in, one login at a time.

    A login that Kite refuses is never repeated: wrong credentials do not become right, and too
    many attempts lock the account. The account is reported with the reason and left out; the
    others go on. A login without an answer is repeated with backoff.

    Args:
        bus: Where the sealed sessions go.
        settings: Intervals and addresses.
        minter: How to log in.
        accounts: Whom to log in.
    """

    def __init__(
        self,
        bus: Bus,
        settings: ControlSettings,
        minter: SessionMinter,
        accounts: tuple[Credentials, ...],
    ) -> None:
        self._bucket = Bucket(bus, streams.KITE_SESSIONS.name)
        self._settings = settings
        self._minter = minter
        self._seal = SessionSeal(settings.account_encryption_key)
        self._accounts = {c.account: _Account(c) for c in accounts}

    @property
    def names(self) -> list[str]:
        """All configured accounts."""
        return sorted(self._accounts)

    def usable(self) -> list[str]:
        """Accounts that have a session or will have one: the plan counts on them."""
        return sorted(name for name, account in self._accounts.items() if account.refused is None)

    def states(self) -> dict[str, str]:
        """A word per account for status pages."""
        return {
            name: (
                f"refused: {account.refused}"
                if account.refused is not None
                else "logged_in"
                if account.session is not None and not account.wants_new
                else "logging_in"
            )
            for name, account in sorted(self._accounts.items())
        }

    def rest(self) -> KiteRest | None:
        """A REST client of the first account with a living session, or None."""
        for _, account in sorted(self._accounts.items()):
            if account.session is not None and not account.wants_new:
                return KiteRest(
                    api_key=account.session.api_key,
                    access_token=account.session.access_token,
                    root=self._settings.kite_api_url,
                )
        return None

    def token_died(self, api_token: KiteRest) -> None:
        """A REST call was refused: the account behind that client needs a new session."""
        for account in self._accounts.values():
            if account.session is not None and api_token.uses(account.session.access_token):
                account.wants_new = True

    async def adopt(self) -> None:
        """Take over the sessions that an earlier leader minted."""
        for name, account in self._accounts.items():
            entry = await self._bucket.get(subjects.escape(name))
            if entry is None:
                continue
            try:
                session = self._seal.open(entry.value)
            except SessionSealError as error:
                log.warning("session.unreadable", account=name, reason=error.reason)
                continue
            if (
                session.api_key == account.credentials.api_key
                and session.ws_url == self._settings.kite_ws_url
                and session.api_url == self._settings.kite_api_url
                and session.source is self._settings.feed_source
            ):
                account.session = session
                account.wants_new = False

    def notice(self, feeds: Mapping[str, FeedStatus]) -> None:
        """Mark accounts whose feed was refused with the session that is in force."""
        for feed in feeds.values():
            account = self._accounts.get(feed.account)
            if (
                account is not None
                and account.session is not None
                and feed.state is FeedState.PARKED
                and feed.session_minted_at_ns == account.session.minted_at_ns
            ):
                account.wants_new = True

    def expire_all(self) -> None:
        """A new market day began: yesterday's tokens are dead, whatever they still answer."""
        for account in self._accounts.values():
            account.wants_new = True

    async def refresh(self) -> bool:
        """Log in whoever needs it and may try now; says whether everybody usable is logged in."""
        for name, account in sorted(self._accounts.items()):
            if account.refused is not None or not account.wants_new:
                continue
            now = time.monotonic()
            if now < account.not_before:
                continue
            try:
                minted = await self._minter.mint(account.credentials)
            except LoginRefusedError as error:
                account.refused = f"{error.step}: {error.reason}"
                metrics.LOGINS_TOTAL.labels(outcome="refused").inc()
                log.error(
                    "login.refused",
                    account=name,
                    step=error.step,
                    reason=error.reason,
                    remedy="correct the account's variables and restart control",
                )
                continue
            except KiteUnavailableError as error:
                delay = account.backoff.next_seconds()
                account.not_before = now + delay
                metrics.LOGINS_TOTAL.labels(outcome="unavailable").inc()
                log.warning(
                    "login.unavailable",
                    account=name,
                    reason=error.reason,
                    retry_in_seconds=round(delay, 2),
                )
                continue
            session = KiteSession(
                account=name,
                api_key=account.credentials.api_key,
                access_token=minted.access_token,
                user_id=minted.user_id,
                ws_url=self._settings.kite_ws_url,
                api_url=self._settings.kite_api_url,
                source=self._settings.feed_source,
                minted_at_ns=time.time_ns(),
            )
            await self._bucket.put(subjects.escape(name), self._seal.seal(session))
            account.session = session
            account.wants_new = False
            account.backoff.reset()
            account.not_before = now + self._settings.login_min_interval_seconds
            metrics.LOGINS_TOTAL.labels(outcome="minted").inc()
            log.info("login.minted", account=name)
        return all(
            account.refused is not None or not account.wants_new
            for account in self._accounts.values()
        )
