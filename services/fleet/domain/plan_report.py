"""Holds the subscription plan against reality: who should stream what, and who does."""

from collections import Counter
from collections.abc import Iterable

import msgspec

from libs.common.contracts.messages import (
    AccountPlan,
    AccountState,
    ControlStatus,
    FeedCoverage,
    FeedStatus,
    PlannedConnection,
)


class ConnectionReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one connection of an account should stream, and what of it does not tick.

    Attributes:
        number: Counted from 0.
        planned: Instruments.
        modes: Instruments by mode.
        underlyings: Instruments by underlying, most first.
        pending: Subscribed, no tick yet.
        no_data: No tick within the deadline.
        stale: Ticked before, but not for a while.
    """

    number: int
    planned: int
    modes: dict[str, int]
    underlyings: dict[str, int]
    pending: int
    no_data: int
    stale: int


class AccountReport(msgspec.Struct, frozen=True, kw_only=True):
    """One account.

    Attributes:
        account: Its name.
        condition: What control says of it.
        lost: Whether its instruments move to others.
        feed: State of its feed; None when nobody speaks for it.
        worker: Who holds the feed.
        planned: Instruments of its plan entry.
        subscribed: Instruments its connections have subscribed.
        plan_revision: Of its plan entry.
        feed_revision: Of the plan entry that the feed works on; None without a feed.
        coverage_known: Whether the feed says which instruments do not tick.
        visitors: Instruments that belong to other accounts, by those.
        connections: Its planned connections.
    """

    account: str
    condition: str
    lost: bool
    feed: str | None
    worker: str | None
    planned: int
    subscribed: int
    plan_revision: int
    feed_revision: int | None
    coverage_known: bool
    visitors: dict[str, int]
    connections: tuple[ConnectionReport, ...]

    @property
    def is_well(self) -> bool:
        """Whether the account streams what it should."""
        return not self.lost and self.subscribed == self.planned and self._ticks

    @property
    def _ticks(self) -> bool:
        return not any(c.no_data for c in self.connections)


class PlanReport(msgspec.Struct, frozen=True, kw_only=True):
    """The whole plan.

    Attributes:
        leader: The leading control process; None when none speaks.
        revision: Of the newest plan entry.
        planned: Instruments over all accounts.
        away: Of those, instruments that wait for their home account.
        unplaced: Wanted instruments without a place.
        unplaced_names: The first hundred of them, by name with the reason.
        accounts: By name.
    """

    leader: str | None
    revision: int
    planned: int
    away: int
    unplaced: int
    unplaced_names: dict[str, str]
    accounts: tuple[AccountReport, ...]

    @property
    def is_well(self) -> bool:
        """Whether everything wanted streams where it belongs."""
        return (
            self.leader is not None
            and self.unplaced == 0
            and self.away == 0
            and all(account.is_well for account in self.accounts)
        )


def plan_report(
    *,
    plans: Iterable[AccountPlan],
    feeds: Iterable[FeedStatus],
    coverages: Iterable[FeedCoverage],
    accounts: Iterable[AccountState],
    control: ControlStatus | None,
) -> PlanReport:
    """Make the report from what lies in the buckets `plan`, `status`, `coverage` and `accounts`."""
    entries = {entry.account: entry for entry in plans}
    by_feed = {feed.account: feed for feed in feeds}
    by_coverage = {coverage.account: coverage for coverage in coverages}
    states = {state.account: state for state in accounts}
    words = {} if control is None else control.accounts
    names = sorted(entries.keys() | states.keys() | words.keys())
    reports = tuple(
        _account(
            name,
            entries.get(name),
            by_feed.get(name),
            by_coverage.get(name),
            states.get(name),
            words.get(name, ""),
        )
        for name in names
    )
    return PlanReport(
        leader=None if control is None else control.worker,
        revision=max((entry.revision for entry in entries.values()), default=0),
        planned=sum(report.planned for report in reports),
        away=sum(sum(report.visitors.values()) for report in reports),
        unplaced=0 if control is None else control.unplaced,
        unplaced_names={} if control is None else dict(control.unplaced_names),
        accounts=reports,
    )


def _account(
    name: str,
    plan: AccountPlan | None,
    feed: FeedStatus | None,
    coverage: FeedCoverage | None,
    state: AccountState | None,
    word: str,
) -> AccountReport:
    connections = () if plan is None else plan.connections
    visitors: Counter[str] = Counter()
    for connection in connections:
        for group in connection.groups:
            if group.home is not None:
                visitors[group.home] += len(group.tokens)
    lost = word.startswith("lost") or (state is not None and state.lost_since_ns is not None)
    described = "" if state is None else f"{state.condition.value} {state.reason}".strip()
    return AccountReport(
        account=name,
        condition=word or described or "unknown",
        lost=lost,
        feed=None if feed is None else feed.state.value,
        worker=None if feed is None else feed.worker,
        planned=0 if plan is None else plan.total,
        subscribed=0 if feed is None else feed.tokens,
        plan_revision=0 if plan is None else plan.revision,
        feed_revision=None if feed is None else feed.plan_revision,
        coverage_known=coverage is not None,
        visitors=dict(visitors),
        connections=tuple(
            _connection(number, connection, coverage)
            for number, connection in enumerate(connections)
        ),
    )


def _connection(
    number: int, connection: PlannedConnection, coverage: FeedCoverage | None
) -> ConnectionReport:
    modes: Counter[str] = Counter()
    underlyings: Counter[str] = Counter()
    tokens: set[int] = set()
    for group in connection.groups:
        modes[group.mode.value] += len(group.tokens)
        underlyings[group.underlying] += len(group.tokens)
        tokens.update(group.tokens)
    return ConnectionReport(
        number=number,
        planned=len(tokens),
        modes=dict(modes),
        underlyings=dict(underlyings.most_common()),
        pending=0 if coverage is None else len(tokens.intersection(coverage.pending)),
        no_data=0 if coverage is None else len(tokens.intersection(coverage.no_data)),
        stale=0 if coverage is None else len(tokens.intersection(coverage.stale)),
    )
