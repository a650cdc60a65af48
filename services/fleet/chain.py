"""The newest chain of an expiry for a person: read from the bus, as everybody can."""

import time
from datetime import date, datetime

from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusUnavailableError, RefusedError
from libs.common.bus.newest import kept_subjects, newest
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import Chain, VolCurve
from libs.common.domain.clock import IST
from libs.common.domain.nearest import missing
from libs.common.settings import NatsSettings
from services.fleet.domain.chain_report import ChainReport, chain_report
from services.fleet.errors import FleetCannotAnswerError

_NS_PER_SECOND = 1_000_000_000


async def read_chain(
    settings: NatsSettings, underlying: str, expiry: date | None, *, each_side: int
) -> ChainReport:
    """Read the newest chain and curve of one expiry.

    Args:
        settings: How to reach the bus.
        underlying: Such as `NIFTY`.
        expiry: Which one; None for the nearest.
        each_side: Strikes on each side of the money, at most.

    Raises:
        FleetCannotAnswerError: There is no such chain, or the bus does not answer.
        ConnectDeadlineError: NATS cannot be reached.
        DecodeError: The chain comes from another version.
    """
    async with Bus.open(settings, name="tickfleet-chain") as bus:
        try:
            chain, curve = await _read(bus, underlying, expiry)
        except (BusUnavailableError, RefusedError) as error:
            raise FleetCannotAnswerError(str(error)) from error
    age_seconds = (time.time_ns() - chain.greeks_ts) / _NS_PER_SECOND
    return chain_report(chain, curve, each_side=each_side, age_seconds=age_seconds)


async def _read(bus: Bus, underlying: str, expiry: date | None) -> tuple[Chain, VolCurve | None]:
    stream = streams.MD_CHAINS.name
    kept = await kept_subjects(bus, stream, subjects.ALL_CHAINS)
    held = [subjects.expiry_of(subject) for subject in kept]
    days = sorted(day for name, day in held if name == underlying)
    today = datetime.now(IST).date()
    # A chain stays for a day after its expiry; a simulated one may be of any day.
    wanted = expiry or next((day for day in days if day >= today), next(iter(days), None))
    found = None
    if wanted is not None:
        found = await newest(bus, stream, subjects.chain(underlying, wanted))
    if found is None or wanted is None:
        raise FleetCannotAnswerError(missing("chain", underlying, expiry, held))
    curve = await newest(bus, stream, subjects.vol_curve(underlying, wanted))
    return (
        codec.from_json(Chain, found),
        None if curve is None else codec.from_json(VolCurve, curve),
    )
