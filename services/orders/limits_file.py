"""Reads the file in which an operator says what accounts and users may order."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from libs.common.contracts.orders import Exchange, Product
from libs.common.settings import SettingsError
from services.orders.domain.order_limits import NO_LIMITS, LimitsTable, OrderLimits

__all__ = ["VARIABLE", "read_limits"]

VARIABLE: Final = "ORDERS_LIMITS_FILE"

_DEFAULT: Final = "default"
_SECTIONS: Final = ("accounts", "users")
_Count = Annotated[int, Meta(ge=0)]


class _Entry(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One table of the file; what is left out is as in the default of its section."""

    max_quantity: _Count | None = None
    max_value: Annotated[float, Meta(ge=0)] | None = None
    max_orders_per_day: _Count | None = None
    max_open_orders: _Count | None = None
    exchanges: frozenset[Exchange] | None = None
    products: frozenset[Product] | None = None


def read_limits(path: str) -> LimitsTable:
    """Read the limits of accounts and users.

    The file is TOML with two sections, each with a table per name; `default` is everybody else's:

        [accounts.default]
        max_value = 5_000_000
        max_orders_per_day = 2000

        [accounts.AB1234]
        exchanges = ["NFO"]
        products = ["NRML", "MIS"]

        [users.desk]
        max_quantity = 1800

    Args:
        path: Of the file; empty for none.

    Returns:
        The limits; none for anybody without a file.

    Raises:
        SettingsError: It cannot be read, or names every table and key that is wrong.
    """
    if not path:
        return LimitsTable()
    try:
        sections: dict[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError([f"{VARIABLE}: cannot read {path}: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError([f"{VARIABLE}: {path} is no TOML: {error}"]) from error
    problems = [
        f"{VARIABLE}: [{name}] of {path} is neither [accounts.…] nor [users.…]"
        for name in sections
        if name not in _SECTIONS
    ]
    tables = {name: _section(name, sections.get(name, {}), path, problems) for name in _SECTIONS}
    if problems:
        raise SettingsError(problems)
    accounts, users = tables["accounts"], tables["users"]
    return LimitsTable(
        default_account=accounts.pop(_DEFAULT, NO_LIMITS),
        accounts=accounts,
        default_user=users.pop(_DEFAULT, NO_LIMITS),
        users=users,
    )


def _section(
    section: str, tables: object, path: str, problems: list[str]
) -> dict[str, OrderLimits]:
    if not isinstance(tables, dict):
        problems.append(f"{VARIABLE}: {section} of {path} is no table of names")
        return {}
    found: dict[str, OrderLimits] = {}
    # The default first, whatever the order of the file, since the others are built on it.
    for name in sorted(tables, key=lambda name: name != _DEFAULT):
        try:
            entry = msgspec.convert(tables[name], _Entry)
        except msgspec.ValidationError as error:
            problems.append(f"{VARIABLE}: [{section}.{name}] of {path}: {error}")
            continue
        fields = msgspec.structs.asdict(entry)
        given = {key: value for key, value in fields.items() if value is not None}
        found[name] = msgspec.structs.replace(found.get(_DEFAULT, NO_LIMITS), **given)
    return found
