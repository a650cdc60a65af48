"""A noisy expiry day through the whole shard: every row says something true, or says why not."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pytest

from libs.common.contracts import codec
from libs.common.contracts.messages import IvStatus, Tick
from libs.common.domain.market_calendar import CALENDAR
from services.greeks.domain import pricing
from services.greeks.domain.policy import Policy
from services.greeks.domain.shard import Frame, Shard, Tally
from tests.fakes.expiry_day import CLOSE_S, EXPIRY, NEXT, SECONDS_LEFT, ExpiryDay
from tests.fakes.wire_rules import problems_of

TURNS = 5
"""Each prices all 444 options once: ten moments of five turns are 22 200 rows, half of them of the
expiry that ends today."""
MINUTE = 60 / (365 * 86_400)


@dataclass
class Run:
    """What a day gave."""

    lines: list[bytes] = field(default_factory=list)
    ticks: list[Tick] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    def of(self, expiry: date) -> list[Tick]:
        """Options of an expiry that have more than a minute left."""
        return [
            tick
            for tick in self.ticks
            if (tick.kind, tick.expiry) == ("option", expiry) and (tick.tte or 0.0) > MINUTE
        ]


def run(day: ExpiryDay, *, moments: Sequence[int] = SECONDS_LEFT, batch: int = 12) -> Run:
    """Work a day's frames in batches, every line held against the rules of the wire."""
    shard = Shard(
        epoch=3,
        calendar=CALENDAR,
        policy=Policy(),
        engine=pricing.compute_quotes,
        now_ns=lambda: CLOSE_S * 1_000_000_000,
    )
    for market in day.markets:
        shard.use_instruments(market.instrument_set())
    found = Run()
    for seconds_left in moments:
        frames = [
            Frame(payload, (CLOSE_S - seconds_left) * 1_000_000_000 + number, "sim")
            for number, payload in enumerate(day.frames(seconds_left, turns=TURNS))
        ]
        for first in range(0, len(frames), batch):
            for message in shard.work(
                frames[first : first + batch], conflate=False, tally=found.tally
            ):
                found.lines += message.payload.splitlines()
        every = np.arange(len(shard.table.expiries))
        found.lines += [payload for _, payload in shard.take_forwards(every)]
    for line in found.lines:
        assert problems_of(line) == [], line
    found.ticks = [codec.from_json(Tick, line) for line in found.lines if b'"seq":' in line]
    return found


@pytest.fixture(scope="module")
def noisy():
    return run(ExpiryDay(seed=1))


def test_eleven_thousand_rows_of_today_are_told_without_a_lie(noisy):
    options = [tick for tick in noisy.ticks if tick.kind == "option"]
    assert sum(tick.expiry == EXPIRY for tick in options) >= 11_000
    assert len(options) == sum(noisy.tally.statuses.values())
    assert Counter(tick.iv_status for tick in options) == noisy.tally.statuses
    assert (noisy.tally.unknown, noisy.tally.resets) == (0, 0)
    assert {json.loads(line)["underlying"] for line in noisy.lines} == {
        "NIFTY", "BANKNIFTY", "FINNIFTY",
    }  # fmt: skip


def test_every_status_that_a_day_can_give_is_given(noisy):
    statuses = noisy.tally.statuses
    total = sum(statuses.values())
    print({name: f"{count} ({100 * count / total:.1f} %)" for name, count in statuses.items()})
    assert set(statuses) >= {
        IvStatus.OK, IvStatus.LOW_VEGA, IvStatus.NO_PRICE, IvStatus.BELOW_INTRINSIC,
        IvStatus.ABOVE_MAX, IvStatus.EXPIRING, IvStatus.EXPIRED, IvStatus.CROSSED,
    }  # fmt: skip
    # Two of ten moments lie within the last minute or behind it, for one of two expiries.
    assert statuses[IvStatus.EXPIRING] == statuses[IvStatus.EXPIRED] == total / 20
    assert 0.35 < statuses[IvStatus.OK] / total < 0.75
    assert 0.01 < statuses[IvStatus.NO_PRICE] / total < 0.04
    # In the money below intrinsic, and far out of it worth less than a billionth of the forward.
    assert 0.05 < statuses[IvStatus.BELOW_INTRINSIC] / total < 0.3
    assert IvStatus.BAD_INPUT not in statuses


