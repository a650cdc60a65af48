"""Whether an AccountCommand makes sense by itself, before anything is looked up."""

from libs.common.contracts.messages import AccountCommand, AccountVerb
from services.control.domain import accounts
from services.control.errors import AccountCommandError

_CREDENTIALS = ("api_key", "api_secret", "user_id", "password", "totp_secret")
_TOKENS = ("request_token", "access_token")
_CHANGES = frozenset({AccountVerb.ADD, AccountVerb.ROTATE})
_LENGTH_MAX = 1024


def values(command: AccountCommand) -> dict[str, str | None]:
    """The fields of an account that a command holds, numbers as text."""
    found: dict[str, str | None] = {field: getattr(command, field) for field in _CREDENTIALS}
    for field in accounts.LIMITS:
        number = getattr(command, field)
        found[field] = None if number is None else str(number)
    return found


def check(command: AccountCommand) -> None:
    """Refuse fields that do not go with the verb, and values that can be of no use.

    Raises:
        AccountCommandError: `bad_request`; names the field and never its value.
    """
    if not accounts.NAME.fullmatch(command.account):
        raise _bad("account", accounts.NAME_RULE)
    given = values(command)
    tokens = {field: getattr(command, field) for field in _TOKENS}
    allowed = _fields_of(command.verb)
    for field, value in {**given, **tokens}.items():
        if value is not None:
            _check_value(field, value, command.verb, allowed)
    if all(tokens.values()):
        raise _bad("request_token", "give this or access_token, not both")
    if command.verb is AccountVerb.ROTATE and not any(given.values()):
        raise _bad("api_secret", f"give at least one of {', '.join(given)}")
    if command.verb is AccountVerb.ADD:
        for field, why in accounts.shortcomings(given).items():
            raise _bad(field, why)


def _check_value(field: str, value: str, verb: AccountVerb, allowed: frozenset[str]) -> None:
    if field not in allowed:
        raise _bad(field, f"does not go with {verb.value}")
    if not value.strip() or len(value) > _LENGTH_MAX or not value.isprintable():
        raise _bad(field, "is empty, too long or not printable")
    if field in _TOKENS and not value.strip().isalnum():
        raise _bad(field, "is no token: letters and digits only")


def _fields_of(verb: AccountVerb) -> frozenset[str]:
    if verb in _CHANGES:
        return frozenset((*_CREDENTIALS, *accounts.LIMITS))
    return frozenset(_TOKENS) if verb is AccountVerb.LOGIN else frozenset()


def _bad(field: str, why: str) -> AccountCommandError:
    return AccountCommandError("bad_request", f"{field}: {why}", field=field)
