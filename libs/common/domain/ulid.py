"""Makes ULIDs: 26 characters that sort by time and never meet twice (github.com/ulid/spec)."""

from typing import Final

RANDOM_BYTES: Final = 10
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LENGTH: Final = 26
_MILLISECONDS_MAX: Final = (1 << 48) - 1


def ulid(at_ms: int, randomness: bytes) -> str:
    """Spell a moment and ten random bytes as one word of Crockford's base 32.

    Args:
        at_ms: Epoch milliseconds.
        randomness: Ten bytes that nobody can foresee.

    Raises:
        ValueError: The moment does not fit 48 bits, or there are not ten bytes.
    """
    if not 0 <= at_ms <= _MILLISECONDS_MAX:
        raise ValueError(f"at_ms: {at_ms} does not fit 48 bits")
    if len(randomness) != RANDOM_BYTES:
        raise ValueError(f"randomness: ten bytes are needed, not {len(randomness)}")
    value = at_ms << 80 | int.from_bytes(randomness)
    return "".join(_ALPHABET[value >> 5 * place & 31] for place in reversed(range(_LENGTH)))
