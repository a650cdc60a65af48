"""Planning on the real NATS and PostgreSQL: wake-ups, losses, homecomings, states, forwards."""

import asyncio
import contextlib
import json
import subprocess
import sys
from datetime import date, datetime

import msgspec
import pytest
from pydantic import SecretStr

from libs.common.bus.kv import Bucket, Mirror
from libs.common.bus.lease import RESOURCE_PREFIX, LeaseRecord
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import (
    AccountPlan,
    ControlStatus,
    FeedCoverage,
    FeedState,
    FeedStatus,
    Forward,
    ForwardSource,
    Source,
)
from libs.common.contracts.streams import BucketSpec
from libs.common.database import Database
from libs.common.domain.clock import IST, ns_of
from libs.common.domain.instruments import Instrument, Kind, OptionType
from libs.common.settings import DatabaseSettings
from services.control.domain import planner
from services.control.domain.planner import Capacity
from services.control.domain.windows import Universe
from services.control.forwards import Forwards
from services.control.planning import Market, Mirrors, Planning
from services.control.settings import ControlSettings
from tests.integration.conftest import running, until
from tests.integration.gateway_rig import running_postgres

pytestmark = pytest.mark.integration

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=IST)
EXPIRY = date(2026, 12, 1)
INDEX, OTHER = 256265, 7_000_000
# Leases that do not expire by themselves: the tests say when one is gone.
LASTING_LEASES = BucketSpec(name=streams.LEASES_ACCOUNTS.name, purpose="for a test")


def instrument(token, kind, *, underlying="NIFTY", strike=None, side=None):
    return Instrument(
        instrument_token=token,
        exchange_token=token >> 8,
        tradingsymbol=f"T{token}",
        name=underlying,
        exchange="NSE" if kind in (Kind.INDEX, Kind.EQUITY) else "NFO",
        segment="NSE" if kind in (Kind.INDEX, Kind.EQUITY) else "NFO-OPT",
        underlying=underlying,
        kind=kind,
        strike=strike,
        expiry=EXPIRY if kind is Kind.OPTION else None,
        option_type=side,
        lot_size=65,
        tick_size=0.05,
    )


def universe():
    items = [
        instrument(INDEX, Kind.INDEX),
        instrument(OTHER, Kind.EQUITY, underlying="M&M"),
        instrument(OTHER + 1, Kind.OPTION, underlying="M&M", strike=3_000.0, side=OptionType.CALL),
    ]
    for row, strike in enumerate(range(25_000, 27_050, 50)):
        for number, side in enumerate(OptionType):
            token = 1_000 + 2 * row + number
            items.append(instrument(token, Kind.OPTION, strike=float(strike), side=side))
    return Universe(items)


