"""Settings: sources, errors that name the variable, and what production refuses."""

import pytest
from pydantic import SecretStr

from libs.common.settings import (
    DatabaseSettings,
    EncryptionSettings,
    Environment,
    NatsSettings,
    OptionalDatabaseSettings,
    SettingsError,
    Variables,
    load,
    split_keys,
)

KEYS = (
    "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=",
    "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("NATS_URL", "NATS_USER", "NATS_PASSWORD", "ENVIRONMENT", "DATABASE_URL", "SHARDS"):
        monkeypatch.delenv(name, raising=False)


def test_defaults_serve_a_development_machine():
    assert load(NatsSettings).urls == ["nats://127.0.0.1:4222"]


def test_environment_wins_over_dotenv(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("SHARDS=4\nNATS_URL=nats://dotenv:4222\n")
    monkeypatch.setenv("SHARDS", "8")
    settings = load(NatsSettings)
    assert (settings.shards, settings.urls) == (8, ["nats://dotenv:4222"])


def test_secret_comes_from_a_file(monkeypatch, tmp_path):
    secret = tmp_path / "password"
    secret.write_text("from-a-file\n")
    monkeypatch.setenv("NATS_USER", "ingest")
    monkeypatch.setenv("NATS_PASSWORD_FILE", str(secret))
    assert load(NatsSettings).nats_password == SecretStr("from-a-file")


def test_missing_secret_file_names_its_variable(monkeypatch):
    monkeypatch.setenv("NATS_PASSWORD_FILE", "/nowhere/password")
    with pytest.raises(SettingsError, match="NATS_PASSWORD_FILE"):
        load(NatsSettings)


@pytest.mark.parametrize(
    ("kind", "variable", "value"),
    [
        (NatsSettings, "NATS_URL", "http://127.0.0.1"),
        (NatsSettings, "NATS_URL", "nats://user:word@127.0.0.1"),
        (NatsSettings, "SHARDS", "0"),
        (NatsSettings, "HEALTH_PORT", "70000"),
        (NatsSettings, "ENVIRONMENT", "prod-ish"),
        (DatabaseSettings, "DATABASE_URL", "mysql://here"),
        (EncryptionSettings, "ACCOUNT_ENCRYPTION_KEY", "short"),
        (EncryptionSettings, "ACCOUNT_ENCRYPTION_KEY", "!" * 44),
        (EncryptionSettings, "ACCOUNT_ENCRYPTION_KEY", f"{KEYS[0]},short"),
        (EncryptionSettings, "ACCOUNT_ENCRYPTION_KEY", " , "),
    ],
)
def test_bad_value_is_refused_with_the_name_of_its_variable(monkeypatch, kind, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=variable):
        load(kind)


def test_missing_required_variable_is_named():
    with pytest.raises(SettingsError, match="ACCOUNT_ENCRYPTION_KEY"):
        load(EncryptionSettings)


def test_user_without_password_is_refused(monkeypatch):
    monkeypatch.setenv("NATS_USER", "ingest")
    with pytest.raises(SettingsError, match="NATS_USER and NATS_PASSWORD"):
        load(NatsSettings)


def test_production_refuses_nats_without_credentials():
    with pytest.raises(SettingsError, match="NATS_USER and NATS_PASSWORD"):
        load(NatsSettings, environment=Environment.PRODUCTION)


def test_production_refuses_a_database_without_password():
    with pytest.raises(SettingsError, match="DATABASE_URL"):
        load(
            DatabaseSettings,
            environment=Environment.PRODUCTION,
            database_url=SecretStr("postgresql://tickfleet@db/tickfleet"),
        )


def test_description_hides_secrets():
    settings = load(NatsSettings, nats_user="ingest", nats_password=SecretStr("do-not-print-me"))
    assert "do-not-print-me" not in str(settings.describe())


def test_several_encryption_keys_are_taken_newest_first():
    keys = SecretStr(f" {KEYS[0]} ,{KEYS[1]}")
    settings = load(EncryptionSettings, account_encryption_key=keys)
    assert split_keys(settings.account_encryption_key) == list(KEYS)
    assert KEYS[0] not in str(settings.describe())


def test_variables_come_from_environment_file_and_dotenv_in_this_order(tmp_path):
    secret, dotenv = tmp_path / "secret", tmp_path / ".env"
    secret.write_text("from-the-file\n")
    dotenv.write_text("KITE_A=dotenv\nKITE_B=dotenv\nKITE_C=dotenv\n")
    environment = {"KITE_A": "environment", "KITE_A_FILE": str(secret), "KITE_B_FILE": str(secret)}
    variables = Variables(environment, dotenv)
    assert [variables.get(f"KITE_{name}") for name in "ABCD"] == [
        "environment",
        "from-the-file",
        "dotenv",
        None,
    ]
    secret.write_text("exchanged")
    assert variables["KITE_B"] == "exchanged"
    assert "environment" not in repr(variables)


def test_file_of_a_variable_that_cannot_be_read_is_a_problem_until_it_can(tmp_path):
    variables = Variables({"KITE_B_FILE": str(tmp_path / "secret")}, None)
    assert variables.get("KITE_B", "") == ""
    assert "KITE_B_FILE" in variables.problems["KITE_B"]
    (tmp_path / "secret").write_text("there")
    assert variables.get("KITE_B") == "there"
    assert variables.problems == {}


@pytest.mark.parametrize("value", [None, ""])
def test_database_that_is_optional_may_be_left_out(monkeypatch, value):
    if value is not None:
        monkeypatch.setenv("DATABASE_URL", value)
    assert load(OptionalDatabaseSettings).database is None


def test_optional_database_is_checked_and_kept_secret_like_any_other(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "mysql://here")
    with pytest.raises(SettingsError, match="DATABASE_URL"):
        load(OptionalDatabaseSettings)
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:hush@here/name")
    settings = load(OptionalDatabaseSettings, database_pool_size=2)
    assert settings.database is not None
    assert settings.database.database_url.get_secret_value().endswith("hush@here/name")
    assert settings.database.database_pool_size == 2
    assert "hush" not in f"{settings!r}{settings.describe()}"
