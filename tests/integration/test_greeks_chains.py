"""Chains and volatility curves of the greeks service on a real NATS server."""

import asyncio
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from itertools import pairwise

import pytest
from vollib.black.greeks.analytical import delta as black_delta
from vollib.black.implied_volatility import implied_volatility

from libs.common.bus.connection import Bus, BusMessage
from libs.common.bus.newest import kept_subjects, newest, newest_of
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import Chain, Forward, VolCurve
from libs.common.kite.frames import frame_of
from services.greeks.settings import GreeksSettings
from tests.fakes.kite_frames import FakeMarket
from tests.integration.test_greeks_service import (
    Feeder,
    Process,
    eventually,
    feeding,
    running,
    settings_of,
)

pytestmark = pytest.mark.integration

NEAR, FAR = date(2026, 11, 24), date(2026, 12, 1)


class Board:
    """Every chain and curve that the service publishes, in order."""

    def __init__(self) -> None:
        self.chains: list[Chain] = []
        self.curves: list[VolCurve] = []

    def take(self, message: BusMessage) -> None:
        """Decode one message; its subject must be its own."""
        if message.subject.startswith(subjects.CHAIN_PREFIX):
            chain = codec.from_json(Chain, message.payload)
            assert message.subject == subjects.chain(chain.underlying, chain.expiry)
            self.chains.append(chain)
        else:
            curve = codec.from_json(VolCurve, message.payload)
            assert message.subject == subjects.vol_curve(curve.underlying, curve.expiry)
            self.curves.append(curve)

    def whole(self, market: FakeMarket) -> bool:
        """Whether the newest chain and curve of every expiry hold every strike."""
        each = 2 * market.strikes_each_side + 1
        return all(
            any(len(m.strikes) == each for m in messages if m.expiry == day)
            for day in market.expiries
            for messages in (self.chains, self.curves)
        )


@asynccontextmanager
async def watching(bus: Bus) -> AsyncIterator[Board]:
    board = Board()
    standing = [
        await bus.subscribe(pattern, board.take)
        for pattern in (subjects.ALL_CHAINS, subjects.ALL_VOL_CURVES)
    ]
    yield board
    for subscription in standing:
        await subscription.unsubscribe()


async def provided(bus: Bus, market: FakeMarket) -> Feeder:
    feeder = Feeder(bus, market)
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    await feeder.provide()
    return feeder


async def shown(feeder: Feeder, board: Board) -> None:
    """Send the whole market until its chains hold all of it."""

    async def whole() -> bool:
        await feeder.send(feeder.market.frame())
        await asyncio.sleep(0.05)
        return board.whole(feeder.market)

    await eventually(whole, seconds=40)


def quick(server, worker: str = "g1", **changes) -> GreeksSettings:
    return settings_of(server, worker, **{"chain_interval_seconds": 0.1, **changes})


async def test_frames_become_chains_and_curves_whose_numbers_vollib_confirms(nats_server, bus):
    market = FakeMarket(strikes_each_side=10)
    feeder = await provided(bus, market)
    async with watching(bus) as board, running(quick(nats_server)):
        await shown(feeder, board)
    for day, source in ((NEAR, "future"), (FAR, "synthetic")):
        chain = next(c for c in reversed(board.chains) if c.expiry == day)
        assert (chain.underlying, chain.forward_source, chain.source) == ("NIFTY", source, "sim")
        assert chain.forward == pytest.approx(market.forward(day), abs=0.3)
        assert chain.offsets == tuple(range(chain.offsets[0], chain.offsets[0] + 21))
        assert chain.strikes[chain.offsets.index(0)] == chain.atm_strike
        checked = 0
        for letter, side in (("c", chain.calls), ("p", chain.puts)):
            for row, strike in enumerate(chain.strikes):
                price, iv = side.last_price[row], side.iv[row]
                if side.iv_status[row] != "ok":
                    continue
                vol = implied_volatility(price, chain.forward, strike, 0.0, chain.tte, letter)
                assert iv == pytest.approx(vol, abs=1e-6)
                expected = black_delta(letter, chain.forward, strike, chain.tte, 0.0, vol)
                assert side.delta[row] == pytest.approx(expected, abs=1e-6)
                checked += 1
        assert checked > 30
        curve = next(c for c in reversed(board.curves) if c.expiry == day)
        assert curve.atm_iv == pytest.approx(0.15, abs=0.003)
        assert curve.put_call_oi_ratio == pytest.approx(1.0, abs=0.05)
        assert curve.risk_reversal_25d == pytest.approx(0.0, abs=0.003)
        at = chain.strikes.index(chain.atm_strike)
        books = (chain.calls.bid[at], chain.calls.ask[at], chain.puts.bid[at], chain.puts.ask[at])
        assert curve.straddle == pytest.approx(sum(price or 0.0 for price in books) / 2)
        assert curve.max_pain == max_pain_of(chain)


def max_pain_of(chain: Chain) -> float:
    """By hand: what holders would be paid at each strike."""

    def paid(at: float) -> float:
        return sum(
            (chain.calls.oi[row] or 0) * max(at - strike, 0.0)
            + (chain.puts.oi[row] or 0) * max(strike - at, 0.0)
            for row, strike in enumerate(chain.strikes)
        )

    return min(chain.strikes, key=paid)


