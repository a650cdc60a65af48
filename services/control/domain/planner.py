"""Who streams what: wanted instruments over accounts and connections, moving as few as possible."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from libs.common.contracts.messages import (
    AccountPlan,
    PlannedConnection,
    PlannedGroup,
    StreamMode,
)
from services.control.domain.windows import EXPLICIT, PRICED_WITH, WINDOW, Wanted

RETURN_BATCH: Final = 500
"""Instruments that move home in one round at most: a command or two per connection."""

_MODE_RANK = {StreamMode.LTP: 0, StreamMode.QUOTE: 1, StreamMode.FULL: 2}
# New instruments of one underlying stay together in blocks of this size: fewer, fuller frames.
_BLOCK = 50
_REASON_RANK = {EXPLICIT: 0, WINDOW: 1, PRICED_WITH: 2}


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
    """A place in the plan.

    Attributes:
        account: Who streams it.
        connection: On which of its connections, counted from 0.
        home: The account that lost it and gets it back; None when it belongs where it is.
    """

    account: str
    connection: int
    home: str | None = None


class Cause(StrEnum):
    """Why an instrument is not streamed."""

    NO_ROOM = "no_room"
    UNPRICED = "unpriced"
    PIN_FULL = "pin_full"
    PIN_UNKNOWN = "pin_unknown"
    PIN_LOST = "pin_lost"
    ACCOUNT_LOST = "account_lost"

    @property
    def passes(self) -> bool:
        """Whether waiting helps: the account that is away may come back."""
        return self in {Cause.PIN_LOST, Cause.ACCOUNT_LOST}


class Unplaced(msgspec.Struct, frozen=True, kw_only=True):
    """An instrument that no account can stream now, and why."""

    instrument_token: int
    cause: Cause
    reason: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome: every wanted instrument has a slot, or a reason why it has none.

    Attributes:
        slots: Who streams what.
        wanted: One entry per instrument.
        unplaced: What has no slot, most wanted first.
        stranded: Unplaced instruments that stay in the entry of a lost account, because nobody
            else has room: they stream the moment it is back.
        returned: How many moved home.
    """

    slots: dict[int, Slot]
    wanted: dict[int, Wanted]
    unplaced: tuple[Unplaced, ...]
    stranded: dict[int, Slot] = {}
    returned: int = 0

    @property
    def away(self) -> int:
        """How many instruments wait for their home."""
        return sum(slot.home is not None for slot in self.slots.values())


def merge(wanted: Iterable[Wanted]) -> dict[int, Wanted]:
    """One entry per instrument: the highest mode, any pin, the reason nearest to a person."""
    merged: dict[int, Wanted] = {}
    for item in wanted:
        held = merged.get(item.instrument_token)
        if held is None:
            merged[item.instrument_token] = item
            continue
        if held == item:
            continue
        merged[item.instrument_token] = Wanted(
            instrument_token=item.instrument_token,
            underlying=held.underlying,
            mode=max(held.mode, item.mode, key=_MODE_RANK.__getitem__),
            reason=min(held.reason, item.reason, key=_REASON_RANK.__getitem__),
            account=held.account or item.account,
            needs=tuple(dict.fromkeys((*held.needs, *item.needs))),
            distance=min(held.distance, item.distance),
        )
    return merged


