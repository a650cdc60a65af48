"""Who streams what: wanted instruments over accounts and connections, moving as few as possible."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from libs.common.contracts.messages import (
    AccountPlan,
    PlannedConnection,
    PlannedGroup,
    StreamMode,
)
from services.control.domain.windows import Wanted

_MODE_RANK = {StreamMode.LTP: 0, StreamMode.QUOTE: 1, StreamMode.FULL: 2}
# New instruments of one underlying stay together in blocks of this size: fewer, fuller frames.
_BLOCK = 50
_REASON_RANK = {"explicit": 0, "window": 1, "priced_with": 2}


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What an account can stream."""

    account: str
    connections: int
    tokens_per_connection: int

    @property
    def total(self) -> int:
        """Instruments over all connections."""
        return self.connections * self.tokens_per_connection


class Slot(msgspec.Struct, frozen=True):
    """A place in the plan: an account and one of its connections, counted from 0."""

    account: str
    connection: int


class Unplaced(msgspec.Struct, frozen=True, kw_only=True):
    """An instrument that no account can stream, and why."""

    instrument_token: int
    reason: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome: every wanted instrument has a slot, or a reason why it has none."""

    slots: dict[int, Slot]
    wanted: dict[int, Wanted]
    unplaced: tuple[Unplaced, ...]


def merge(wanted: Sequence[Wanted]) -> dict[int, Wanted]:
    """One entry per instrument: the highest mode, any pin, the reason nearest to a person."""
    merged: dict[int, Wanted] = {}
    for item in wanted:
        held = merged.get(item.instrument_token)
        if held is None:
            merged[item.instrument_token] = item
            continue
        merged[item.instrument_token] = Wanted(
            instrument_token=item.instrument_token,
            underlying=held.underlying,
            mode=max(held.mode, item.mode, key=_MODE_RANK.__getitem__),
            reason=min(held.reason, item.reason, key=_REASON_RANK.__getitem__),
            account=held.account or item.account,
        )
    return merged


def plan(
    wanted: Sequence[Wanted],
    capacities: Sequence[Capacity],
    previous: Mapping[int, Slot],
) -> Plan:
    """Place the wanted instruments.

    An instrument stays in its slot while the account is there and no pin says otherwise. New ones
    go, underlying by underlying in small blocks, to the account that is filled the least, and
    there to the first connection with room, so that a connection opens only when the one before
    it is full. The outcome depends on the arguments alone, not on their order.

    Args:
        wanted: What should be streamed; an instrument may be wanted more than once.
        capacities: The accounts that can stream.
        previous: The slots of the last plan.
    """
    merged = merge(wanted)
    room = {
        c.account: [c.tokens_per_connection] * c.connections
        for c in sorted(capacities, key=lambda c: c.account)
    }
    totals = {c.account: c.total for c in capacities}
    slots: dict[int, Slot] = {}
    fresh: dict[tuple[str, str | None], list[int]] = defaultdict(list)

    for token in sorted(merged):
        item = merged[token]
        slot = previous.get(token)
        keeps = (
            slot is not None
            and slot.account in room
            and slot.connection < len(room[slot.account])
            and room[slot.account][slot.connection] > 0
            and item.account in (None, slot.account)
        )
        if slot is not None and keeps:
            room[slot.account][slot.connection] -= 1
            slots[token] = slot
        else:
            fresh[(item.underlying, item.account)].append(token)

    unplaced: list[Unplaced] = []
    # Pinned groups first: the others can go anywhere.
    for (_, pin), tokens in sorted(
        fresh.items(), key=lambda group: (group[0][1] is None, group[0][0], group[0][1] or "")
    ):
        account = pin
        for position, token in enumerate(tokens):
            if pin is None and (
                position % _BLOCK == 0 or account is None or not any(room[account])
            ):
                account = _emptiest(room, totals)
            if account is None or account not in room or not any(room[account]):
                reason = "no account has room" if pin is None else f"no room on account {pin}"
                if pin is not None and pin not in room:
                    reason = f"account {pin} is not available"
                unplaced.append(Unplaced(instrument_token=token, reason=reason))
                continue
            connection = next(i for i, free in enumerate(room[account]) if free > 0)
            room[account][connection] -= 1
            slots[token] = Slot(account, connection)
    return Plan(slots=slots, wanted=merged, unplaced=tuple(unplaced))


def _emptiest(room: Mapping[str, Sequence[int]], totals: Mapping[str, int]) -> str | None:
    best: str | None = None
    best_key: tuple[float, str] | None = None
    for account, free in room.items():
        left = sum(free)
        if left == 0:
            continue
        key = (1 - left / totals[account], account)
        if best_key is None or key < best_key:
            best, best_key = account, key
    return best


def account_plans(
    outcome: Plan, accounts: Sequence[str], *, revision: int, planned_at_ns: int
) -> dict[str, AccountPlan]:
    """Write the outcome as one message per account; one without instruments gets an empty plan."""
    grouped: dict[str, dict[int, dict[tuple[str, StreamMode], list[int]]]] = {
        account: defaultdict(lambda: defaultdict(list)) for account in accounts
    }
    for token, slot in outcome.slots.items():
        item = outcome.wanted[token]
        grouped.setdefault(slot.account, defaultdict(lambda: defaultdict(list)))
        grouped[slot.account][slot.connection][(item.underlying, item.mode)].append(token)
    plans = {}
    for account, connections in grouped.items():
        last = max(connections, default=-1)
        plans[account] = AccountPlan(
            account=account,
            revision=revision,
            planned_at_ns=planned_at_ns,
            connections=tuple(
                PlannedConnection(
                    groups=tuple(
                        PlannedGroup(underlying=underlying, mode=mode, tokens=tuple(sorted(tokens)))
                        for (underlying, mode), tokens in sorted(connections[number].items())
                    )
                )
                for number in range(last + 1)
            ),
        )
    return plans


def slots_of(plans: Mapping[str, AccountPlan]) -> dict[int, Slot]:
    """Read the slots back from the messages of the last plan."""
    return {
        token: Slot(entry.account, number)
        for entry in plans.values()
        for number, connection in enumerate(entry.connections)
        for group in connection.groups
        for token in group.tokens
    }