class Rig:
    """A Planning with everything it looks at, and hands to move it."""

    def __init__(self, bus, database, mirrors) -> None:
        self.bus = bus
        self.database = database
        self.mirrors = mirrors
        self.capacities = [
            Capacity(account=name, connections=3, tokens_per_connection=3000) for name in "abc"
        ]
        self.universe = universe()
        self.spot = 26_000.0
        self.settings = ControlSettings(
            kite_accounts="a,b,c",
            feed_source=Source.SIM,
            underlyings=("NIFTY",),
            otm_levels=20,
            option_expiry_window=1,
            account_lost_grace_seconds=0.2,
            account_return_hold_seconds=0.5,
            account_encryption_key=SecretStr("Zm9yLXRlc3RzLW9ubHktMzItYnl0ZXMtb2Yta2V5ISE="),
            _env_file=None,
        )

    def planning(self):
        """Planning of a new term."""
        return Planning(
            self.bus,
            self.database,
            self.settings,
            mirrors=self.mirrors,
            capacities=lambda: self.capacities,
        )

    @property
    def market(self):
        """What a leader would have learned."""
        return Market(
            universe=self.universe,
            chains=self.universe.chains(["NIFTY"]),
            prices={"NIFTY": self.spot},
            now=NOW,
            source=Source.SIM,
        )

    def slots(self):
        """Where everything is, as ingest reads it."""
        plans = {
            key: codec.from_json(AccountPlan, value)
            for key, value in self.mirrors.plans.items().items()
        }
        return planner.slots_of(plans)

    def accounts(self):
        """Who streams what."""
        return {token: slot.account for token, slot in self.slots().items()}

    async def hold(self, account, worker="ingest-1"):
        """Let an ingest worker hold an account."""
        record = LeaseRecord(member=worker, incarnation="1", resource=account)
        await Bucket(self.bus, LASTING_LEASES.name).put(
            RESOURCE_PREFIX + account, msgspec.json.encode(record)
        )
        await until(lambda: RESOURCE_PREFIX + account in self.mirrors.leases)

    async def release(self, account):
        """Let nobody hold it."""
        await Bucket(self.bus, LASTING_LEASES.name).delete(RESOURCE_PREFIX + account)
        await until(lambda: RESOURCE_PREFIX + account not in self.mirrors.leases)

    async def claim(self, token, **columns):
        """Subscribe, as the gateway would."""
        values = {"requested_mode": "FULL", "segment": "NFO-OPT", **columns}
        async with self.database.acquire() as connection:
            await connection.execute(
                "INSERT INTO instrument_subscriptions"
                " (instrument_token, tradingsymbol, segment, requested_mode)"
                " VALUES ($1, $2, $3, $4)",
                token,
                f"T{token}",
                values["segment"],
                values["requested_mode"],
            )

    async def state(self, token):
        """What the table says of a subscription."""
        async with self.database.acquire() as connection:
            return await connection.fetchval(
                "SELECT state FROM instrument_subscriptions WHERE instrument_token = $1", token
            )

    async def until_state(self, token, state):
        """Wait for a state."""
        async with asyncio.timeout(20):
            while await self.state(token) != state:  # noqa: ASYNC110  # A table has no event.
                await asyncio.sleep(0.05)


@pytest.fixture
async def mirrors(bus):
    buckets = [b for b in streams.BUCKETS if b.name != LASTING_LEASES.name]
    await ensure(bus, streams.STREAMS, [*buckets, LASTING_LEASES])
    mirrors = Mirrors(
        plans=Mirror(bus, streams.PLAN.name),
        status=Mirror(bus, streams.STATUS.name),
        leases=Mirror(bus, LASTING_LEASES.name),
        coverage=Mirror(bus, streams.COVERAGE.name),
    )
    every = (mirrors.plans, mirrors.status, mirrors.leases, mirrors.coverage)
    async with running(*(mirror.run for mirror in every)):
        for mirror in every:
            await mirror.ready()
        yield mirrors


@pytest.fixture
async def rig(bus, mirrors, tmp_path):
    async with running_postgres(tmp_path / "pg") as server:
        settings = DatabaseSettings(database_url=SecretStr(server.url))
        async with Database.opened(settings) as database:
            rig = Rig(bus, database, mirrors)
            for account in "abc":
                await rig.hold(account)
            yield rig


@contextlib.asynccontextmanager
async def planned(rig):
    """A running Planning that has made its first plan; no round follows by itself."""
    planning = rig.planning()
    async with running(planning.run):
        assert await planning.plan(rig.market)
        await until(lambda: len(rig.slots()) == len(planning.outcome.slots))
        yield planning


async def test_wake_up_plans_at_once_what_was_subscribed_with_what_prices_it(rig):
    async with planned(rig) as planning:
        before = rig.slots()
        await rig.claim(OTHER + 1)
        await rig.bus.publish(subjects.WAKE_CONTROL, b"")
        await until(lambda: OTHER + 1 in rig.slots())
        after = rig.slots()
        assert after.keys() - before.keys() == {OTHER, OTHER + 1}
        assert {token: after[token] for token in before} == before
        assert planning.unplaced_names() == {}


async def test_wake_up_before_the_first_round_does_no_harm(rig):
    planning = rig.planning()
    async with running(planning.run):
        for _ in range(5):
            await rig.bus.publish(subjects.WAKE_CONTROL, b"")
        await rig.bus.client.flush()
        assert planning.outcome is None
        await planning.plan(rig.market)
        await until(rig.slots)


