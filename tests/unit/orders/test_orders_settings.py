"""Settings of orders: what is for tests alone, and what contradicts itself."""

import pytest

from libs.common.settings import SettingsError, load
from services.orders.checkpoint import Step, crash_at
from services.orders.settings import OrdersSettings

KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


def settings(**changes):
    return load(OrdersSettings, _env_file=None, account_encryption_key=KEY, **changes)


@pytest.mark.parametrize("environment", ["dev", "staging"])
@pytest.mark.parametrize(
    "switch", [{"orders_crash_at": "sending-not-sent"}, {"orders_unsafe_resend": True}]
)
def test_switches_that_break_the_promise_are_refused_outside_of_tests(environment, switch):
    with pytest.raises(SettingsError) as caught:
        settings(environment=environment, **switch)
    assert next(iter(switch)).upper() in str(caught.value)
    assert settings(environment="test", **switch)


def test_quiet_poll_may_not_be_quicker_than_the_other():
    with pytest.raises(SettingsError, match="ORDERS_QUIET_POLL_SECONDS"):
        settings(orders_poll_seconds=5, orders_quiet_poll_seconds=4)


def test_step_to_crash_at_must_exist():
    with pytest.raises(ValueError, match="somewhere"):
        crash_at("somewhere")
    # Any other step is passed by.
    crash_at(Step.SENDING_NOT_SENT.value)(Step.ACCEPTED_NOT_ACKED)


def test_settings_show_no_secret():
    text = str(settings(database_url="postgresql://u:hidden@h/d").describe())
    assert "hidden" not in text
    assert KEY not in text
