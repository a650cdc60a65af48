"""What one WebSocket connection wants to hear: tokens with modes, and Kite's limit on them."""

from collections.abc import Iterable
from typing import Final

import msgspec

from libs.common.kite.frames import Mode

TOKENS_PER_CONNECTION: Final = 3000
CONNECTIONS_PER_KEY: Final = 3
_MAX_TOKEN: Final = 0xFFFF_FFFF


class Rejected(msgspec.Struct, frozen=True):
    """A command that was not, or only partly, carried out.

    Attributes:
        message: Text of the `error` message for the client.
    """

    message: str


class Command(msgspec.Struct, frozen=True):
    """A parsed client message.

    Attributes:
        action: `subscribe`, `unsubscribe` or `mode`.
        tokens: Instrument tokens.
        mode: Only for `mode`.
    """

    action: str
    tokens: tuple[int, ...]
    mode: Mode | None = None


def parse_command(text: str | bytes) -> Command | Rejected:
    """Read `{"a": action, "v": tokens}` or `{"a": "mode", "v": [mode, tokens]}`."""
    try:
        message = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Rejected("Invalid JSON.")
    if not isinstance(message, dict):
        return Rejected('Invalid message: expected {"a": action, "v": value}.')
    # Tuples, not sets, below: what a client sends may not be hashable.
    action, value, mode = message.get("a"), message.get("v"), None
    if action == "mode":
        name, value = value if isinstance(value, list) and len(value) == 2 else (None, None)
        if name not in tuple(Mode):
            return Rejected('Invalid mode message: expected "v": [mode, tokens].')
        mode = Mode(name)
    elif action not in ("subscribe", "unsubscribe"):
        return Rejected(f"Unknown action: {str(action)[:20]!r}.")
    if not isinstance(value, list) or not all(
        type(token) is int and 0 < token <= _MAX_TOKEN for token in value
    ):
        return Rejected("Invalid tokens: expected a list of instrument tokens.")
    return Command(str(action), tuple(value), mode)


class Subscriptions:
    """The tokens of one connection and the mode of each.

    Args:
        limit: Tokens at most.
    """

    def __init__(self, limit: int = TOKENS_PER_CONNECTION) -> None:
        self._limit = limit
        self.modes: dict[int, Mode] = {}

    def apply(self, command: Command) -> tuple[list[int], Rejected | None]:
        """Carry out a command.

        A token that is new or changes its mode is reported, so that its snapshot can be sent.
        Tokens beyond the limit are refused, the others of the same command are taken. `mode` for
        a token that is not subscribed is ignored: Kite knows no such instrument on the connection.

        Returns:
            The tokens that need a snapshot, and an error when something was refused.
        """
        if command.action == "unsubscribe":
            for token in command.tokens:
                self.modes.pop(token, None)
            return [], None
        if command.mode is not None:
            return self._change_mode(command.tokens, command.mode), None
        fresh = [token for token in dict.fromkeys(command.tokens) if token not in self.modes]
        room = self._limit - len(self.modes)
        # What a bare subscribe means is not documented; the SDK keeps its books as `quote`.
        self.modes.update(dict.fromkeys(fresh[:room], Mode.QUOTE))
        if len(fresh) > room:
            message = (
                f"Subscription limit of {self._limit} instruments per connection exceeded: "
                f"{len(fresh) - room} ignored."
            )
            return fresh[:room], Rejected(message)
        return fresh, None

    def _change_mode(self, tokens: Iterable[int], mode: Mode) -> list[int]:
        changed = [
            token for token in dict.fromkeys(tokens) if self.modes.get(token, mode) is not mode
        ]
        self.modes.update(dict.fromkeys(changed, mode))
        return changed