async def test_lost_account_hands_over_and_gets_its_own_back_even_from_another_leader(rig):
    async with planned(rig):
        start = rig.accounts()
        own = {token for token, account in start.items() if account == "b"}
        assert own
        await rig.release("b")
        await until(lambda: "b" not in rig.accounts().values())
        moved = rig.slots()
        assert {t for t, account in rig.accounts().items() if account != start[t]} == own
        assert {moved[token].home for token in own} == {"b"}
        # Ingest still learns from the plan that the account exists.
        assert rig.mirrors.plans.get("b") is not None

    # The next leader finds the account still away: it must not send anybody home.
    async with planned(rig) as planning:
        assert rig.slots() == moved
        assert planning.account_words()["b"].startswith("lost")
        assert planning.lost_since_ns().keys() == {"b"}
        await rig.hold("b", worker="ingest-2")
        await until(lambda: rig.accounts() == start, seconds=20)
        assert all(slot.home is None for slot in rig.slots().values())


async def test_nothing_moves_while_every_account_is_away(rig):
    async with planned(rig):
        before = rig.slots()
        for account in "abc":
            await rig.release(account)
        await rig.claim(OTHER, segment="NSE")
        await rig.bus.publish(subjects.WAKE_CONTROL, b"")
        await until(lambda: OTHER in rig.slots())
        after = rig.slots()
        assert {token: after[token] for token in before} == before


async def test_account_whose_session_died_is_lost_too(rig):
    async with planned(rig) as planning:
        assert "b" in rig.accounts().values()
        status = FeedStatus(
            account="b",
            worker="ingest-1",
            state=FeedState.PARKED,
            reason="403",
            connections=0,
            tokens=0,
            frames_total=0,
            ticks_total=0,
            dropped_total=0,
            plan_revision=1,
            at_ns=1,
        )
        await Bucket(rig.bus, streams.STATUS.name).put("feed-b", codec.to_json(status))
        await until(lambda: "b" not in rig.accounts().values())
        assert "its session is dead: 403" in planning.account_words()["b"]


async def test_new_account_is_planned_for_without_a_round(rig):
    rig.capacities = [Capacity(account="a", connections=1, tokens_per_connection=20)]
    async with planned(rig) as planning:
        assert planning.unplaced > 0
        names = planning.unplaced_names()
        assert names
        assert all(name.startswith("NFO:T") for name in names)
        rig.capacities = [
            *rig.capacities,
            Capacity(account="b", connections=1, tokens_per_connection=500),
        ]
        await until(lambda: planning.unplaced == 0)
        await until(lambda: "b" in rig.accounts().values())


async def test_states_follow_the_coverage_and_the_plan(rig):
    bucket = Bucket(rig.bus, streams.COVERAGE.name)
    await rig.claim(OTHER + 1)
    await rig.claim(OTHER, segment="NSE")
    await rig.claim(99)
    async with planned(rig):
        await rig.until_state(99, "rejected")
        assert await rig.state(OTHER) == "pending"
        revision = max(
            codec.from_json(AccountPlan, value).revision
            for value in rig.mirrors.plans.items().values()
        )
        for account in "abc":
            message = FeedCoverage(
                account=account,
                plan_revision=revision,
                pending=(),
                no_data=(OTHER,),
                stale=(),
                at_ns=1,
            )
            await bucket.put(account, codec.to_msgpack(message))
        await rig.until_state(OTHER + 1, "live")
        await rig.until_state(OTHER, "no_data")
        async with rig.database.acquire() as connection:
            live = await connection.fetchval(
                "SELECT count(*) FROM plan_entries WHERE state = 'live'"
            )
        assert live == len(rig.slots()) - 1


async def test_planning_goes_on_when_postgresql_goes_away(mirrors, bus, tmp_path):
    async with contextlib.AsyncExitStack() as postgres:
        server = await postgres.enter_async_context(running_postgres(tmp_path / "pg"))
        settings = DatabaseSettings(database_url=SecretStr(server.url))
        async with Database.opened(settings) as database:
            rig = Rig(bus, database, mirrors)
            for account in "abc":
                await rig.hold(account)
            await rig.claim(OTHER, segment="NSE")
            async with planned(rig):
                assert "b" in rig.accounts().values()
                await database.close()
                await postgres.aclose()
                await rig.release("b")
                await until(lambda: "b" not in rig.accounts().values())
                assert OTHER in rig.slots()