def test_a_book_that_is_crossed_is_marked_and_keeps_its_values(noisy):
    crossed = [tick for tick in noisy.ticks if tick.iv_status == IvStatus.CROSSED]
    assert all(tick.bid > tick.ask and tick.iv and tick.vega for tick in crossed)
    solved = [tick for tick in noisy.ticks if tick.iv_status in {IvStatus.OK, IvStatus.LOW_VEGA}]
    assert all(not tick.bid or not tick.ask or tick.bid <= tick.ask for tick in solved)


@pytest.fixture(scope="module")
def rounded():
    """The same markets with fair prices, rounded to the tick and nothing else."""
    return run(ExpiryDay(seed=1, faults=False, noise=0.0), moments=SECONDS_LEFT[::3])


def without_iv(ticks: Sequence[Tick]) -> float:
    return sum(tick.iv is None for tick in ticks) / len(ticks)


def test_minutes_before_the_end_rounding_alone_costs_rows_their_volatility(rounded, noisy):
    # A week before, no row loses it to the tick, and some to faults and noise.
    assert without_iv(rounded.of(NEXT)) == 0.0
    assert 0.02 < without_iv(noisy.of(NEXT)) < 0.25
    # On the last day many legs in the money are worth intrinsic to the tick. Noise lifts some of
    # them above it, and so gives them a volatility that is none: what `smile_iv` is there for.
    assert 0.1 < without_iv(rounded.of(EXPIRY)) < 0.45
    assert 0.1 < without_iv(noisy.of(EXPIRY)) < 0.45
    print({expiry: (without_iv(rounded.of(expiry)), without_iv(noisy.of(expiry)))
           for expiry in (EXPIRY, NEXT)})  # fmt: skip


@pytest.mark.parametrize(("expiry", "least_gain"), [(EXPIRY, 1.5), (NEXT, 1.05)])
def test_more_strikes_have_a_volatility_by_their_out_of_the_money_leg(noisy, expiry, least_gain):
    strikes: dict[tuple[str, float | None, int], list[Tick]] = {}
    for tick in noisy.of(expiry):
        strikes.setdefault((tick.underlying, tick.strike, tick.seq), []).append(tick)
    pairs = [legs for legs in strikes.values() if len(legs) == 2]
    both = sum(all(leg.iv for leg in legs) for legs in pairs) / len(pairs)
    by_leg = sum(any(leg.smile_iv for leg in legs) for legs in pairs) / len(pairs)
    print(
        f"{expiry}: both legs {100 * both:.0f} %, by the out-of-the-money leg {100 * by_leg:.0f} %"
    )
    assert by_leg > least_gain * both


def test_the_volatility_of_the_strike_errs_less_than_that_of_the_leg_in_the_money(noisy):
    own, smile = [], []
    for tick in noisy.of(NEXT):
        if tick.iv is None or tick.smile_iv is None or tick.strike is None or not tick.forward:
            continue
        if (tick.forward > tick.strike) == (tick.option_type == "CE"):
            true = 0.15 + 0.4 * (tick.strike / tick.forward - 1.0) ** 2
            own.append(abs(tick.iv - true))
            smile.append(abs(tick.smile_iv - true))
    print(f"vol points: own {100 * np.median(own):.2f}, smile {100 * np.median(smile):.2f}")
    assert np.median(smile) < 0.5 * np.median(own)


def test_a_few_absurd_books_make_no_absurd_forward(noisy):
    found = {
        name: [t.forward for t in noisy.ticks if t.underlying == name and t.forward is not None]
        for name in ("NIFTY", "BANKNIFTY", "FINNIFTY")
    }
    for market, spot in (("NIFTY", 24_500), ("BANKNIFTY", 52_000), ("FINNIFTY", 23_100)):
        assert max(abs(np.array(found[market]) / spot - 1.0)) < 0.1
