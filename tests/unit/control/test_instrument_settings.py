"""Settings of the instruments: which exchanges, how often, how much may be lost."""

import pytest
from pydantic import ValidationError

from services.control.settings import ControlSettings

REQUIRED = {
    "kite_accounts": "main",
    "database_url": "postgresql://a:b@127.0.0.1/c",
    "account_encryption_key": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
}


def settings(**values: object) -> ControlSettings:
    return ControlSettings.model_validate({**REQUIRED, **values})


@pytest.mark.parametrize(
    ("text", "exchanges"),
    [
        ("NSE,NFO", ("NSE", "NFO")),
        (" nse , nfo,NSE,", ("NSE", "NFO")),
        ("all", ("all",)),
        (" ALL ", ("all",)),
    ],
)
def test_exchanges_are_names_or_all(text, exchanges):
    assert settings(instrument_exchanges=text).instrument_exchanges == exchanges


def test_equity_and_derivatives_of_both_exchanges_are_loaded_by_default():
    chosen = settings()
    assert chosen.instrument_exchanges == ("NSE", "NFO", "BSE", "BFO")
    assert (chosen.instrument_refresh_hours, chosen.instrument_max_shrinkage) == (12.0, 0.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("instrument_exchanges", ""),
        ("instrument_exchanges", "NSE,../quote"),
        ("instrument_exchanges", "N"),
        ("instrument_exchanges", "NSE,all"),
        ("instrument_exchanges", ",".join(f"N{chr(65 + n)}" for n in range(17))),
        ("instrument_refresh_hours", 0),
        ("instrument_refresh_hours", 25),
        ("instrument_max_shrinkage", -0.1),
        ("instrument_max_shrinkage", 1.1),
    ],
)
def test_wrong_value_is_refused_by_name(name, value):
    with pytest.raises(ValidationError) as caught:
        settings(**{name: value})
    assert name in str(caught.value)
