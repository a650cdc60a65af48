"""Chains and volatility curves of a whole universe: time of one, share of a core at two a second.

540 expiries of 180 underlyings in 16 shards, each expiry with 31 streamed strikes: every strike's
two legs are priced anew (last, bid and ask), and chain and curve are encoded; publishing is left
out. Times are of the CPU, except for the longest turn: how long the event loop of a worker waits.
The baseline makes the same chain row by row from dicts, with the engine's own loop over plain
floats and without a curve; both run in turn.

    python -m benchmarks.chains [--rounds 7]
"""

import argparse
import statistics
import time
from datetime import date
from typing import Any, NamedTuple

import msgspec

from libs.common.contracts.subjects import shard_of
from libs.common.domain.market_calendar import CALENDAR
from services.greeks.domain import pricing
from services.greeks.domain.chains import CHAIN_PHASES
from services.greeks.domain.iv_scalar import compute_row
from services.greeks.domain.policy import Policy
from services.greeks.domain.shard import Frame, Shard, Tally
from tests.fakes.kite_frames import FakeMarket

SHARDS = 16
UNDERLYINGS = 180
PER_SECOND = 2
EACH_SIDE = 15
DAYS = (date(2026, 11, 24), date(2026, 12, 29), date(2027, 1, 25))
BASELINE_EXPIRIES = 6
ENCODER = msgspec.json.Encoder()


class Round(NamedTuple):
    """One interval of the universe: chains, bytes, CPU seconds, and the longest turn."""

    chains: int
    payload_bytes: int
    cpu_seconds: float
    longest_seconds: float


def universe() -> list[Shard]:
    """All shards, each with the market of its underlyings ticked once."""
    shards = [
        Shard(
            epoch=1,
            calendar=CALENDAR,
            policy=Policy(chain_strikes=EACH_SIDE),
            engine=pricing.compute_quotes,
            now_ns=time.time_ns,
        )
        for _ in range(SHARDS)
    ]
    for number in range(UNDERLYINGS):
        market = FakeMarket(
            underlying=f"STOCK{number}",
            spot=1000.0 + 20.0 * number,
            step=10.0,
            strikes_each_side=EACH_SIDE,
            expiries=DAYS,
            futures=DAYS,
            first_token=10_000 + 1000 * number,
        )
        shard = shards[shard_of(market.underlying, SHARDS)]
        shard.use_instruments(market.instrument_set())
        list(shard.work([Frame(market.frame(), 1, "sim")], conflate=False, tally=Tally()))
    return shards


def interval(shards: list[Shard]) -> Round:
    """Show every expiry once, in the turns of the worker."""
    chains = payload_bytes = 0
    longest = 0.0
    cpu_started = time.process_time()
    for shard in shards:
        shard.chains.touched[:] = True
        for phase in range(CHAIN_PHASES):
            for group in shard.chain_turns(phase):
                started = time.perf_counter()
                messages = shard.take_chains(group)
                longest = max(longest, time.perf_counter() - started)
                chains += len(messages) // 2
                payload_bytes += sum(len(message.payload) for message in messages)
    return Round(chains, payload_bytes, time.process_time() - cpu_started, longest)


def row_by_row(shard: Shard) -> float:
    """CPU seconds per chain of some expiries, made of one dict per option."""
    table, book, forwards = shard.table, shard.book, shard.forwards
    at_s = float(shard.clock.now_s)
    rows = {
        slot: {
            "token": int(table.token[slot]),
            "flag": int(table.flag[slot]),
            "strike": float(table.strike[slot]),
            "last_price": float(book.last_price[slot]),
            "bid": float(book.bid[slot]),
            "ask": float(book.ask[slot]),
            "volume": int(book.volume[slot]),
            "oi": int(book.oi[slot]),
        }
        for slot in range(1, table.capacity)
        if table.flag[slot]
    }
    started = time.process_time()
    for expiry_id in range(BASELINE_EXPIRIES):
        expiry = table.expiries[expiry_id]
        forward = float(forwards.forward[expiry_id])
        tte = (expiry.instant_s - at_s) / (365 * 86_400)
        strikes = []
        for strike, call, put in zip(
            expiry.strikes.tolist(), expiry.calls.tolist(), expiry.puts.tolist(), strict=True
        ):
            legs = [_leg(rows[slot], forward, tte) for slot in (call, put)]
            smile = legs[strike < forward]["iv"]
            strikes.append({"strike": strike, "call": legs[0], "put": legs[1], "smile_iv": smile})
        strikes.sort(key=lambda row: abs(row["strike"] - forward))
        shown = sorted(strikes[: 2 * EACH_SIDE + 1], key=lambda row: row["strike"])
        ENCODER.encode({"underlying": expiry.underlying, "forward": forward, "strikes": shown})
    return (time.process_time() - started) / BASELINE_EXPIRIES


def _leg(row: dict[str, Any], forward: float, tte: float) -> dict[str, Any]:
    def solved(price: float) -> tuple[Any, ...]:
        terms = (row["flag"], price, forward, row["strike"], tte, 1.0, None)
        return tuple(compute_row(*terms, pricing.DEFAULT_TICK))

    status, *values = solved(row["last_price"])
    return {
        **{name: row[name] for name in ("token", "last_price", "bid", "ask", "volume", "oi")},
        **dict(zip(pricing.VALUES, values, strict=True)),
        "bid_iv": solved(row["bid"])[1],
        "ask_iv": solved(row["ask"])[1],
        "iv_status": pricing.WIRE_NAMES[int(status)],
    }


def main() -> None:
    """Print the time of a frame and what the universe costs."""
    parser = argparse.ArgumentParser(description="chains and volatility curves")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    shards = universe()
    interval(shards)
    rounds, slow = [], []
    for _ in range(arguments.rounds):
        rounds.append(interval(shards))
        slow.append(row_by_row(next(s for s in shards if len(s.table.expiries) > 8)))
    chains = rounds[0].chains
    micros = statistics.median(r.cpu_seconds / r.chains for r in rounds) * 1e6
    baseline = statistics.median(slow) * 1e6
    print(f"{chains} expiries in {SHARDS} shards, {2 * EACH_SIDE + 1} strikes each")
    print(f"  chain and curve      {micros:7.0f} us   {1e6 / micros:7.0f} a second")
    print(f"  row by row, no curve {baseline:7.0f} us   ratio {baseline / micros:.1f}x")
    print(
        f"  all of them {PER_SECOND}/s      {micros * chains * PER_SECOND / 1e4:6.1f} % of a core"
    )
    turns = [r.longest_seconds * 1e3 for r in rounds]
    print(
        f"  longest turn         {statistics.median(turns):7.2f} ms (best round {min(turns):.2f})"
    )
    print(f"  bytes of a pair      {rounds[0].payload_bytes / chains:7.0f}")


if __name__ == "__main__":
    main()
