"""What an account needs, which of several descriptions of it counts, and how people are told."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

import msgspec

from libs.common.contracts.messages import AccountSource
from libs.common.domain.credentials import App, Credentials

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
NAME_RULE = "use 1 to 32 letters, digits, '-' and '_', a letter or digit first"
SECRETS = ("api_key", "api_secret", "user_id", "password", "totp_secret", "access_token")
# What else a description may hold, and the largest value: Kite's limits per API key.
LIMITS = {"connections": 3, "tokens_per_connection": 3000}
FIELDS = (*SECRETS, *LIMITS)
SINGLE_ACCOUNT = "default"
"""What the account of `KITE_API_KEY` and its siblings is called."""

# A typed secret that stands in a text of Kite's is removed from it; shorter ones say nothing.
_SCRUBBED_LENGTH_MIN = 4
_MISSING = "is missing"
_NOT_BASE32 = "is not base32 (letters A-Z and digits 2-7)"
_BASE32 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
_VARIABLES = {
    "connections": "WS_CONNECTIONS",
    "tokens_per_connection": "MAX_INSTRUMENTS_PER_WS_CONNECTION",
}


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One account as one source describes it; secrets are never printed.

    Attributes:
        name: What it is called here.
        source: Which source.
        place: Where in that source, for people: a file with its line, a variable, a table.
        api_key: The app's key. All other secrets may be missing.
        api_secret: Needed to log in; without it only access tokens made elsewhere work.
        user_id: Of the login form.
        password: Of the login form.
        totp_secret: Base32; without it a person logs in.
        access_token: A token made elsewhere.
        connections: WebSocket connections; None for the default.
        tokens_per_connection: Instruments on each; None for the default.
    """

    name: str
    source: AccountSource
    place: str
    api_key: str
    api_secret: str | None = None
    user_id: str | None = None
    password: str | None = None
    totp_secret: str | None = None
    access_token: str | None = None
    connections: int | None = None
    tokens_per_connection: int | None = None

    def __repr__(self) -> str:
        return f"Account(name={self.name!r}, source={self.source.value!r}, …)"

    @property
    def app(self) -> App:
        """Its Kite Connect app."""
        return App(account=self.name, api_key=self.api_key, api_secret=self.api_secret)

    def credentials(self) -> Credentials | None:
        """What a login without a person takes; None when it cannot do without one."""
        if not (self.api_secret and self.user_id and self.password and self.totp_secret):
            return None
        return Credentials(
            account=self.name,
            api_key=self.api_key,
            api_secret=self.api_secret,
            user_id=self.user_id,
            password=self.password,
            totp_secret=self.totp_secret,
        )

    def identity(self) -> tuple[str | None, ...]:
        """What a refused login was tried with: a change of it is worth another try."""
        return (self.api_key, self.api_secret, self.user_id, self.password, self.totp_secret)

    def scrub(self, text: str) -> str:
        """Remove the account's own secrets from a text that came from elsewhere."""
        for secret in (self.api_key, self.api_secret, self.password, self.totp_secret):
            if secret and len(secret) >= _SCRUBBED_LENGTH_MIN:
                text = text.replace(secret, "[REDACTED]")
        return text


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something about a source that a person should put right; holds no secret.

    Attributes:
        source: Where.
        message: A sentence that names the file, line or variable and the fix.
        account: Which account is left out for it; None when it is about the whole source.
    """

    source: AccountSource
    message: str
    account: str | None = None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What one source describes."""

    accounts: tuple[Account, ...] = ()
    problems: tuple[Problem, ...] = ()


class Directory(msgspec.Struct, frozen=True, kw_only=True):
    """All accounts over all sources.

    Attributes:
        accounts: Those that can be used, by name.
        incomplete: Those that no source describes well enough, by name, with what is wrong.
        problems: Everything that people should know, these included.
    """

    accounts: Mapping[str, Account] = {}
    incomplete: Mapping[str, Problem] = {}
    problems: tuple[Problem, ...] = ()


def masked(user_id: str | None) -> str | None:
    """Show of a user id what tells two apart and no more: `AB1234` becomes `AB****`."""
    if not user_id:
        return None
    shown = user_id[:2] if len(user_id) > 2 else ""
    return shown + "*" * (len(user_id) - len(shown))


def variable(account: str, field: str) -> str:
    """The environment variable of an account's field: `KITE_<ACCOUNT>_<FIELD>`."""
    return f"KITE_{account.upper().replace('-', '_')}_{_VARIABLES.get(field, field.upper())}"


def single_variable(field: str) -> str:
    """The environment variable of a field of the single account: `KITE_<FIELD>`."""
    return f"KITE_{field.upper()}"


def misspelt(key: str, known: Iterable[str] = FIELDS) -> str:
    """Say that a field is unknown and, if one is near, which one was probably meant."""
    near = get_close_matches(key, list(known), n=1, cutoff=0.75)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"


def shortcomings(values: Mapping[str, str | None]) -> dict[str, str]:
    """What keeps a description from being used: a remedy by field, empty when all is well.

    Args:
        values: Fields and their texts; None and "" mean that one is missing. A limit may be given
            as text.
    """
    wrong: dict[str, str] = {}

    def has(field: str) -> bool:
        return bool(values.get(field))

    if not has("api_key"):
        wrong["api_key"] = _MISSING
    if not has("api_secret") and not has("access_token"):
        wrong["api_secret"] = _MISSING
    if has("totp_secret"):
        for field in ("api_secret", "user_id", "password"):
            if not has(field):
                wrong[field] = f"{_MISSING} (a login with totp_secret needs it)"
        text = (values["totp_secret"] or "").replace(" ", "").upper().rstrip("=")
        if not text or not _BASE32.issuperset(text):
            wrong["totp_secret"] = _NOT_BASE32
    for field, most in LIMITS.items():
        text = values.get(field) or ""
        if text and not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= most):
            wrong[field] = f"must be a whole number from 1 to {most}"
    return wrong


