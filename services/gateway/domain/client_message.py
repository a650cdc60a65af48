"""Reads what a client sent, and says exactly what is wrong with it when something is."""

import re
from collections.abc import Iterable

import msgspec

from libs.common.contracts.websocket import ClientMessage, ErrorCode
from services.gateway.errors import ClientMessageError

ACTIONS = (
    "subscribe",
    "unsubscribe",
    "subscribe_orders",
    "unsubscribe_orders",
    "ping",
    "auth",
)
UNKNOWN_TOKENS_NAMED = 20

_DECODER = msgspec.json.Decoder(ClientMessage)
_PATH = re.compile(r" - at `\$\.?(.*)`$")


def read(data: bytes) -> ClientMessage:
    """Decode one message of a client.

    Raises:
        ClientMessageError: With `invalid_json`, `unknown_action`, or `invalid_message` and the
            field that is wrong.
    """
    try:
        message: ClientMessage = _DECODER.decode(data)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except RecursionError as error:
        raise ClientMessageError(ErrorCode.INVALID_JSON, "the JSON is nested too deeply") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise ClientMessageError(
            ErrorCode.INVALID_JSON, f"not valid JSON ({error}); send one object per message"
        ) from error
    return message


def _invalid(text: str) -> ClientMessageError:
    match = _PATH.search(text)
    field = match.group(1) or None if match else None
    reason = text[: match.start()] if match else text
    if field == "action" and reason.startswith("Invalid value"):
        return ClientMessageError(
            ErrorCode.UNKNOWN_ACTION,
            f"unknown action; known ones are {', '.join(ACTIONS)}",
            field="action",
        )
    if field is None and "required field" in reason:
        field = reason.rsplit("`", 2)[1]
    where = f"{field}: " if field else ""
    return ClientMessageError(
        ErrorCode.INVALID_MESSAGE, f"{where}{reason[0].lower()}{reason[1:]}", field=field
    )


def distinct(tokens: Iterable[int]) -> tuple[int, ...]:
    """Each token once, in the order given."""
    return tuple(dict.fromkeys(tokens))


def unknown_tokens(tokens: tuple[int, ...]) -> ClientMessageError:
    """The error that names instruments which are not in today's dump, twenty at most."""
    named = tokens[:UNKNOWN_TOKENS_NAMED]
    more = len(tokens) - len(named)
    listed = ", ".join(map(str, named)) + (f" and {more} more" if more else "")
    return ClientMessageError(
        ErrorCode.UNKNOWN_TOKEN,
        f"unknown instrument tokens: {listed}; GET /instruments lists the known ones",
        field="tokens",
        tokens=named,
    )


def forbidden_accounts(accounts: Iterable[str]) -> ClientMessageError:
    """The error for accounts whose orders the token does not open; none was subscribed."""
    return ClientMessageError(
        ErrorCode.FORBIDDEN,
        f"the token does not open the orders of {', '.join(accounts)}: it needs the claim orders "
        "with these accounts, or *; nothing was subscribed",
        field="accounts",
    )


def too_many_tokens(asked: int, limit: int) -> ClientMessageError:
    """The error for more instruments than a connection may have; nothing was subscribed."""
    return ClientMessageError(
        ErrorCode.TOO_MANY_TOKENS,
        f"a connection may have {limit} instruments, this would make {asked}: nothing was "
        "subscribed; unsubscribe some or open another connection",
        field="tokens",
    )
