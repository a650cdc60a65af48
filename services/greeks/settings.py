"""Settings of greeks."""

from typing import Literal

from pydantic import Field

from libs.common.settings import NatsSettings, OptionalDatabaseSettings


class GreeksSettings(NatsSettings, OptionalDatabaseSettings):
    """What a greeks worker is told; instruments come from the bucket, frames from the stream.

    Attributes:
        greeks_model: `black76` (on the forward) or `bsm` (on the spot).
        greeks_rate: Continuously compounded rate per year; 0.065 = 6.5 %.
        greeks_dividend_yield: Continuous, per year; between spot and forward.
        greeks_clock: `act365` (seconds over 365 days) or `trading252` (session time over 252).
        greeks_conventions_file: TOML with conventions of single underlyings, see
            `services.greeks.convention_file`; empty for none.
        greeks_engine: `numpy`, or `vollib` to check against (about 70 times slower).
        future_max_age_seconds: A listed future older than this makes no forward.
        quote_max_age_seconds: An order book older than this makes no parity forward.
        spot_max_age_seconds: A spot older than this makes no forward.
        smile_max_age_seconds: An out-of-the-money volatility older than this is not used.
        last_interval_seconds: Last values are written at most so often per instrument.
        last_values_per_second: So many of them at most per worker; instruments wait their turn.
        forward_interval_seconds: Forwards are published at most so often per expiry.
        reprice_interval_seconds: An option whose forward moved is priced anew at most so often
            without a packet of its own; 0 prices it with its next packet only.
        reprice_ticks_per_second: At most so many such ticks per worker; options wait their turn.
        chain_interval_seconds: Chains and volatility curves are published so often per expiry;
            0 for never.
        chain_strikes: Strikes on each side of the money that a chain shows.
        checkpoint_interval_seconds: How often a shard's position is saved; what lies between is
            repeated after a take-over.
        conflate_after_seconds: A batch whose oldest frame was received longer ago than this is
            behind: what waits is collected, for as long at most, and only the newest packet per
            instrument is priced.
        rebuild_seconds: How far back a new owner reads to know its market.
        first_start_seconds: How far back a shard without a checkpoint is read.
        batch_frames: Frames fetched at once, at most.
        bar_grace_seconds: How long after its end a second waits for its ticks before its bar is
            published without a tick of a later second.
        bar_late_seconds: Ticks so many seconds behind the newest make a published bar again;
            older ones are counted and left out.
        candles_concurrency: Requests for candles served at once; one more is refused as
            unavailable.
        candles_deadline_seconds: Who asks for candles gets each piece, or an error, within this:
            time for four calls through ingest.
        candles_stop_seconds: How long running requests may go on when the process stops.
        candles_kept_days: Candles of days that are over are kept in PostgreSQL for so long after
            they were fetched.
    """

    greeks_model: Literal["black76", "bsm"] = "black76"
    greeks_rate: float = Field(default=0.0, ge=-0.5, le=1.0)
    greeks_dividend_yield: float = Field(default=0.0, ge=-0.5, le=1.0)
    greeks_clock: Literal["act365", "trading252"] = "act365"
    greeks_conventions_file: str = ""
    greeks_engine: Literal["numpy", "vollib"] = "numpy"
    future_max_age_seconds: float = Field(default=10.0, gt=0)
    quote_max_age_seconds: float = Field(default=15.0, gt=0)
    spot_max_age_seconds: float = Field(default=10.0, gt=0)
    smile_max_age_seconds: float = Field(default=60.0, gt=0)
    last_interval_seconds: float = Field(default=1.0, ge=0.05, le=60)
    last_values_per_second: int = Field(default=10_000, ge=1, le=1_000_000)
    forward_interval_seconds: float = Field(default=0.25, ge=0.05, le=60)
    reprice_interval_seconds: float = Field(default=0.5, ge=0.0, le=60)
    reprice_ticks_per_second: int = Field(default=20_000, ge=1, le=1_000_000)
    chain_interval_seconds: float = Field(default=0.5, ge=0.0, le=60)
    chain_strikes: int = Field(default=15, ge=1, le=200)
    checkpoint_interval_seconds: float = Field(default=1.0, ge=0.05, le=60)
    conflate_after_seconds: float = Field(default=0.5, ge=0.0)
    rebuild_seconds: float = Field(default=30.0, ge=0, le=600)
    first_start_seconds: float = Field(default=10.0, ge=0, le=600)
    batch_frames: int = Field(default=256, ge=1, le=10_000)
    bar_grace_seconds: float = Field(default=1.0, ge=0, le=60)
    bar_late_seconds: int = Field(default=5, ge=0, le=60)
    candles_concurrency: int = Field(default=8, ge=1, le=1_000)
    candles_deadline_seconds: float = Field(default=45.0, gt=0, le=300)
    candles_stop_seconds: float = Field(default=3.0, ge=0, le=60)
    candles_kept_days: float = Field(default=30.0, gt=0, le=3_650)
