"""Which Kite accounts the environment describes, and what is missing where."""

import re
from collections.abc import Mapping

import msgspec

from libs.common.domain.credentials import Credentials

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_FIELDS = ("api_key", "api_secret", "user_id", "password", "totp_secret")


class AccountsFound(msgspec.Struct, frozen=True, kw_only=True):
    """The accounts that can be used, and a sentence for each that cannot."""

    accounts: tuple[Credentials, ...]
    problems: tuple[str, ...]


def variable(account: str, field: str) -> str:
    """The environment variable of an account's field: `KITE_<ACCOUNT>_<FIELD>`."""
    return f"KITE_{account.upper().replace('-', '_')}_{field.upper()}"


def from_environment(names: str, environment: Mapping[str, str]) -> AccountsFound:
    """Read the accounts named in `KITE_ACCOUNTS` from their variables.

    A bad account is left out with a sentence that names what is missing; the others stay.

    Args:
        names: Account names, separated by commas.
        environment: The variables, such as `os.environ`.
    """
    accounts: list[Credentials] = []
    problems: list[str] = []
    seen: set[str] = set()
    for raw in names.split(","):
        name = raw.strip()
        if not name:
            continue
        if not NAME.fullmatch(name):
            problems.append(
                f"KITE_ACCOUNTS: {name!r} is not a name; use letters, digits, '-' and '_'"
            )
            continue
        prefix = variable(name, "")
        if prefix in seen:
            problems.append(f"KITE_ACCOUNTS: {name!r} is named twice")
            continue
        seen.add(prefix)
        values = {field: environment.get(variable(name, field), "").strip() for field in _FIELDS}
        missing = [variable(name, field) for field, value in values.items() if not value]
        if missing:
            problems.append(f"account {name} is skipped: set {', '.join(missing)}")
            continue
        accounts.append(Credentials(account=name, **values))
    return AccountsFound(accounts=tuple(accounts), problems=tuple(problems))
