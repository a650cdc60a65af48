"""Watches whether the accounts can stream: leases and feed reports in, a verdict out."""

import time
from collections.abc import Iterable

import msgspec

from libs.common import logs
from libs.common.bus.kv import Mirror
from libs.common.bus.lease import RESOURCE_PREFIX, LeaseRecord
from libs.common.contracts import codec
from libs.common.contracts.messages import FeedStatus
from libs.common.contracts.subjects import escape
from services.control import metrics
from services.control.domain import availability
from services.control.domain.availability import Availability, Standing

log = logs.get_logger(__name__)


class AccountWatch:
    """The standing of every account, looked at as often as somebody asks.

    Args:
        leases: Mirror of the bucket `leases_accounts`; it must be ready.
        status: Mirror of the bucket `status`; it must be ready.
        absent: Accounts whose instruments an earlier leader moved elsewhere.
        grace_seconds: How long an account may be in trouble before it is lost.
        hold_seconds: How long it must be well before it gets its instruments back.
    """

    def __init__(
        self,
        *,
        leases: Mirror,
        status: Mirror,
        absent: Iterable[str],
        grace_seconds: float,
        hold_seconds: float,
    ) -> None:
        self._leases = leases
        self._status = status
        self._absent = frozenset(absent)
        self._grace_seconds = grace_seconds
        self._hold_seconds = hold_seconds
        self._standings: dict[str, Standing] = {}
        self._dead: dict[str, int | None] = {}

    @property
    def lost(self) -> frozenset[str]:
        """Accounts that are away."""
        return availability.accounts_in(self._standings, Availability.LOST)

    @property
    def returning(self) -> frozenset[str]:
        """Accounts that are back, but not for long."""
        return availability.accounts_in(self._standings, Availability.RETURNING)

    def look(self, accounts: Iterable[str]) -> None:
        """Judge these accounts anew."""
        before = self._standings
        self._standings = availability.judge(
            before,
            {account: self._trouble(account) for account in accounts},
            now=time.monotonic(),
            grace_seconds=self._grace_seconds,
            hold_seconds=self._hold_seconds,
            absent=self._absent,
        )
        for account, standing in self._standings.items():
            was = before[account].availability if account in before else Availability.AVAILABLE
            if was is not standing.availability:
                event = f"account.{standing.availability}"
                log.warning(event, account=account, reason=standing.trouble)
        metrics.ACCOUNTS_LOST.set(len(self.lost))

    def words(self) -> dict[str, str]:
        """What is out of the ordinary, a phrase per account."""
        found = {}
        for account, standing in self._standings.items():
            if standing.availability is Availability.LOST:
                found[account] = f"lost: {standing.trouble}"
            elif standing.trouble:
                found[account] = f"in trouble: {standing.trouble}"
            elif standing.availability is Availability.RETURNING:
                found[account] = "returning: its instruments come back when it has proved well"
        return found

    def lost_since_ns(self) -> dict[str, int]:
        """Since when each lost account has been away, epoch ns."""
        now, now_ns = time.monotonic(), time.time_ns()
        return {
            account: now_ns - int((now - standing.since) * 1e9)
            for account, standing in self._standings.items()
            if standing.availability is Availability.LOST
        }

    def _trouble(self, account: str) -> str:
        key = escape(account)
        holder = self._holder(key)
        feed = self._feed(key)
        if feed is not None and feed.worker != holder:
            feed = None  # What an earlier holder said is over.
        self._dead[account] = availability.dead_session(self._dead.get(account), feed)
        return availability.trouble(holder, feed, self._dead[account])

    def _holder(self, key: str) -> str | None:
        value = self._leases.get(RESOURCE_PREFIX + key)
        if value is None:
            return None
        try:
            return msgspec.json.decode(value, type=LeaseRecord).member
        except msgspec.DecodeError:
            return ""  # Held, by something that does not speak our language.

    def _feed(self, key: str) -> FeedStatus | None:
        value = self._status.get(f"feed-{key}")
        if value is None:
            return None
        try:
            return codec.from_json(FeedStatus, value)
        except codec.DecodeError as error:
            log.warning("feed_status.unreadable", key=key, reason=error.reason)
            return None