def plan(
    wanted: Sequence[Wanted],
    capacities: Sequence[Capacity],
    previous: Mapping[int, Slot],
    *,
    lost: Collection[str] = (),
    returning: Collection[str] = (),
    return_batch: int = RETURN_BATCH,
) -> Plan:
    """Place the wanted instruments.

    What is admitted when room is short: what people asked for, then windows from the money
    outwards, then the rest; each one together with what prices it, or not at all. Among equals
    those that stream go first, then those that did on an account that was lost.

    Where it goes: an instrument stays in its slot while the account is there and no pin says
    otherwise. New ones go, underlying by underlying in small blocks, to the account that is
    filled the least, and there to the first connection with room, so that a connection opens only
    when the one before it is full. What a lost account streamed goes the same way and remembers
    its home. The outcome depends on the arguments alone, not on their order.

    A pin to an account that cannot take an instrument leaves it unplaced, unless others need it:
    then it is streamed for them elsewhere.

    Args:
        wanted: What should be streamed; an instrument may be wanted more than once.
        capacities: The accounts that can stream.
        previous: The slots of the last plan.
        lost: Accounts that are away; they get nothing, and what they had moves.
        returning: Accounts that can stream but were away a moment ago; they get what has no other
            place, and their instruments back only later.
        return_batch: How many instruments may move home.
    """
    there = [c for c in sorted(capacities, key=lambda c: c.account) if c.account not in lost]
    merged = merge(wanted)
    admission = _Admission(merged, there, previous, wanted, frozenset(lost))
    admission.run()
    placement = _Placement(there, frozenset(returning), previous, frozenset(lost))
    placement.keep(admission.admitted, admission.pins)
    placement.place(admission.admitted, admission.pins, merged)
    returned = placement.send_home(return_batch)

    unplaced: list[Unplaced] = []
    stranded: dict[int, Slot] = {}
    for item in admission.refused:
        slot = previous.get(item.instrument_token)
        if slot is not None and slot.account in lost:
            stranded[item.instrument_token] = slot
            if not item.cause.passes:
                item = Unplaced(  # noqa: PLW2901  # The same refusal, told by its true cause.
                    instrument_token=item.instrument_token,
                    cause=Cause.ACCOUNT_LOST,
                    reason=f"account {slot.account} is away and no other account has room",
                )
        unplaced.append(item)
    return Plan(
        slots=placement.slots,
        wanted=merged,
        unplaced=tuple(unplaced),
        stranded=stranded,
        returned=returned,
    )


class _Admission:
    """Chooses what is streamed at all.

    Attributes:
        admitted: Most wanted first.
        pins: The pins of the admitted that hold.
        refused: The others, most wanted first.
    """

    def __init__(
        self,
        merged: Mapping[int, Wanted],
        there: Sequence[Capacity],
        previous: Mapping[int, Slot],
        wanted: Iterable[Wanted],
        lost: frozenset[str],
    ) -> None:
        self.admitted: dict[int, None] = {}
        self.pins: dict[int, str] = {}
        self.refused: list[Unplaced] = []
        self._merged = merged
        self._previous = previous
        self._lost = lost
        self._left = sum(c.total for c in there)
        self._pin_room = {c.account: c.total for c in there}
        # Instruments that somebody needs wherever they are streamed.
        self._unbound = {w.instrument_token for w in wanted if w.account is None}
        self._unbound.update(needed for item in merged.values() for needed in item.needs)

    def run(self) -> None:
        """Admit in order of rank; what is admitted pulls in what prices it."""
        waiting: list[int] = []
        for token in sorted(self._merged, key=self._rank):
            if token in self.admitted:
                continue
            item = self._merged[token]
            if item.reason == PRICED_WITH:
                # Whatever is placed has pulled these in; the rest comes last, if there is room.
                waiting.append(token)
                continue
            self._admit(item)
        for token in waiting:
            if token not in self.admitted:
                self._admit(self._merged[token])

    def _rank(self, token: int) -> tuple[int, int, int, int]:
        item = self._merged[token]
        distance = 0 if item.reason == EXPLICIT else item.distance
        slot = self._previous.get(token)
        seniority = 2 if slot is None else 0 if slot.account in self._pin_room else 1
        return _REASON_RANK[item.reason], distance, seniority, token

    def _admit(self, item: Wanted) -> None:
        token = item.instrument_token
        pin, problem = self._pin(item)
        if problem is not None:
            self._refuse(token, problem, _pin_reason(problem, item.account))
            return
        needs = [n for n in item.needs if n in self._merged and n not in self.admitted]
        if self._left <= 0:
            self._refuse(token, Cause.NO_ROOM, "no account has room")
            return
        if len(needs) + 1 > self._left:
            self._refuse(
                token,
                Cause.UNPRICED,
                f"no account has room for it and the {len(needs)} instruments that price it",
            )
            return
        beside = sum(self._pin(self._merged[needed])[0] == pin for needed in needs)
        if pin is not None and self._pin_room[pin] <= beside:
            self._refuse(token, Cause.PIN_FULL, _pin_reason(Cause.PIN_FULL, pin))
            return
        for needed in needs:
            # No pin keeps away what others are priced with: `_pin` drops one that cannot hold.
            self._take(needed, self._pin(self._merged[needed])[0])
        self._take(token, pin)

    def _pin(self, item: Wanted) -> tuple[str | None, Cause | None]:
        """The account an instrument must go to, or why it cannot go there."""
        pin = item.account
        if pin is None:
            return None, None
        if self._pin_room.get(pin, 0) > 0:
            return pin, None
        if item.instrument_token in self._unbound:
            return None, None
        if pin in self._lost:
            return None, Cause.PIN_LOST
        return None, Cause.PIN_FULL if pin in self._pin_room else Cause.PIN_UNKNOWN

    def _take(self, token: int, pin: str | None) -> None:
        self.admitted[token] = None
        self._left -= 1
        if pin is not None:
            self.pins[token] = pin
            self._pin_room[pin] -= 1

    def _refuse(self, token: int, cause: Cause, reason: str) -> None:
        self.refused.append(Unplaced(instrument_token=token, cause=cause, reason=reason))