async def test_nothing_is_planned_before_the_subscriptions_are_known(mirrors, bus):
    settings = DatabaseSettings(database_url=SecretStr("postgresql://x:y@127.0.0.1:1/z"))
    async with Database.opened(settings) as database:
        rig = Rig(bus, database, mirrors)
        planning = rig.planning()
        async with running(planning.run):
            assert not await planning.plan(rig.market)
            assert planning.outcome is None
            assert rig.slots() == {}


# -- forwards --------------------------------------------------------------------------------------


def forward(value, *, at=NOW, feed=Source.SIM, underlying="NIFTY"):
    return Forward(
        underlying=underlying,
        expiry=EXPIRY,
        forward=value,
        source=ForwardSource.FUTURE,
        tte=0.02,
        exchange_ts=ns_of(at),
        greeks_ts=1,
        feed=feed,
    )


async def publish_forward(bus, message):
    await bus.jetstream.publish(
        subjects.forward(message.underlying, message.expiry), codec.to_json(message)
    )


async def test_window_follows_the_forward_of_its_expiry(rig):
    # Kept since before control came: the stream holds the newest one.
    await publish_forward(rig.bus, forward(26_400.0))
    planning = rig.planning()
    async with running(planning.run):
        async with asyncio.timeout(20):
            strikes: set[float] = set()
            while 25_000.0 in strikes or not strikes:
                await planning.plan(rig.market)
                chain = rig.universe.chain("NIFTY")
                strikes = {
                    strike
                    for strike, tokens in chain.options[EXPIRY].items()
                    if tokens[0] in planning.outcome.slots
                }
                await asyncio.sleep(0.05)
        assert (min(strikes), max(strikes)) == (25_400.0, 27_000.0)


async def test_old_foreign_and_broken_forwards_are_left_out(rig):
    forwards = Forwards(rig.bus)

    def seen(underlying, now=NOW):
        return forwards.of(underlying, [EXPIRY], source=Source.SIM, now=now)

    async with running(forwards.run):
        await publish_forward(rig.bus, forward(100.0, feed=Source.LIVE, underlying="LIVE"))
        await rig.bus.jetstream.publish(subjects.forward("BROKEN", EXPIRY), b"{")
        await publish_forward(rig.bus, forward(100.0, underlying="M&M"))
        await until(lambda: seen("M&M") == {EXPIRY: 100.0})
        assert seen("LIVE") == {}
        assert seen("BROKEN") == {}
        assert seen("M&M", datetime(2026, 11, 23, 10, 1, 1, tzinfo=IST)) == {}
        await publish_forward(rig.bus, forward(101.0, underlying="M&M"))
        await until(lambda: seen("M&M") == {EXPIRY: 101.0})


# -- the command line ------------------------------------------------------------------------------


async def test_command_line_holds_the_plan_against_reality(rig, nats_server):
    async with planned(rig) as planning:
        status = ControlStatus(
            worker="control-1",
            plan_revision=planning.revision,
            planned=len(rig.slots()),
            unplaced=1,
            unplaced_names={"NFO:FAR[1]": "no account has room"},
            instruments=3,
            instruments_revision=1,
            accounts={"b": "lost: nobody holds its lease"},
            at_ns=1,
        )
        await Bucket(rig.bus, streams.STATUS.name).put("control", codec.to_json(status))
        command = [sys.executable, "-m", "services.fleet", "plan", "--nats-url", nats_server.url]
        shown, told = await asyncio.gather(
            *(
                asyncio.to_thread(
                    subprocess.run, [*command, *more], capture_output=True, text=True, timeout=60
                )
                for more in ([], ["--json"])
            )
        )
    assert (shown.returncode, told.returncode) == (3, 3), shown.stderr + told.stderr
    report = json.loads(told.stdout)
    assert report["planned"] == len(rig.slots())
    assert [account["account"] for account in report["accounts"]] == ["a", "b", "c"]
    assert report["accounts"][1]["lost"]
    assert "unplaced: NFO:FAR[1]: no account has room" in shown.stdout
    assert "connection 0" in shown.stdout
