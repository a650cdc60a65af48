"""Tells what another connection of the account has brought already from what is new."""

import hashlib

import msgspec

_DIGEST_BYTES = 16


def digest_of(kind: str, data: bytes | msgspec.Raw) -> bytes:
    """What identifies a text frame: its type and its data, whatever the order of the keys.

    Args:
        kind: The frame's `type`.
        data: Its `data`, JSON.

    Raises:
        msgspec.DecodeError: `data` is no JSON.
    """
    canonical = msgspec.json.encode(msgspec.json.decode(data), order="deterministic")
    return hashlib.blake2b(kind.encode() + b"\0" + canonical, digest_size=_DIGEST_BYTES).digest()


class Repeats:
    """Remembers the newest digests for a while.

    Kite pushes a text over every connection of an account. Copies come within moments of one
    another, and a later update of the same order differs in its content; so equal content is a
    repeat while it is remembered, and news afterwards.

    Args:
        capacity: Digests at most; the oldest is forgotten first.
        window_seconds: How long each is remembered, from its first sight.
    """

    def __init__(self, *, capacity: int = 4096, window_seconds: float = 60.0) -> None:
        self._capacity = capacity
        self._window_seconds = window_seconds
        # In the order of first sight, which is that of expiry too.
        self._seen: dict[bytes, float] = {}

    def __len__(self) -> int:
        """How many digests are remembered."""
        return len(self._seen)

    def is_repeat(self, digest: bytes, at_seconds: float) -> bool:
        """Say whether this content came before, and remember it if not.

        Args:
            digest: From `digest_of`.
            at_seconds: Now, on a clock that never runs backwards.
        """
        while self._seen:
            oldest = next(iter(self._seen))
            if at_seconds - self._seen[oldest] < self._window_seconds:
                break
            del self._seen[oldest]
        if digest in self._seen:
            return True
        if len(self._seen) >= self._capacity:
            del self._seen[next(iter(self._seen))]
        self._seen[digest] = at_seconds
        return False
