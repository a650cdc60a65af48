"""The session of one account: which one is good, and the broker behind it."""

import asyncio
from collections.abc import Callable

from libs.common import logs
from libs.common.contracts.messages import KiteSession, Source
from libs.common.kite.market_data import LIVE_ROOT
from libs.common.kite.orders import KiteOrderBroker, OrderBroker

BrokerMaker = Callable[[KiteSession, str], OrderBroker]

log = logs.get_logger(__name__)


def kite_broker(deadline_seconds: float) -> BrokerMaker:
    """Make brokers that call Kite, or a simulator, with the session's token."""

    def make(session: KiteSession, root: str) -> OrderBroker:
        return KiteOrderBroker(
            session.api_key, session.access_token, root, deadline_seconds=deadline_seconds
        )

    return make


class AccountSession:
    """One account's session as this worker sees it.

    A session that the broker has refused is not used again; only one that was minted later is.

    Args:
        account: Whose.
        make: Makes the broker of a session.

    Attributes:
        changed: Set whenever a session came, went or was refused; whoever waits clears it first.
        refusal: Why the newest session is not good, for people; empty when it is.
    """

    def __init__(self, account: str, make: BrokerMaker) -> None:
        self.changed = asyncio.Event()
        self.refusal = ""
        self._account = account
        self._make = make
        self._session: KiteSession | None = None
        self._broker: OrderBroker | None = None
        self._refused_minted_at_ns = -1

    @property
    def session(self) -> KiteSession | None:
        """The newest session, good or not."""
        return self._session

    @property
    def broker(self) -> OrderBroker | None:
        """The broker behind a good session; None without one."""
        session = self._session
        if session is None or session.minted_at_ns <= self._refused_minted_at_ns:
            return None
        return self._broker

    @property
    def is_live(self) -> bool:
        """Whether the account is at the real broker."""
        return self._session is not None and self._session.source is Source.LIVE

    @property
    def why_not(self) -> str:
        """Why there is no good session, for people."""
        if self._session is None:
            return "the account has no session: log it in"
        if self._broker is None:
            return "its session does not say where the broker's REST interface is"
        return f"the broker refused its session ({self.refusal}): log the account in again"

    def use(self, session: KiteSession | None) -> None:
        """Note the newest session; None when it was taken away."""
        if session == self._session:
            return
        self._session = session
        root = None if session is None else _root_of(session)
        self._broker = None if session is None or root is None else self._make(session, root)
        if session is not None and session.minted_at_ns > self._refused_minted_at_ns:
            self.refusal = ""
        self.changed.set()

    def refuse(self, broker: OrderBroker, reason: str) -> bool:
        """The broker refused the session that this one calls with.

        Returns:
            Whether that is news.
        """
        session = self._session
        if session is None or broker is not self._broker:
            return False  # A newer one has come meanwhile.
        if session.minted_at_ns <= self._refused_minted_at_ns:
            return False
        self._refused_minted_at_ns = session.minted_at_ns
        self.refusal = reason
        self.changed.set()
        log.warning("session.refused", account=self._account, reason=reason)
        return True


def _root_of(session: KiteSession) -> str | None:
    """Where the session's REST interface is; a session of an older control does not say."""
    if session.api_url is not None:
        return session.api_url
    return LIVE_ROOT if session.source is Source.LIVE else None
