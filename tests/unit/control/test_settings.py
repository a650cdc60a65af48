"""Settings of control that concern accounts."""

import pytest
from pydantic import SecretStr

from libs.common.settings import Environment, SettingsError, load
from services.control.settings import ControlSettings

KEY = SecretStr("QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("KITE_ACCOUNTS", "KITE_ACCOUNTS_FILE", "USE_USER_SERVICE_ACCOUNTS"):
        monkeypatch.delenv(name, raising=False)


def settings(**values):
    return load(ControlSettings, account_encryption_key=KEY, **values)


def test_no_account_at_all_is_no_error_of_the_settings():
    assert settings().kite_accounts == ""


def test_accounts_file_is_not_taken_for_the_secret_file_of_kite_accounts(monkeypatch, tmp_path):
    monkeypatch.setenv("KITE_ACCOUNTS_FILE", str(tmp_path / "not-there.yaml"))
    found = settings()
    assert found.kite_accounts == ""
    assert found.kite_accounts_file.endswith("not-there.yaml")


@pytest.mark.parametrize("url", ["", "users.internal", "ftp://x", "https://user:word@x"])
def test_user_service_needs_an_address_without_credentials(url):
    with pytest.raises(SettingsError, match="USER_SERVICE_BASE_URL"):
        settings(use_user_service_accounts=True, user_service_base_url=url)


@pytest.mark.parametrize(
    ("values", "variable"),
    [
        ({"user_service_base_url": "http://users"}, "USER_SERVICE_BASE_URL"),
        ({"user_service_base_url": "https://users"}, "USER_SERVICE_SERVICE_TOKEN"),
    ],
)
def test_production_wants_the_user_service_encrypted_and_with_a_token(values, variable):
    with pytest.raises(SettingsError, match=variable):
        settings(
            environment=Environment.PRODUCTION,
            nats_user="control",
            nats_password=SecretStr("x"),
            database_url=SecretStr("postgresql://a:b@db/x"),
            use_user_service_accounts=True,
            **values,
        )


def test_token_of_the_user_service_does_not_print():
    found = settings(user_service_service_token=SecretStr("service-secret"))
    assert "service-secret" not in f"{found} {found.describe()}"
