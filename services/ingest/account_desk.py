"""One account's calls to Kite: its session, its place in line, and what its answers mean."""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TypeVar

from libs.common.contracts.messages import KiteSession, Source
from libs.common.kite.errors import (
    KiteInputError,
    KitePermissionError,
    KiteRateLimitedError,
    KiteTokenError,
    KiteUnavailableError,
)
from libs.common.kite.market_data import LIVE_ROOT, KiteAccess
from libs.common.resilience.calendar_limiter import CalendarLimiter
from services.ingest import metrics
from services.ingest.account_feed import AccountFeed
from services.ingest.domain.handover import Failure
from services.ingest.domain.request_checks import refused_by_kite
from services.ingest.errors import AccountFailedError, RequestError
from services.ingest.settings import IngestSettings
from services.ingest.waiting_line import WaitingLine

# Two calls that leave a second apart may reach Kite a little closer together.
_TRAVEL_MARGIN_SECONDS = 0.05

T = TypeVar("T")


class Call(StrEnum):
    """The kinds of calls, each with a limit of its own at Kite."""

    HISTORY = "history"
    QUOTE = "quote"


class CallLines:
    """The waiting lines of all api_keys that this process has called with.

    A line outlives sessions and leases: Kite goes on counting when an account comes back.
    """

    def __init__(self, settings: IngestSettings) -> None:
        self._settings = settings
        self._lines: dict[tuple[str, Call], WaitingLine] = {}

    def of(self, api_key: str, call: Call) -> WaitingLine:
        """The line of a key and a kind of call."""
        line = self._lines.get((api_key, call))
        if line is None:
            settings = self._settings
            limiter = (
                CalendarLimiter(
                    settings.history_per_second,
                    spare=settings.history_spare_per_second,
                    margin_seconds=_TRAVEL_MARGIN_SECONDS,
                )
                if call is Call.HISTORY
                else CalendarLimiter(
                    settings.quotes_per_second, margin_seconds=_TRAVEL_MARGIN_SECONDS
                )
            )
            line = self._lines[api_key, call] = WaitingLine(
                limiter, call=call.value, at_most=settings.requests_waiting
            )
        return line


class AccountDesk:
    """Makes the calls of one account.

    Args:
        feed: Of the account; it knows the session.
        lines: The limits.
    """

    def __init__(self, feed: AccountFeed, lines: CallLines) -> None:
        self.account = feed.account
        self._feed = feed
        self._lines = lines
        # Sessions whose app may not make a kind of call: asked once, not with every request.
        self._denied_minted_at_ns: dict[Call, int] = {}

    @property
    def source(self) -> Source | None:
        """Whose market the session in force is of; None without one."""
        session = self._feed.usable_session
        return None if session is None else session.source

    @property
    def is_open(self) -> bool:
        """Whether there is a session to call with."""
        session = self._feed.usable_session
        return session is not None and _root_of(session) is not None

    async def call(
        self, call: Call, work: Callable[[KiteAccess], Awaitable[T]], *, until: float | None
    ) -> T:
        """Make one call within the limits.

        Args:
            call: Which limit counts.
            work: The call itself.
            until: Wait for a free call until then (`time.monotonic`); None not to wait.

        Raises:
            AccountFailedError: This account could not; another one may.
            RequestError: Kite refused the parameters.
        """
        session = self._session_for(call)
        line = self._lines.of(session.api_key, call)
        if not line.try_take():
            if until is None:
                raise self._failed(call, Failure.LIMITED, retry_after_seconds=line.expected_seconds)
            if not await line.take(until):
                raise self._failed(call, Failure.CROWDED, retry_after_seconds=line.expected_seconds)
            # While it waited there may have come a new session, or none.
            session = self._session_for(call)
        access = KiteAccess(
            api_key=session.api_key,
            access_token=session.access_token,
            root=_root_of(session) or LIVE_ROOT,
            source=session.source,
        )
        try:
            result = await work(access)
        except KiteRateLimitedError as error:
            line.refused()
            raise self._failed(
                call,
                Failure.LIMITED,
                reason="by Kite's own count",
                retry_after_seconds=line.expected_seconds,
                called=True,
            ) from error
        except KiteTokenError as error:
            self._feed.refuse_session(session.minted_at_ns, error.reason)
            raise self._failed(
                call, Failure.SESSION_REFUSED, reason=error.reason, called=True
            ) from error
        except KitePermissionError as error:
            self._denied_minted_at_ns[call] = session.minted_at_ns
            raise self._failed(
                call, Failure.NOT_PERMITTED, reason=error.reason, called=True
            ) from error
        except KiteUnavailableError as error:
            raise self._failed(
                call, Failure.UNAVAILABLE, reason=error.reason, called=True
            ) from error
        except KiteInputError as error:
            self._count(call, "bad_request")
            raise RequestError(refused_by_kite(error.reason)) from error
        self._count(call, "ok")
        return result

    def _session_for(self, call: Call) -> KiteSession:
        session = self._feed.usable_session
        if session is None or _root_of(session) is None:
            raise self._failed(call, Failure.NO_SESSION)
        if session.minted_at_ns <= self._denied_minted_at_ns.get(call, -1):
            raise self._failed(call, Failure.NOT_PERMITTED)
        return session

    def _failed(
        self,
        call: Call,
        failure: Failure,
        *,
        reason: str = "",
        retry_after_seconds: float | None = None,
        called: bool = False,
    ) -> AccountFailedError:
        if called:
            self._count(call, failure.value)
        return AccountFailedError(
            self.account, failure.value, reason, retry_after_seconds=retry_after_seconds
        )

    def _count(self, call: Call, outcome: str) -> None:
        metrics.KITE_CALLS_TOTAL.labels(
            account=self.account, call=call.value, outcome=outcome
        ).inc()


def _root_of(session: KiteSession) -> str | None:
    """Where the session's REST interface is; a session of an older control does not say."""
    if session.api_url is not None:
        return session.api_url
    return LIVE_ROOT if session.source is Source.LIVE else None
