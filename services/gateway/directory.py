"""What the fleet says of itself in its buckets, mirrored: instruments, plan and feeds."""

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.kv import Mirror
from libs.common.contracts import codec, streams
from libs.common.contracts.messages import AccountPlan, AccountState, FeedStatus, Message
from libs.common.contracts.orders import OrdersStatus
from libs.common.lifecycle import Lifecycle

FEED_KEY_PREFIX = "feed-"
ORDERS_KEY_PREFIX = "orders-"

log = logs.get_logger(__name__)
M = TypeVar("M", bound=Message)


class _Contract(Message, frozen=True, kw_only=True):
    """The fields of an instrument that tell it from others: all that the gateway reads of it."""

    instrument_token: int
    exchange: str
    tradingsymbol: str


class _ContractSet(Message, frozen=True, kw_only=True):
    """An `InstrumentSet` read for its contracts only: half of the time and memory."""

    instruments: tuple[_Contract, ...]


class Directory:
    """Which instruments exist, what is planned, and how the feeds fare.

    A value that cannot be decoded (from a newer or broken sender) is logged and the one before is
    kept: no message of another process may take the gateway down.

    Args:
        bus: The connection.
        on_forgotten: Told which tokens left or mean another contract now.

    Attributes:
        plans: By account.
        feeds: By account.
        accounts: By account.
        orders: How the orders fare, by account; without those that nobody holds.
        instruments_at_ns: When a set of instruments last changed, epoch ns; None before.
    """

    def __init__(
        self, bus: Bus, on_forgotten: Callable[[Iterable[int]], None] = lambda _: None
    ) -> None:
        self.plans: dict[str, AccountPlan] = {}
        self.feeds: dict[str, FeedStatus] = {}
        self.accounts: dict[str, AccountState] = {}
        self.orders: dict[str, OrdersStatus] = {}
        self.instruments_at_ns: int | None = None
        self._on_forgotten = on_forgotten
        self._tokens_of: dict[str, frozenset[int]] = {}
        # By token, whose set it is in: a token may move from one underlying to another, and the
        # sets arrive one by one, in either order. And which contract it means, as a hash.
        self._owner: dict[int, str] = {}
        self._contract: dict[int, int] = {}
        self._account_of_key: dict[str, str] = {}
        self._mirrors = {
            "instruments": Mirror(bus, streams.INSTRUMENTS.name, self._instruments_changed),
            "plan": Mirror(bus, streams.PLAN.name, self._plan_changed),
            "accounts": Mirror(bus, streams.ACCOUNTS.name, self._account_changed),
            # The whole bucket: a NATS wildcard stands for a whole token, never for its end.
            "status": Mirror(bus, streams.STATUS.name, self._status_changed),
        }

    def start(self, life: Lifecycle) -> None:
        """Keep the mirrors current until the process stops."""
        for name, mirror in self._mirrors.items():
            life.spawn(mirror.run(life.stop), name=f"mirror-{name}")

    @property
    def is_ready(self) -> bool:
        """Whether every bucket was read once."""
        return all(mirror.is_ready for mirror in self._mirrors.values())

    @property
    def instruments(self) -> int:
        """How many instruments exist today."""
        return len(self._owner)

    def unknown(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """Those that are in no dump of today.

        None, as long as no dump is there to judge by: a client that comes before control has
        loaded one gets its ticks as soon as they flow.
        """
        if not self._owner:
            return ()
        return tuple(token for token in tokens if token not in self._owner)

    def is_account(self, name: str) -> bool:
        """Whether an account exists; any may, as long as none is known to judge by."""
        known = self.accounts.keys() | self.plans.keys()
        return not known or name in known

    @property
    def accounts_are_read(self) -> bool:
        """Whether it is known which accounts exist."""
        return self._mirrors["accounts"].is_ready

    def _instruments_changed(self, key: str, value: bytes | None) -> None:
        fresh: dict[int, int] = {}
        if value is not None:
            try:
                decoded = codec.from_msgpack(_ContractSet, value)
            except codec.DecodeError as error:
                log.warning(
                    "directory.undecodable", bucket="instruments", key=key, reason=str(error)
                )
                return
            fresh = {
                item.instrument_token: hash((item.exchange, item.tradingsymbol))
                for item in decoded.instruments
            }
            self.instruments_at_ns = time.time_ns()
        known = self._contract
        forgotten = [token for token, told in fresh.items() if known.get(token, told) != told]
        for token in self._tokens_of.pop(key, frozenset()) - fresh.keys():
            if self._owner.get(token) == key:
                del self._owner[token], known[token]
                forgotten.append(token)
        if fresh:
            self._tokens_of[key] = frozenset(fresh)
        self._owner.update(dict.fromkeys(fresh, key))
        known.update(fresh)
        if forgotten:
            self._on_forgotten(forgotten)

    def _plan_changed(self, key: str, value: bytes | None) -> None:
        self._keep(self.plans, AccountPlan, f"plan/{key}", value)

    def _account_changed(self, key: str, value: bytes | None) -> None:
        self._keep(self.accounts, AccountState, f"accounts/{key}", value)

    def _status_changed(self, key: str, value: bytes | None) -> None:
        if key.startswith(FEED_KEY_PREFIX):
            self._keep(self.feeds, FeedStatus, f"status/{key}", value)
        elif key.startswith(ORDERS_KEY_PREFIX):
            self._keep(self.orders, OrdersStatus, f"status/{key}", value)

    def _keep(self, kept: dict[str, M], kind: type[M], key: str, value: bytes | None) -> None:
        if value is None:
            kept.pop(self._account_of_key.pop(key, ""), None)
            return
        try:
            message = codec.from_json(kind, value)
        except codec.DecodeError as error:
            log.warning("directory.undecodable", key=key, reason=str(error))
            return
        account: str = msgspec.structs.asdict(message)["account"]
        self._account_of_key[key] = account
        kept[account] = message
