"""The market's time as its packets tell it: the newest exchange timestamp, with a way back."""

from typing import Final

_NS_PER_SECOND: Final = 1_000_000_000

STEP_BACK_SECONDS: Final = 60
"""The market's time goes back only over more than this: less is a quiet contract's old stamp."""
PATIENCE_SECONDS: Final = 3.0
"""For so long, by the receiver's clock, every packet must disagree before time goes back."""


class MarketClock:
    """Follows the newest exchange timestamp of a feed.

    Time goes forward with every newer stamp. It goes back only when nothing near the present was
    seen for a while: a simulator that started over, or one corrupt stamp from the future, would
    otherwise make every price look old and every option expired for ever.

    Attributes:
        now_s: Epoch seconds at the exchange; 0 before the first stamp.
    """

    __slots__ = ("_behind_since_ns", "_newest_behind_s", "now_s")

    def __init__(self) -> None:
        self.now_s = 0
        self._behind_since_ns: int | None = None
        self._newest_behind_s = 0

    def advance(self, newest_s: int, received_ns: int) -> bool:
        """Take the newest stamp of a batch.

        Args:
            newest_s: Epoch seconds; 0 if no packet of the batch carries one.
            received_ns: When the batch was received, epoch nanoseconds.

        Returns:
            True if the market's time went back: what was known before belongs to another day.
        """
        if newest_s <= 0:
            return False
        if newest_s >= self.now_s - STEP_BACK_SECONDS:
            self.now_s = max(self.now_s, newest_s)
            self._behind_since_ns = None
            return False
        if self._behind_since_ns is None:
            self._behind_since_ns = received_ns
            self._newest_behind_s = newest_s
            return False
        self._newest_behind_s = max(self._newest_behind_s, newest_s)
        if received_ns - self._behind_since_ns < PATIENCE_SECONDS * _NS_PER_SECOND:
            return False
        self.now_s = self._newest_behind_s
        self._behind_since_ns = None
        return True
