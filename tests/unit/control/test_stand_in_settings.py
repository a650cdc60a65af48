"""When the simulator may stand in, and how its accounts are described."""

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr, ValidationError

from libs.common.contracts.messages import AccountSource, Source
from libs.common.settings import Variables
from services.control.settings import ControlSettings
from services.control.stand_in import StandInAccounts, as_simulated

_VARIABLES = {
    f"KITE_MOCK1_{field}": value
    for field, value in {
        "API_KEY": "key",
        "API_SECRET": "secret",
        "USER_ID": "SM0001",
        "PASSWORD": "word",
        "TOTP_SECRET": "JBSWY3DPEHPK3PXP",
    }.items()
}


def _settings(**more):
    values = {
        "account_encryption_key": SecretStr(Fernet.generate_key().decode()),
        "kite_accounts": "main",
        "mock_accounts": "mock1",
        **more,
    }
    return ControlSettings(_env_file=None, **values)


def _production(**more):
    return _settings(
        environment="production",
        nats_user="u",
        nats_password=SecretStr("p"),
        database_url=SecretStr("postgresql://u:p@h/d"),
        **more,
    )


@pytest.mark.parametrize(
    ("changes", "may"),
    [
        ({}, True),
        ({"enable_mock_data": True}, True),
        ({"enable_mock_data": False}, False),
        ({"mock_accounts": ""}, False),
        ({"feed_source": Source.SIM}, False),
    ],
)
def test_simulator_may_stand_in_unless_something_speaks_against_it(changes, may):
    assert _settings(**changes).may_stand_in is may


def test_production_never_stands_in_and_refuses_to_be_told_to():
    assert _production().may_stand_in is False
    with pytest.raises(ValidationError, match="ENABLE_MOCK_DATA: true is refused"):
        _production(enable_mock_data=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"enable_mock_data": True, "mock_accounts": " "}, "MOCK_ACCOUNTS: name"),
        ({"mock_accounts": "mock1,main"}, "MOCK_ACCOUNTS: main is an account of KITE_ACCOUNTS"),
        ({"mock_url": "127.0.0.1:9010"}, "MOCK_URL: must look like"),
    ],
)
def test_contradiction_names_the_variable(changes, words):
    with pytest.raises(ValidationError, match=words):
        _settings(**changes)


def test_stand_ins_log_in_at_the_simulator_and_nowhere_else():
    told = as_simulated(_settings(mock_url="http://sim:9010/"))
    assert (told.kite_api_url, told.kite_login_url) == ("http://sim:9010", "http://sim:9010")
    assert told.kite_ws_url == "ws://sim:9010"
    assert told.feed_source is Source.SIM
    assert told.kite_token_dir == ""


async def test_stand_ins_are_told_apart_from_live_accounts():
    snapshot = await StandInAccounts(_settings(), Variables(_VARIABLES)).look()
    [account] = snapshot.directory.accounts.values()
    assert (account.name, account.source) == ("mock1", AccountSource.STAND_IN)
    assert snapshot.unread == frozenset()


async def test_badly_described_stand_in_is_named():
    variables = {k: v for k, v in _VARIABLES.items() if not k.endswith("API_SECRET")}
    snapshot = await StandInAccounts(_settings(), Variables(variables)).look()
    assert not snapshot.directory.accounts
    assert "KITE_MOCK1_API_SECRET" in snapshot.directory.incomplete["mock1"].message