def _pin_reason(cause: Cause, account: str | None) -> str:
    match cause:
        case Cause.PIN_LOST:
            return f"account {account}, to which it is pinned, is away"
        case Cause.PIN_FULL:
            return f"account {account}, to which it is pinned, has no room"
        case _:
            return f"account {account}, to which it is pinned, is unknown or disabled"


class _Placement:
    """Gives the admitted their slots; there is room for all of them."""

    def __init__(
        self,
        there: Sequence[Capacity],
        returning: frozenset[str],
        previous: Mapping[int, Slot],
        lost: frozenset[str],
    ) -> None:
        self.slots: dict[int, Slot] = {}
        self._room = {c.account: [c.tokens_per_connection] * c.connections for c in there}
        self._free = {c.account: c.total for c in there}
        self._total = {c.account: c.total for c in there}
        self._returning = returning
        self._previous = previous
        self._absent = lost | returning

    def keep(self, admitted: Iterable[int], pins: Mapping[int, str]) -> None:
        """Leave in place what can stay, the most wanted first where an account has shrunk."""
        # Room that pinned instruments will need is not left to those that can go elsewhere.
        unpinned_room = dict(self._free)
        for account in pins.values():
            unpinned_room[account] -= 1
        for token in admitted:
            slot = self._previous.get(token)
            if slot is None or slot.account not in self._room:
                continue
            pin = pins.get(token)
            room = self._room[slot.account]
            if slot.connection >= len(room) or room[slot.connection] <= 0:
                continue
            if pin is None:
                if unpinned_room[slot.account] <= 0:
                    continue
                unpinned_room[slot.account] -= 1
            elif pin != slot.account:
                continue
            home = None if pin is not None else self._home_of(slot)
            self._take(token, slot.account, slot.connection, home)

    def _home_of(self, slot: Slot) -> str | None:
        """The home of an instrument whose account is there; None if nobody knows it any more."""
        return slot.home if self._knows(slot.home) and slot.home != slot.account else None

    def _knows(self, account: str | None) -> bool:
        return account in self._room or account in self._absent

    def place(
        self, admitted: Iterable[int], pins: Mapping[int, str], merged: Mapping[int, Wanted]
    ) -> None:
        """Find a slot for what has none yet; pinned instruments first, the others go anywhere."""
        groups: dict[str, list[int]] = defaultdict(list)
        homes: dict[int, str] = {}
        for token in sorted(token for token in admitted if token not in self.slots):
            pin = pins.get(token)
            if pin is not None:
                self._take(token, pin, self._connection(pin), None)
                continue
            home = self._lost_home(token)
            if home is not None:
                homes[token] = home
            groups[merged[token].underlying].append(token)
        for _, tokens in sorted(groups.items()):
            account = ""
            for position, token in enumerate(tokens):
                belongs = homes.get(token)
                if belongs in self._free and belongs not in self._absent and self._free[belongs]:
                    self._take(token, belongs, self._connection(belongs), None)
                    continue
                if position % _BLOCK == 0 or not self._free.get(account):
                    account = self._emptiest()
                elsewhere = belongs if belongs != account else None
                self._take(token, account, self._connection(account), elsewhere)

    def _lost_home(self, token: int) -> str | None:
        """Where an instrument belongs that has no slot now but had one."""
        slot = self._previous.get(token)
        if slot is None:
            return None
        if slot.account in self._room:
            return self._home_of(slot)
        home = slot.home if self._knows(slot.home) else slot.account
        return home if self._knows(home) else None

    def send_home(self, batch: int) -> int:
        """Move up to `batch` instruments to their homes that are well again."""
        moved = 0
        ready = sorted(
            (slot.home, token)
            for token, slot in self.slots.items()
            if slot.home is not None and slot.home in self._room and slot.home not in self._absent
        )
        for home, token in ready:
            if moved >= batch:
                break
            if self._free[home] <= 0:
                continue
            slot = self.slots[token]
            self._room[slot.account][slot.connection] += 1
            self._free[slot.account] += 1
            self._take(token, home, self._connection(home), None)
            moved += 1
        return moved

    def _take(self, token: int, account: str, connection: int, home: str | None) -> None:
        self._room[account][connection] -= 1
        self._free[account] -= 1
        self.slots[token] = Slot(account, connection, home)

    def _connection(self, account: str) -> int:
        return next(number for number, free in enumerate(self._room[account]) if free > 0)

    def _emptiest(self) -> str:
        """The account that is filled the least; one that has just come back only if it must be."""
        return min(
            (account for account, free in self._free.items() if free > 0),
            key=lambda a: (a in self._returning, 1 - self._free[a] / self._total[a], a),
        )


