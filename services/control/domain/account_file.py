"""Reads accounts from YAML text; every complaint names file, line and column, never a value."""

import re
from collections.abc import Iterator

import yaml

from libs.common.contracts.messages import AccountSource
from services.control.domain import accounts
from services.control.domain.accounts import Account, Found, Problem

TEXT_BYTES_MAX = 1024 * 1024
_NAMES_OF_NAME = ("name", "account")
_NULL_TAG = "tag:yaml.org,2002:null"
_QUOTED = re.compile(r"'(?!<)[^']{2,}'|\"(?!<)[^\"]{2,}\"")


class _BadAccountError(Exception):
    """One account of the file cannot be used."""

    def __init__(self, mark: yaml.Mark, message: str) -> None:
        super().__init__(message)
        self.mark = mark
        self.message = message


def parse(text: str, file: str) -> Found | Problem:
    """Read the accounts of a YAML file.

    The file holds `accounts:`, either a mapping from names to fields or a list of mappings that
    each have a `name`. The fields are those of `accounts.FIELDS`. An account with an unknown,
    repeated, missing or bad field is left out with a sentence; the others stay.

    Args:
        text: The content.
        file: Its path, for the sentences.

    Returns:
        What it describes, or the problem that makes all of it unreadable.
    """
    if len(text.encode("utf-8", "surrogatepass")) > TEXT_BYTES_MAX:
        return _broken(f"{file}: larger than {TEXT_BYTES_MAX} bytes")
    root = _compose(text, file)
    if isinstance(root, Problem):
        return root
    try:
        entries = list(_entries(root))
    except _BadAccountError as error:
        return _broken(f"{_at(file, error.mark)}: {error.message}")

    found: list[Account] = []
    problems: list[Problem] = []
    first_seen: dict[str, str] = {}
    for name, mark, node in entries:
        try:
            account = _account(name, mark, node, file)
            if account.name in first_seen:
                raise _BadAccountError(  # noqa: TRY301  # One place says how an account is left out.
                    mark, f"is described before, at {first_seen[account.name]}"
                )
        except _BadAccountError as error:
            who = f"account {name}" if name else "an account without a name"
            problems.append(
                Problem(
                    source=AccountSource.FILE,
                    message=f"{_at(file, error.mark)}: {who} is skipped: {error.message}",
                    account=name if name and name not in first_seen else None,
                )
            )
            continue
        first_seen[account.name] = _at(file, mark)
        found.append(account)
    return Found(accounts=tuple(found), problems=tuple(problems))


def _compose(text: str, file: str) -> yaml.Node | Problem:
    """Parse without building values: nodes know where they stand, and no tag can do anything."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        return _broken(f"{file}:{line}:{column}: a character that YAML does not allow")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = _at(file, mark) if mark else file
        # The parser quotes what it stumbles over, and that may be half a password.
        return _broken(f"{at}: {_QUOTED.sub('…', error.problem or 'not YAML')}")
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        return _broken(f"{file}: not YAML ({type(error).__name__})")
    if root is None:
        return _broken(f"{file}:1:1: the file is empty; it should hold 'accounts:'")
    return root


def _broken(message: str) -> Problem:
    return Problem(source=AccountSource.FILE, message=message)


def _at(file: str, mark: yaml.Mark) -> str:
    return f"{file}:{mark.line + 1}:{mark.column + 1}"


def _entries(root: yaml.Node) -> Iterator[tuple[str | None, yaml.Mark, yaml.Node]]:
    """The accounts as (name, where, fields), whichever way they are written."""
    holder: yaml.Node | None = None
    if isinstance(root, yaml.MappingNode):
        for key, value in root.value:
            if key.value != "accounts":
                hint = accounts.misspelt(str(key.value), ("accounts",))
                raise _BadAccountError(key.start_mark, f"the key {_shown(key)} is unknown: {hint}")
            if holder is not None:
                raise _BadAccountError(key.start_mark, "'accounts' stands here a second time")
            holder = value
    if isinstance(holder, yaml.MappingNode):
        for key, value in holder.value:
            yield _name(key), key.start_mark, value
    elif isinstance(holder, yaml.SequenceNode):
        for item in holder.value:
            yield _own_name(item), item.start_mark, item
    elif holder is None or holder.tag != _NULL_TAG:
        mark = (holder or root).start_mark
        raise _BadAccountError(mark, "should hold 'accounts:' with a mapping or a list below it")


def _name(key: yaml.Node) -> str | None:
    name = key.value if isinstance(key, yaml.ScalarNode) else ""
    return name if accounts.NAME.fullmatch(name) else None


def _own_name(item: yaml.Node) -> str | None:
    if isinstance(item, yaml.MappingNode):
        for key, value in item.value:
            if key.value in _NAMES_OF_NAME:
                return _name(value)
    return None


def _account(name: str | None, mark: yaml.Mark, node: yaml.Node, file: str) -> Account:
    if name is None:
        raise _BadAccountError(mark, f"give it a name; {accounts.NAME_RULE}")
    if not isinstance(node, yaml.MappingNode):
        raise _BadAccountError(node.start_mark, "should be a mapping of fields to values")
    values: dict[str, str | None] = {}
    marks: dict[str, yaml.Mark] = {}
    for key, value in node.value:
        field = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
        if field in marks:
            raise _BadAccountError(key.start_mark, f"{field!r} stands here a second time")
        marks[field] = value.start_mark
        if field in _NAMES_OF_NAME:
            continue
        if field not in accounts.FIELDS:
            raise _BadAccountError(
                key.start_mark, f"the field {_shown(key)} is unknown: {accounts.misspelt(field)}"
            )
        if not isinstance(value, yaml.ScalarNode):
            raise _BadAccountError(value.start_mark, f"{field!r} should be a single value")
        # The text as it stands: a password 0123 is no number.
        values[field] = None if value.tag == _NULL_TAG else value.value.strip()
    wrong = accounts.shortcomings(values)
    if wrong:
        first = next((marks[field] for field in wrong if field in marks), mark)
        raise _BadAccountError(first, "; ".join(f"{field} {why}" for field, why in wrong.items()))
    return accounts.describe(name, AccountSource.FILE, _at(file, mark), values)


def _shown(key: yaml.Node) -> str:
    """A key, unless it looks as if it were a value in the wrong place."""
    text = key.value if isinstance(key, yaml.ScalarNode) else ""
    return repr(text) if re.fullmatch(r"[A-Za-z_-]{1,32}", text) else "that stands here"
