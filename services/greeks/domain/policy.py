"""What the operator decides: model, rate, how old a price may be, how long a bar waits."""

from typing import Literal

import msgspec


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The conventions of one worker; ages are differences of exchange timestamps.

    Attributes:
        model: `black76` on the forward, or `bsm` on the spot that goes with it.
        rate: Continuously compounded, per year; 0.065 = 6.5 %.
        future_max_age_seconds: A listed future older than this makes no forward.
        quote_max_age_seconds: A leg whose book is older than this makes no parity forward.
        spot_max_age_seconds: A spot older than this makes no forward.
        smile_max_age_seconds: A volatility of the out-of-the-money leg older than this is not
            the strike's any more.
        timestamp_max_lag_seconds: A packet whose exchange timestamp lies further behind the
            market is a snapshot of a quiet contract: its time to expiry counts from the market's
            time, since it is priced with the market's forward.
        parity_strikes: Strikes nearest the money whose parity forwards are taken together.
        parity_strikes_min: With fewer usable strikes than this there is no synthetic forward.
        bar_grace_seconds: How long after its end a second waits for its ticks.
        bar_late_seconds: Ticks so many seconds behind still make a bar again.
    """

    model: Literal["black76", "bsm"] = "black76"
    rate: float = 0.0
    future_max_age_seconds: float = 10.0
    quote_max_age_seconds: float = 15.0
    spot_max_age_seconds: float = 10.0
    smile_max_age_seconds: float = 60.0
    timestamp_max_lag_seconds: float = 30.0
    parity_strikes: int = 5
    parity_strikes_min: int = 3
    bar_grace_seconds: float = 1.0
    bar_late_seconds: int = 5
