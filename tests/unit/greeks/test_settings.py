"""Settings of greeks, and what is made of them."""

import numpy as np
import pytest

from libs.common.settings import SettingsError, load
from services.greeks import app
from services.greeks.settings import GreeksSettings


def test_defaults_are_the_conventions_of_the_house():
    policy = app.policy_of(load(GreeksSettings))
    assert (policy.model, policy.rate) == ("black76", 0.0)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GREEKS_MODEL", "heston"),
        ("GREEKS_ENGINE", "abacus"),
        ("GREEKS_RATE", "6.5"),
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
    monkeypatch.setenv("FUTURE_MAX_AGE_SECONDS", "1")
    monkeypatch.setenv("QUOTE_MAX_AGE_SECONDS", "2")
    monkeypatch.setenv("SPOT_MAX_AGE_SECONDS", "3")
    monkeypatch.setenv("SMILE_MAX_AGE_SECONDS", "4")
    monkeypatch.setenv("BAR_GRACE_SECONDS", "0.25")
    monkeypatch.setenv("BAR_LATE_SECONDS", "7")
    policy = app.policy_of(load(GreeksSettings))
    assert (policy.model, policy.rate) == ("bsm", 0.065)
    assert (policy.bar_grace_seconds, policy.bar_late_seconds) == (0.25, 7)
    ages = (
        policy.future_max_age_seconds,
        policy.quote_max_age_seconds,
        policy.spot_max_age_seconds,
        policy.smile_max_age_seconds,
    )
    assert ages == (1, 2, 3, 4)


@pytest.mark.parametrize("model", ["black76", "bsm"])
def test_both_engines_answer_alike(model):
    terms = (np.array([1, -1]), np.array([120.0, 95.0]), 24_500.0, 24_500.0, 0.01, 1.0)
    results = [
        app.engine_of(load(GreeksSettings, greeks_engine=name, greeks_model=model))(
            *terms, model=model
        )
        for name in ("numpy", "vollib")
    ]
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-9, atol=1e-12)
    assert results[0][1].tolist() == results[1][1].tolist()
