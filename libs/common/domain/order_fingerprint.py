"""Whether two commands with one key are the same command."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["fingerprint"]

# A repetition is made later than the first, by definition.
_IGNORED: Final = frozenset({"created_at_ns"})


def fingerprint(command: Mapping[str, Any]) -> str:
    """The SHA-256 of what a command asks for, the same however its JSON was written.

    Order of keys, spelling of numbers (`100`, `100.0`), and whether a null was written or left
    out make no difference. Decode first: `fingerprint(msgspec.to_builtins(command))` of a decoded
    command has every default written out, so that one left out and one spelled out are the same.

    Args:
        command: A command as plain values, its `verb` included; `created_at_ns` is ignored.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: It holds a number that JSON cannot carry (NaN, infinity).
        TypeError: It holds something that is no JSON value.
    """
    asked = {key: value for key, value in command.items() if key not in _IGNORED}
    text = json.dumps(
        _canonical(asked),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _canonical(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
