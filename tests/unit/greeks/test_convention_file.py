"""The file of conventions: whatever it says is what its underlyings are priced by."""

import json

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.common.contracts.messages import Convention, PricingModel, YearClock
from libs.common.settings import SettingsError
from services.greeks.convention_file import read_conventions

rates = st.floats(-0.5, 1.0)
ages = st.floats(0.001, 86_400)
given_keys = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(PricingModel),
        "rate": rates,
        "dividend_yield": rates,
        "clock": st.sampled_from(YearClock),
        "future_max_age_seconds": ages,
        "quote_max_age_seconds": ages,
        "spot_max_age_seconds": ages,
        "smile_max_age_seconds": ages,
    },
)
names = st.sampled_from(["NIFTY", "BANKNIFTY", "M&M", "BAJAJ-AUTO", "SENSEX", "GOLD"])


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables=st.dictionaries(names, given_keys), default=given_keys)
def test_what_a_table_says_holds_and_the_rest_is_as_for_all_others(tmp_path, tables, default):
    lines = []
    for underlying, keys in tables.items():
        lines.append(f"[{json.dumps(underlying)}]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in keys.items()]
    file = tmp_path / "conventions.toml"
    file.write_text("\n".join(lines))
    every = Convention(**default)
    assert read_conventions(str(file), every) == {
        underlying: msgspec.structs.replace(every, **keys) for underlying, keys in tables.items()
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rate", "1.01"),
        ("rate", "-0.51"),
        ("rate", "nan"),
        ("rate", "inf"),
        ("dividend_yield", "7.5"),
        ("future_max_age_seconds", "0"),
        ("smile_max_age_seconds", "86401"),
        ("clock", '"act360"'),
        ("model", '"bachelier"'),
        ("rates", "0.1"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_with_its_place(tmp_path, key, value):
    file = tmp_path / "conventions.toml"
    file.write_text(f"[NIFTY]\nrate = 0.05\n[SENSEX]\n{key} = {value}\n")
    with pytest.raises(SettingsError, match=rf"GREEKS_CONVENTIONS_FILE: \[SENSEX\].*{key}"):
        read_conventions(str(file), Convention())


def test_no_file_means_no_conventions_of_their_own():
    assert read_conventions("", Convention()) == {}
