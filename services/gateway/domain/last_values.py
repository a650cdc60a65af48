"""The newest tick of every instrument, bounded, for clients that join between two ticks."""

from services.gateway.domain.tick_lines import greeks_ts_of
from services.gateway.domain.ws_frames import line_of


class LastValues:
    """Maps instrument token → frame of its newest tick.

    Beyond the bound the instruments that came first give way; live ones return with their next
    tick.

    Attributes:
        frames: Read it for lookups on the hot path; change it only through the methods.
        evicted: How many instruments gave way.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError("at least one last value must fit")
        self._limit = limit
        self.frames: dict[int, bytes] = {}
        self.evicted = 0

    def __len__(self) -> int:
        return len(self.frames)

    def put(self, token: int, frame: bytes) -> None:
        """Keep a tick as the newest of its instrument."""
        frames = self.frames
        frames[token] = frame
        if len(frames) > self._limit:
            del frames[next(iter(frames))]
            self.evicted += 1

    def forget(self, token: int) -> None:
        """The token left, or means another contract now: its last tick is nobody's."""
        self.frames.pop(token, None)

    def put_if_newer(self, token: int, frame: bytes) -> bool:
        """Keep a stored tick unless the one at hand was made at the same time or later.

        MD_LAST is refreshed at most once a second per instrument, so what was received live may
        be newer than what the stream holds.
        """
        held = self.frames.get(token)
        if held is not None and greeks_ts_of(line_of(held)) >= greeks_ts_of(line_of(frame)):
            return False
        self.put(token, frame)
        return True
