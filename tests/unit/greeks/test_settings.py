"""Settings of greeks, and what is made of them."""

from pathlib import Path

import numpy as np
import pytest

from libs.common.contracts.messages import Convention, PricingModel, YearClock
from libs.common.settings import SettingsError, load
from services.greeks import app
from services.greeks.convention_file import read_conventions
from services.greeks.settings import GreeksSettings


def test_defaults_are_the_conventions_of_the_house():
    policy = app.policy_of(load(GreeksSettings))
    assert policy.of("NIFTY") == Convention()
    assert policy.of("NIFTY").name == "black76 act365 r=0"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GREEKS_MODEL", "heston"),
        ("GREEKS_ENGINE", "abacus"),
        ("GREEKS_RATE", "6.5"),
        ("GREEKS_DIVIDEND_YIELD", "1.2"),
        ("GREEKS_CLOCK", "moon"),
        ("REPRICE_INTERVAL_SECONDS", "-1"),
        ("CHAIN_STRIKES", "0"),
        ("LAST_INTERVAL_SECONDS", "0"),
        ("FUTURE_MAX_AGE_SECONDS", "-1"),
        ("BAR_GRACE_SECONDS", "-0.5"),
        ("BAR_LATE_SECONDS", "1.5"),
    ],
)
def test_a_wrong_setting_names_its_variable(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=variable):
        load(GreeksSettings)


def test_every_setting_of_the_policy_reaches_it(monkeypatch):
    monkeypatch.setenv("GREEKS_MODEL", "bsm")
    monkeypatch.setenv("GREEKS_RATE", "0.065")
    monkeypatch.setenv("GREEKS_DIVIDEND_YIELD", "0.012")
    monkeypatch.setenv("GREEKS_CLOCK", "trading252")
    monkeypatch.setenv("FUTURE_MAX_AGE_SECONDS", "1")
    monkeypatch.setenv("QUOTE_MAX_AGE_SECONDS", "2")
    monkeypatch.setenv("SPOT_MAX_AGE_SECONDS", "3")
    monkeypatch.setenv("SMILE_MAX_AGE_SECONDS", "4")
    monkeypatch.setenv("REPRICE_INTERVAL_SECONDS", "2.5")
    monkeypatch.setenv("BAR_GRACE_SECONDS", "0.25")
    monkeypatch.setenv("BAR_LATE_SECONDS", "7")
    policy = app.policy_of(load(GreeksSettings))
    convention = policy.of("NIFTY")
    assert convention.name == "bsm trading252 r=0.065 q=0.012"
    assert policy.reprice_interval_seconds == 2.5
    assert (policy.bar_grace_seconds, policy.bar_late_seconds) == (0.25, 7)
    ages = (
        convention.future_max_age_seconds,
        convention.quote_max_age_seconds,
        convention.spot_max_age_seconds,
        convention.smile_max_age_seconds,
    )
    assert ages == (1, 2, 3, 4)


@pytest.mark.parametrize("model", ["black76", "bsm"])
def test_both_engines_answer_alike(model):
    flag, price = np.array([1, -1]), np.array([[120.0, 95.0], [119.0, 94.0]])
    results = [
        app.engine_of(load(GreeksSettings, greeks_engine=name, greeks_model=model))(
            flag, price, np.full(2, 24_500.0), 24_500.0, 0.01, 1.0, model=model
        )
        for name in ("numpy", "vollib")
    ]
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_an_underlying_may_have_its_own_convention(monkeypatch, tmp_path):
    file = tmp_path / "conventions.toml"
    file.write_text('[NIFTY]\nclock = "trading252"\n["M&M"]\nmodel = "bsm"\nrate = 0\n')
    monkeypatch.setenv("GREEKS_CONVENTIONS_FILE", str(file))
    monkeypatch.setenv("GREEKS_RATE", "0.065")
    policy = app.policy_of(load(GreeksSettings))
    assert policy.of("NIFTY") == Convention(rate=0.065, clock=YearClock.TRADING252)
    assert policy.of("M&M") == Convention(model=PricingModel.BSM)
    assert policy.of("RELIANCE") == Convention(rate=0.065)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[NIFTY", "no TOML"),
        ("[NIFTY]\nrate = 6.5\n", r"\[NIFTY\].*rate"),
        ('[NIFTY]\nrate = "high"\n', r"\[NIFTY\].*rate"),
        ("[NIFTY]\nyield = 0.1\n", r"\[NIFTY\].*yield"),
        ("rate = 0.1\n", r"\[rate\]"),
        ('[A]\nclock = "sun"\n[B]\nmodel = "x"\n', r"(?s)\[A\].*clock.*\[B\].*model"),
    ],
)
def test_a_wrong_convention_names_file_table_and_key(monkeypatch, tmp_path, content, message):
    file = tmp_path / "conventions.toml"
    file.write_text(content)
    monkeypatch.setenv("GREEKS_CONVENTIONS_FILE", str(file))
    with pytest.raises(SettingsError, match=message):
        app.policy_of(load(GreeksSettings))


def test_a_convention_file_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("GREEKS_CONVENTIONS_FILE", "/nowhere/conventions.toml")
    with pytest.raises(SettingsError, match="GREEKS_CONVENTIONS_FILE: cannot read /nowhere"):
        app.policy_of(load(GreeksSettings))


def test_the_convention_file_of_the_deployment_is_empty_and_its_example_usable(tmp_path):
    deployed = Path(__file__).parents[3] / "deploy" / "conventions.toml"
    assert read_conventions(str(deployed), Convention()) == {}
    lines = deployed.read_text(encoding="utf-8").partition("#\n")[2].splitlines()
    example = tmp_path / "example.toml"
    example.write_text("\n".join(line.removeprefix("#").strip() for line in lines))
    found = read_conventions(str(example), Convention())
    assert found["NIFTY"] == Convention(rate=0.065, clock=YearClock.TRADING252)
    assert found["M&M"] == Convention(model=PricingModel.BSM, dividend_yield=0.012)