async def test_the_newest_of_each_expiry_is_kept_and_forwards_show_its_skew(nats_server, bus):
    market = FakeMarket(strikes_each_side=10, underlying="M&M")
    feeder = await provided(bus, market)
    forwards: list[Forward] = []
    listening = await bus.subscribe(
        subjects.ALL_FORWARDS, lambda m: forwards.append(codec.from_json(Forward, m.payload))
    )
    async with watching(bus) as board, running(quick(nats_server)):
        await shown(feeder, board)

        async def skewed() -> bool:
            await feeder.send(market.frame())
            await asyncio.sleep(0.05)
            known = {f.expiry for f in forwards if f.skew_25d is not None}
            return known == set(market.expiries)

        await eventually(skewed)
    await listening.unsubscribe()
    stream = streams.MD_CHAINS.name
    held = await kept_subjects(bus, stream, ">")
    assert held == sorted(
        [subjects.chain("M&M", day) for day in market.expiries]
        + [subjects.vol_curve("M&M", day) for day in market.expiries]
    )
    payloads = await newest_of(bus, stream, held)
    last = {subjects.chain(c.underlying, c.expiry): codec.to_json(c) for c in board.chains}
    last |= {subjects.vol_curve(c.underlying, c.expiry): codec.to_json(c) for c in board.curves}
    assert payloads == last
    assert await newest(bus, stream, subjects.chain("M&M", date(2030, 1, 1))) is None


async def test_an_expiry_is_shown_at_most_once_per_interval_and_only_with_news(nats_server, bus):
    market = FakeMarket(strikes_each_side=3)
    feeder = await provided(bus, market)
    settings = quick(nats_server, chain_interval_seconds=0.4)
    async with watching(bus) as board, running(settings):
        await shown(feeder, board)
        async with feeding(feeder):
            await eventually(lambda: len(board.chains) > 16)
        # What was sent last is shown, then nothing more although time goes on.
        count = -1
        while count != len(board.chains):
            count = len(board.chains)
            await asyncio.sleep(3 * settings.chain_interval_seconds)
    made = defaultdict(list)
    for chain in board.chains:
        made[chain.expiry].append(chain.greeks_ts)
    assert made.keys() == set(market.expiries)
    # The next turn comes a fifth of an interval after one has ended or later, however late that
    # was; the last fifth is what a late turn lacks to its successor.
    gaps = [b - a for stamps in made.values() for a, b in pairwise(stamps)]
    assert len(gaps) > 10
    assert min(gaps) > 0.75 * settings.chain_interval_seconds * 1e9
    assert len(board.curves) == len(board.chains)


async def test_an_interval_of_zero_shows_no_chains(nats_server, bus):
    market = FakeMarket(strikes_each_side=3)
    feeder = await provided(bus, market)
    forwards: list[BusMessage] = []
    listening = await bus.subscribe(subjects.ALL_FORWARDS, forwards.append)
    async with (
        watching(bus) as board,
        running(settings_of(nats_server, chain_interval_seconds=0)),
        feeding(feeder),
    ):
        await eventually(lambda: len(forwards) > 10)
    await listening.unsubscribe()
    assert (board.chains, board.curves) == ([], [])


async def test_a_frozen_owner_shows_nothing_when_it_wakes(nats_server, bus):
    market = FakeMarket(strikes_each_side=4)
    feeder = await provided(bus, market)
    frozen = Process(nats_server, "p1", CHAIN_INTERVAL_SECONDS="0.1")
    try:
        async with watching(bus) as board:
            await shown(feeder, board)
            async with feeding(feeder):
                frozen._process.send_signal(signal.SIGSTOP)
                epoch = board.chains[-1].epoch
                async with running(quick(nats_server, "g2")):
                    await eventually(lambda: board.chains[-1].epoch > epoch)
                    frozen._process.send_signal(signal.SIGCONT)
                    count = len(board.chains)
                    await eventually(lambda: len(board.chains) > count + 20)
                    late = [c for c in board.chains[count:] if c.epoch <= epoch]
        assert late == []
    finally:
        frozen.end(signal.SIGKILL)


async def test_a_new_owner_shows_its_first_chain_when_it_knows_the_market(nats_server, bus):
    market = FakeMarket(strikes_each_side=10)
    feeder = await provided(bus, market)
    options = market.options

    async def strike_by_strike() -> None:
        await feeder.send(market.frame(market.instruments[:2]))
        for first in range(0, len(options), 2):
            await feeder.send(frame_of(market.full(options[first : first + 2])))

    async with watching(bus) as board:
        async with running(quick(nats_server, "g1", checkpoint_interval_seconds=0.05)):

            async def whole() -> bool:
                await strike_by_strike()
                await asyncio.sleep(0.05)
                return board.whole(market)

            await eventually(whole, seconds=40)
        epoch = max(chain.epoch for chain in board.chains)

        def heirs() -> list[Chain]:
            return [chain for chain in board.chains if chain.epoch > epoch]

        # Frame by frame and without a pause: a half-read market would show.
        settings = quick(nats_server, "g2", batch_frames=1, chain_interval_seconds=0.02)
        async with running(settings):

            async def shown_again() -> bool:
                # A packet of the index is news of every expiry; strikes are known from before.
                await feeder.send(frame_of(market.index_packet()))
                await asyncio.sleep(0.05)
                return {chain.expiry for chain in heirs()} == set(market.expiries)

            await eventually(shown_again)
    assert {len(chain.strikes) for chain in heirs()} == {21}
