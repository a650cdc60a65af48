"""Reads the file in which an operator gives single underlyings conventions of their own."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from libs.common.contracts.messages import Convention, PricingModel, YearClock
from libs.common.settings import SettingsError

VARIABLE: Final = "GREEKS_CONVENTIONS_FILE"

_Rate = Annotated[float, Meta(ge=-0.5, le=1.0)]
_Age = Annotated[float, Meta(gt=0, le=86_400)]


class _Entry(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One table of the file; what is left out is as for all other underlyings."""

    model: PricingModel | None = None
    rate: _Rate | None = None
    dividend_yield: _Rate | None = None
    clock: YearClock | None = None
    future_max_age_seconds: _Age | None = None
    quote_max_age_seconds: _Age | None = None
    spot_max_age_seconds: _Age | None = None
    smile_max_age_seconds: _Age | None = None


def read_conventions(path: str, default: Convention) -> dict[str, Convention]:
    """Read the conventions by underlying.

    The file is TOML with a table per underlying, named as in the dump:

        [NIFTY]
        rate = 0.065
        clock = "trading252"

        ["M&M"]
        model = "bsm"
        dividend_yield = 0.012

    Args:
        path: Of the file; empty for none.
        default: Fills in what a table leaves out.

    Raises:
        SettingsError: It cannot be read, or names the tables and keys that are wrong.
    """
    if not path:
        return {}
    try:
        tables: dict[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError([f"{VARIABLE}: cannot read {path}: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError([f"{VARIABLE}: {path} is no TOML: {error}"]) from error
    found: dict[str, Convention] = {}
    problems = []
    for underlying, table in tables.items():
        try:
            entry = msgspec.convert(table, _Entry)
        except msgspec.ValidationError as error:
            problems.append(f"{VARIABLE}: [{underlying}] of {path}: {error}")
            continue
        fields = msgspec.structs.asdict(entry)
        given = {name: value for name, value in fields.items() if value is not None}
        found[underlying] = msgspec.structs.replace(default, **given)
    if problems:
        raise SettingsError(problems)
    return found
