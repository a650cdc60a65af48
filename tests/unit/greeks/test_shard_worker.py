"""When a shard's worker shows chains: never of a past market, never without the lease."""

import time
from collections.abc import Sequence

import numpy as np
import pytest
from prometheus_client import REGISTRY

from libs.common.bus.cursor import StreamMessage
from libs.common.contracts import codec, subjects
from libs.common.domain.market_calendar import CALENDAR
from libs.common.lifecycle import Lifecycle
from services.greeks.domain import pricing
from services.greeks.domain.budget import SharedBudget
from services.greeks.domain.chains import CHAIN_PHASES
from services.greeks.domain.last_values import PHASES
from services.greeks.domain.policy import Policy
from services.greeks.domain.shard import Shard
from services.greeks.settings import GreeksSettings
from services.greeks.shard_worker import PATIENCE, ShardWorker
from services.greeks.turns import Turns
from tests.fakes.kite_frames import FakeMarket
from tests.fakes.outgoing_bus import FakeLease

MARKET = FakeMarket(strikes_each_side=2)
SHOWN = {
    name
    for day in MARKET.expiries
    for name in (subjects.chain("NIFTY", day), subjects.vol_curve("NIFTY", day))
}


class FakeBus:
    """Takes what is published; with `room` left only so many messages.

    Attributes:
        chains: Subjects of the chains and curves that were taken.
        room: How many more of them it takes; None for any number.
        after: Called with each of them, before it is taken.
    """

    def __init__(self) -> None:
        self.chains: list[str] = []
        self.room: int | None = None
        self.after = lambda: None

    async def publish(self, subject: str, payload: bytes) -> bool:
        """Take a message, or say that there is no room."""
        del payload
        if subject in SHOWN:
            if self.room is not None and len(self.chains) >= self.room:
                return False
            self.chains.append(subject)
            self.after()
        return True

    async def publish_all(self, messages: Sequence[tuple[str, bytes]]) -> int:
        """Take what there is room for."""
        return sum([await self.publish(subject, payload) for subject, payload in messages])


class Rig:
    """A worker that a test hands batches and turns."""

    def __init__(self) -> None:
        self.bus = FakeBus()
        self.lease = FakeLease("0")
        shard = Shard(
            epoch=1,
            calendar=CALENDAR,
            policy=Policy(),
            engine=pricing.compute_quotes,
            now_ns=time.time_ns,
        )
        shard.use_instruments(MARKET.instrument_set())
        settings = GreeksSettings(conflate_after_seconds=60)
        self.worker = ShardWorker(
            self.bus,  # type: ignore[arg-type]  # A fake.
            self.lease,  # type: ignore[arg-type]  # A fake.
            shard,
            settings,
            Lifecycle(),
            reprices=SharedBudget(1000),
            last_values=SharedBudget(1000),
            turns=Turns(),
        )
        self.sequence = 0

    async def batch(self, *, pending: int = 0, age_seconds: float = 0.0) -> None:
        """The worker fetched one frame of the whole market, of which more wait behind it."""
        self.sequence += 1
        now_ns = time.time_ns()
        message = StreamMessage(
            subject=subjects.frame(0, "A1"),
            payload=MARKET.frame(),
            headers={codec.HEADER_SOURCE: "sim", codec.HEADER_RECEIVED_AT: str(now_ns)},
            sequence=self.sequence,
            timestamp_ns=now_ns - int(age_seconds * 1e9),
            pending=pending,
        )
        await self.worker._on_batch([message])

    async def interval(self) -> list[str]:
        """Let every expiry have its turn; gives what was shown."""
        first = len(self.bus.chains)
        for phase in range(CHAIN_PHASES):
            await self.worker._publish_chains(phase, 0.0)
        return self.bus.chains[first:]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"tickfleet_greeks_{name}_total", labels) or 0.0


async def test_news_are_shown_once(rig):
    before = counted("chains", kind="chain"), counted("chains", kind="curve")
    await rig.batch()
    shown = await rig.interval()
    assert (len(shown), set(shown)) == (4, SHOWN)
    assert await rig.interval() == []
    after = counted("chains", kind="chain"), counted("chains", kind="curve")
    assert after == (before[0] + 2, before[1] + 2)


async def test_while_an_earlier_owners_frames_are_replayed_nothing_is_shown(rig):
    before = counted("chains_skipped", reason="rebuild")
    rig.worker._published_until = 3
    for pending in (2, 1):
        await rig.batch(pending=pending)
        assert await rig.interval() == []
    assert counted("chains_skipped", reason="rebuild") == before + 4
    # The last of them: all that is known of the market is known.
    await rig.batch(pending=1)
    assert set(await rig.interval()) == SHOWN


async def test_a_replay_ends_with_the_stream_too(rig):
    """A server that lost its newest messages has none up to the checkpoint."""
    rig.worker._published_until = 100
    await rig.batch()
    assert set(await rig.interval()) == SHOWN


async def test_chains_wait_while_the_worker_is_behind_and_are_made_up(rig):
    # Frames that wait for a moment are no backlog.
    await rig.batch(pending=50)
    assert set(await rig.interval()) == SHOWN
    before = counted("chains_skipped", reason="behind")
    await rig.batch(pending=50, age_seconds=59)
    assert await rig.interval() == []
    assert counted("chains_skipped", reason="behind") == before + 2
    # An old batch with nothing behind it is the present.
    await rig.batch(age_seconds=59)
    assert set(await rig.interval()) == SHOWN


async def test_chains_do_not_wait_for_ever_behind_frames_that_never_end(rig):
    await rig.batch()
    await rig.batch(pending=50, age_seconds=59)
    shown: list[str] = []
    for _ in range(2 * (PATIENCE + 1)):
        shown += await rig.interval()
    assert set(shown) == SHOWN


async def test_last_values_wait_for_frames_too_but_not_for_ever(rig):
    await rig.batch(pending=50, age_seconds=59)
    waiting = rig.worker.state.last_values.waiting
    assert waiting > PHASES
    await rig.worker._write_last_values(0, 0.05)
    assert rig.worker.state.last_values.waiting == waiting
    for phase in range(1, PHASES * (PATIENCE + 1)):
        await rig.worker._write_last_values(phase, 10.0)
    assert rig.worker.state.last_values.waiting == 0


async def test_last_values_are_bounded_and_what_waits_is_written_later(rig):
    await rig.batch()
    values = rig.worker.state.last_values
    waiting = values.waiting
    before = counted("last_values")
    turns = 0
    while values.waiting:
        left = values.waiting
        await rig.worker._write_last_values(turns, 0.001)
        assert left - values.waiting <= 1
        turns += 1
    assert counted("last_values") == before + waiting


async def test_without_the_lease_nothing_is_shown(rig):
    await rig.batch()
    rig.lease.valid = False
    assert await rig.interval() == []


async def test_a_lease_that_ends_between_two_messages_ends_there(rig):
    await rig.batch()
    before = counted("unsent", reason="lease")

    def lose() -> None:
        rig.lease.valid = False

    rig.bus.after = lose
    assert len(await rig.interval()) == 1
    assert counted("unsent", reason="lease") == before + 1


async def test_what_the_bus_did_not_take_is_shown_in_the_next_interval(rig):
    await rig.batch()
    rig.bus.room = 1
    assert len(await rig.interval()) == 1
    rig.bus.room = None
    assert set(await rig.interval()) == SHOWN
    assert not np.any(rig.worker.state.chains.touched)
