"""What to say to Kite so that a connection streams what its plan entry wants."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

import msgspec

from libs.common.contracts.messages import PlannedConnection, StreamMode

# Kite takes 3000 tokens at once; smaller commands keep the socket's write buffer small.
COMMAND_TOKENS = 1000
_ENCODER = msgspec.json.Encoder()


def desired(connection: PlannedConnection) -> dict[int, StreamMode]:
    """Token to mode, as a plan entry wants it."""
    return {token: group.mode for group in connection.groups for token in group.tokens}


def commands(current: Mapping[int, StreamMode], wanted: Mapping[int, StreamMode]) -> Iterator[str]:
    """The JSON commands that lead from the current subscriptions to the wanted ones.

    Unsubscribes come first, so that a full connection never exceeds its limit on the way. A new
    token is subscribed and given its mode explicitly; the mode after a bare subscribe is
    undocumented. A token whose mode changes is only given the new mode.
    """
    gone = sorted(token for token in current if token not in wanted)
    new = sorted(token for token in wanted if token not in current)
    by_mode: dict[StreamMode, list[int]] = defaultdict(list)
    for token in sorted(wanted):
        if current.get(token) != wanted[token]:
            by_mode[wanted[token]].append(token)
    for part in _parts(gone):
        yield _encode("unsubscribe", part)
    for part in _parts(new):
        yield _encode("subscribe", part)
    for mode in StreamMode:
        for part in _parts(by_mode.get(mode, [])):
            yield _encode("mode", [mode.value, part])


def _parts(tokens: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(tokens), COMMAND_TOKENS):
        yield tokens[start : start + COMMAND_TOKENS]


def _encode(action: str, value: object) -> str:
    return _ENCODER.encode({"a": action, "v": value}).decode()