def describe(
    name: str, source: AccountSource, place: str, values: Mapping[str, str | None]
) -> Account:
    """Make an account of fields that have no `shortcomings`."""
    return Account(
        name=name,
        source=source,
        place=place,
        api_key=values.get("api_key") or "",
        api_secret=values.get("api_secret") or None,
        user_id=values.get("user_id") or None,
        password=values.get("password") or None,
        totp_secret=values.get("totp_secret") or None,
        access_token=values.get("access_token") or None,
        connections=int(values.get("connections") or 0) or None,
        tokens_per_connection=int(values.get("tokens_per_connection") or 0) or None,
    )


def from_environment(names: str, environment: Mapping[str, str]) -> Found:
    """Read the accounts named in `KITE_ACCOUNTS` from their variables.

    A bad account is left out with a sentence that names what is missing; the others stay.

    Args:
        names: Account names, separated by commas.
        environment: The variables, such as `os.environ`.
    """
    accounts: list[Account] = []
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    source = AccountSource.ENVIRONMENT

    def complain(message: str, account: str | None = None) -> None:
        problems.append(Problem(source=source, message=message, account=account))

    for raw in names.split(","):
        name = raw.strip()
        if not name:
            continue
        if not NAME.fullmatch(name):
            complain(f"KITE_ACCOUNTS: {name[:64]!r} is not a name; {NAME_RULE}")
            continue
        prefix = variable(name, "")
        if prefix in seen:
            complain(
                f"KITE_ACCOUNTS: {name!r} is named twice"
                if seen[prefix] == name
                else f"KITE_ACCOUNTS: {name!r} would have the same variables as {seen[prefix]!r}"
            )
            continue
        seen[prefix] = name
        values = {f: environment.get(variable(name, f), "").strip() for f in FIELDS}
        wrong = shortcomings(values)
        if wrong:
            complain(_skipped(name, {variable(name, f): why for f, why in wrong.items()}), name)
            continue
        accounts.append(describe(name, source, f"{prefix}* in the environment", values))
    return Found(accounts=tuple(accounts), problems=tuple(problems))


def single(environment: Mapping[str, str]) -> Found:
    """Read the one account of `KITE_API_KEY`, `KITE_API_SECRET` and `KITE_ACCESS_TOKEN`.

    It exists as soon as one of the variables is set. `KITE_USER_ID`, `KITE_PASSWORD` and
    `KITE_TOTP_SECRET` let it log in by itself.
    """
    source = AccountSource.SINGLE
    values = {f: environment.get(single_variable(f), "").strip() for f in SECRETS}
    if not any(values.values()):
        return Found()
    wrong = shortcomings(values)
    if wrong:
        message = _skipped(SINGLE_ACCOUNT, {single_variable(f): why for f, why in wrong.items()})
        return Found(problems=(Problem(source=source, message=message, account=SINGLE_ACCOUNT),))
    place = "KITE_API_KEY and its siblings in the environment"
    return Found(accounts=(describe(SINGLE_ACCOUNT, source, place, values),))


def _skipped(name: str, wrong: Mapping[str, str]) -> str:
    missing = [variable for variable, why in wrong.items() if why.startswith(_MISSING)]
    faults = [f"{v}: {why}" for v, why in wrong.items() if v not in missing]
    if missing:
        faults.insert(0, f"set {', '.join(missing)}")
    return f"account {name} is skipped: {'; '.join(faults)}"


def merge(sources: Iterable[Found]) -> Directory:
    """Put all sources together.

    Of two that describe the same account the earlier one wins. One that an earlier source
    describes badly is taken from a later one that describes it well.

    Args:
        sources: In their order.
    """
    accounts: dict[str, Account] = {}
    incomplete: dict[str, Problem] = {}
    problems: list[Problem] = []
    for found in sources:
        problems.extend(found.problems)
        for problem in found.problems:
            if problem.account is not None:
                incomplete.setdefault(problem.account, problem)
        for account in found.accounts:
            winner = accounts.setdefault(account.name, account)
            if winner is not account:
                message = (
                    f"account {account.name} is described twice: by {winner.place}, which counts, "
                    f"and by {account.place}, which does not; remove one"
                )
                problems.append(Problem(source=account.source, message=message))
    return Directory(
        accounts=accounts,
        incomplete={name: why for name, why in incomplete.items() if name not in accounts},
        problems=tuple(problems),
    )


def where_to_change(account: str, source: AccountSource, place: str) -> str:
    """The sentence for a command that only the place of the description can carry out."""
    if source is AccountSource.ENVIRONMENT:
        return f"account {account} is described by the variables {place}: change them there"
    if source is AccountSource.SINGLE:
        return f"account {account} is described by {place}: change them there"
    if source is AccountSource.FILE:
        return f"account {account} is described by {place} (KITE_ACCOUNTS_FILE): change that file"
    if source is AccountSource.USER_SERVICE:
        return f"account {account} is described by the user service ({place}): change it there"
    return f"account {account} is described by the table accounts"
