"""What waits to be written to one client: the newest tick of each of its instruments."""

from itertools import islice


class Outbox(dict[int, bytes]):
    """Maps instrument token → newest frame, in the order in which the instruments changed first.

    A plain dict, so that offering a tick costs one item assignment: `outbox[token] = frame;
    outbox.offered += 1`. It cannot grow beyond the instruments subscribed.

    Attributes:
        offered: Ticks put in since the last `take`, replaced ones included.
    """

    __slots__ = ("offered",)

    def __init__(self) -> None:
        super().__init__()
        self.offered = 0

    def take(self, limit: int) -> tuple[list[bytes], int]:
        """Take out at most `limit` frames, oldest change first.

        Returns:
            The frames, and how many older ticks were replaced since the last time.
        """
        conflated = self.offered - len(self)
        if len(self) <= limit:
            frames = list(self.values())
            self.clear()
        else:
            frames = [self.pop(token) for token in list(islice(self, limit))]
        # What stays was offered once each; taking it later must not count it as replaced.
        self.offered = len(self)
        return frames, conflated

    def forget(self, token: int) -> None:
        """Drop what waits for an instrument: no tick may follow its `unsubscribed`."""
        if self.pop(token, None) is not None:
            self.offered -= 1
