"""A new dump reaches running greeks and gateway processes: what changed, came and left."""

import msgspec
import pytest

from libs.common.bus.provision import ensure
from libs.common.contracts import streams
from libs.common.domain.instruments import Instrument, Kind, OptionType
from services.control import registry
from tests.fakes.kite_frames import FakeMarket
from tests.integration.gateway_rig import Market, Peer, running_gateway
from tests.integration.test_greeks_service import (
    Feeder,
    eventually,
    listening,
    ready,
    running,
    settings_of,
)

pytestmark = pytest.mark.integration


def two_days() -> tuple[FakeMarket, FakeMarket]:
    """A market on two days: one contract left, one came, one token was given away again."""
    today, tomorrow = FakeMarket(strikes_each_side=3), FakeMarket(strikes_each_side=3)
    near, far = today.expiries
    gone, changed = today.options[0], today.options[1]
    assert changed.strike is not None
    tomorrow.instruments.remove(gone)
    tomorrow.instruments[tomorrow.instruments.index(changed)] = msgspec.structs.replace(
        changed, tradingsymbol="ANOTHER", expiry=far, strike=changed.strike + 1000
    )
    came = tomorrow._instrument(
        99_000 * 256 + 2, "NEWCOMER", Kind.OPTION, near, 26_000.0, OptionType.CALL
    )
    tomorrow.instruments.append(came)
    return today, tomorrow


async def is_accepted(peer: Peer, item: Instrument) -> bool:
    """Whether the gateway takes a subscription; a refusal and an acceptance both end with one."""
    token = item.instrument_token
    await peer.say(action="subscribe", tokens=[token])
    answer = await peer.receive()
    if answer["type"] == "error":
        assert (answer["code"], answer["tokens"]) == ("unknown_token", [token])
        answer = await peer.next("subscribed")
    return token in answer["tokens"]


async def test_greeks_prices_what_came_and_changed_and_leaves_what_left(nats_server, bus):
    today, tomorrow = two_days()
    gone, changed, came = today.options[0], today.options[1], tomorrow.instruments[-1]
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    await registry.publish(bus, today.instruments, revision=1, market_date=today.expiries[0])
    feeder = Feeder(bus, today)
    async with listening(bus) as listener, running(settings_of(nats_server)):
        await ready(listener, feeder)
        await feeder.send(today.frame())
        await eventually(
            lambda: (
                {gone.instrument_token, changed.instrument_token}
                <= {t.instrument_token for t in listener.ticks}
            )
        )
        await registry.publish(bus, tomorrow.instruments, revision=2, market_date=today.expiries[1])

        async def is_known() -> bool:
            await feeder.send(tomorrow.frame([came, changed, gone]))
            return any(t.tradingsymbol == "NEWCOMER" for t in listener.ticks)

        await eventually(is_known)
        # One set brought all three, so from the newcomer's first tick on the others are new too.
        first = next(n for n, t in enumerate(listener.ticks) if t.tradingsymbol == "NEWCOMER")
        await feeder.send(tomorrow.frame([came, changed, gone]))
        await eventually(lambda: any(t.tradingsymbol == "ANOTHER" for t in listener.ticks[first:]))
        since = listener.ticks[first:]
        names = {t.instrument_token: t.tradingsymbol for t in since}
        assert names == {came.instrument_token: "NEWCOMER", changed.instrument_token: "ANOTHER"}
        [seqs] = [[t.seq for t in since if t.tradingsymbol == "ANOTHER"]]
        assert seqs == sorted(set(seqs))


async def test_gateway_accepts_what_came_and_refuses_what_left(nats_server, bus):
    today, tomorrow = two_days()
    gone, changed, came = today.options[0], today.options[1], tomorrow.instruments[-1]
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    await registry.publish(bus, today.instruments, revision=1, market_date=today.expiries[0])
    async with running_gateway(nats_server.url) as gateway, gateway.client() as peer:
        assert await is_accepted(peer, gone)
        assert not await is_accepted(peer, came)
        await registry.publish(bus, tomorrow.instruments, revision=2, market_date=today.expiries[1])
        await eventually(lambda: is_accepted(peer, came))
        assert await is_accepted(peer, changed)
        await peer.say(action="unsubscribe", tokens=[gone.instrument_token])
        await peer.next("unsubscribed")
        assert not await is_accepted(peer, gone)


@pytest.mark.parametrize("new_owner_first", [True, False])
async def test_token_that_moves_to_another_underlying_stays_known(
    nats_server, bus, new_owner_first
):
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    old, new = FakeMarket("MRF", strikes_each_side=1), FakeMarket("ABB", first_token=70_000)
    moved = old.options[0]
    day = old.expiries[0]
    await registry.publish(bus, old.instruments + new.instruments, revision=1, market_date=day)
    async with running_gateway(nats_server.url) as gateway, gateway.client() as peer:
        sets = [
            [*new.instruments, msgspec.structs.replace(moved, underlying="ABB", tradingsymbol="X")],
            [item for item in old.instruments if item is not moved],
        ]
        if not new_owner_first:
            sets.reverse()
        # The set that is written last brings a newcomer, which tells that both have arrived.
        came = msgspec.structs.replace(sets[1][-1], instrument_token=5, tradingsymbol="CAME")
        await registry.publish(bus, [*sets[0], *sets[1], came], revision=2, market_date=day)

        await eventually(lambda: is_accepted(peer, came))
        assert await is_accepted(peer, moved)


async def test_last_tick_of_a_dead_contract_is_given_to_nobody(nats_server, bus):
    today, tomorrow = two_days()
    gone, changed, stays = today.options[:3]
    came = tomorrow.instruments[-1]
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    await registry.publish(bus, today.instruments, revision=1, market_date=today.expiries[0])
    market = Market()
    await market.store_last(
        bus,
        [
            market.tick(item, underlying=item.underlying, last_price=100.0)
            for item in (gone, changed, stays)
        ],
    )

    async def snapshots(peer: Peer) -> set[int]:
        # The last to be answered has a stored tick, so that those before it have come by then.
        await peer.say(
            action="subscribe", tokens=[changed.instrument_token, stays.instrument_token]
        )
        await peer.next("subscribed")
        seen: set[int] = set()
        while stays.instrument_token not in seen:
            seen.add((await peer.next("tick"))["data"]["instrument_token"])
        return seen

    both = {changed.instrument_token, stays.instrument_token}
    async with running_gateway(nats_server.url) as gateway:
        async with gateway.client() as peer:

            async def all_are_read() -> bool:
                found = await snapshots(peer)
                await peer.say(action="unsubscribe", tokens=sorted(both))
                await peer.next("unsubscribed")
                return found == both

            await eventually(all_are_read)
        await registry.publish(bus, tomorrow.instruments, revision=2, market_date=today.expiries[1])
        await registry.forget_last_values(bus, [changed])
        async with gateway.client() as peer:
            await eventually(lambda: is_accepted(peer, came))
            assert await snapshots(peer) == {stays.instrument_token}
    # A gateway that starts later reads what the stream has.
    async with running_gateway(nats_server.url) as gateway, gateway.client() as peer:
        await eventually(lambda: is_accepted(peer, came))
        assert await snapshots(peer) == {stays.instrument_token}
