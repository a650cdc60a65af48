"""The tag that a request carries at the broker, by which it is found again."""

import base64
import hashlib
from typing import Final

__all__ = ["TAG_PREFIX", "tag_of"]

TAG_PREFIX: Final = "tf"
_DIGITS: Final = 14


def tag_of(account: str, task_id: str, leg: int) -> str:
    """The tag of one request, always the same for the same request and never another's.

    It can be computed again after any crash, so that a request that left without leaving a trace
    here is still found in the broker's book. 70 bits of SHA-256: among a million requests the
    chance of two with one tag is one in two thousand million, and the ledger's key refuses it.

    Args:
        account: Whose order it is.
        task_id: The caller's key.
        leg: Which request of the task; one that replaces another has a number of its own.

    Returns:
        16 characters of `[a-z2-7]`; Kite takes 20 letters and digits.
    """
    # Neither a key nor a number holds the separator, so no two triples spell the same text.
    digest = hashlib.sha256(f"{account}\0{task_id}\0{leg}".encode()).digest()
    return TAG_PREFIX + base64.b32encode(digest).decode().lower()[:_DIGITS]