def account_plans(
    outcome: Plan, accounts: Collection[str], *, revision: int, planned_at_ns: int
) -> dict[str, AccountPlan]:
    """Write the outcome as one message per account; one without instruments gets an empty plan."""
    grouped: dict[str, dict[int, dict[tuple[str, StreamMode, str], list[int]]]] = {
        account: defaultdict(lambda: defaultdict(list)) for account in accounts
    }
    for slots in (outcome.slots, outcome.stranded):
        for token, slot in slots.items():
            item = outcome.wanted[token]
            connections = grouped.setdefault(slot.account, defaultdict(lambda: defaultdict(list)))
            key = (item.underlying, item.mode, slot.home or "")
            connections[slot.connection][key].append(token)
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
                        PlannedGroup(
                            underlying=underlying,
                            mode=mode,
                            tokens=tuple(sorted(tokens)),
                            home=home or None,
                        )
                        for (underlying, mode, home), tokens in sorted(connections[number].items())
                    )
                )
                for number in range(last + 1)
            ),
        )
    return plans


def slots_of(plans: Mapping[str, AccountPlan]) -> dict[int, Slot]:
    """Read the slots back from the messages of the last plan."""
    return {
        token: Slot(entry.account, number, group.home)
        for entry in plans.values()
        for number, connection in enumerate(entry.connections)
        for group in connection.groups
        for token in group.tokens
    }
