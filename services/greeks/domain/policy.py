"""What the operator decides: conventions per underlying, how often to re-price, how bars wait."""

from collections.abc import Mapping

import msgspec

from libs.common.contracts.messages import Convention


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The decisions of one worker; ages are differences of exchange timestamps.

    Attributes:
        convention: How options are priced where their underlying has no convention of its own.
        conventions: By underlying.
        timestamp_max_lag_seconds: A packet whose exchange timestamp lies further behind the
            market is a snapshot of a quiet contract: its time to expiry counts from the market's
            time, since it is priced with the market's forward.
        parity_strikes: Strikes nearest the money whose parity forwards are taken together.
        parity_strikes_min: With fewer usable strikes than this there is no synthetic forward.
        chain_strikes: Strikes on each side of the money that a chain shows.
        reprice_interval_seconds: An option is priced anew without a packet at most so often; 0 for
            never.
        bar_grace_seconds: How long after its end a second waits for its ticks.
        bar_late_seconds: Ticks so many seconds behind still make a bar again.
    """

    convention: Convention = Convention()
    conventions: Mapping[str, Convention] = {}
    timestamp_max_lag_seconds: float = 30.0
    parity_strikes: int = 5
    parity_strikes_min: int = 3
    chain_strikes: int = 15
    reprice_interval_seconds: float = 0.5
    bar_grace_seconds: float = 1.0
    bar_late_seconds: int = 5

    def of(self, underlying: str) -> Convention:
        """The convention of an underlying."""
        return self.conventions.get(underlying, self.convention)
