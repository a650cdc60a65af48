"""Insecure settings are refused, by name."""

from typing import Any

import pytest

from libs.common.settings import SettingsError, load
from services.gateway.settings import GatewaySettings

GOOD: dict[str, Any] = {
    "environment": "production",
    "jwt_secret": "s" * 32,
    "api_key": "k" * 16,
    "nats_user": "gateway",
    "nats_password": "secret",
    "database_url": "postgresql://gateway:secret@db/tickfleet",
}


def test_secure_production_settings_are_accepted_and_shown_without_secrets():
    settings = load(GatewaySettings, **GOOD)
    assert settings.health_needs_key
    assert not settings.offers_dev_token
    shown = str(settings.describe())
    assert "s" * 32 not in shown
    assert "k" * 16 not in shown


@pytest.mark.parametrize(
    ("changes", "variable"),
    [
        ({"jwt_secret": "short"}, "JWT_SECRET"),
        ({"api_key_enabled": False}, "API_KEY_ENABLED"),
        ({"api_key": None}, "API_KEY"),
        ({"api_key": "short"}, "API_KEY"),
        ({"dev_token_enabled": True}, "DEV_TOKEN_ENABLED"),
        ({"jwt_issuer": ""}, "JWT_ISSUER"),
        ({"gateway_port": 0}, "GATEWAY_PORT"),
        ({"message_bytes_max": 1}, "MESSAGE_BYTES_MAX"),
    ],
)
def test_insecure_or_impossible_settings_are_refused_by_name(changes, variable):
    with pytest.raises(SettingsError, match=variable):
        load(GatewaySettings, **{**GOOD, **changes})


def test_key_is_required_unless_switched_off():
    with pytest.raises(SettingsError, match="API_KEY: required"):
        load(GatewaySettings, jwt_secret="x")
    load(GatewaySettings, jwt_secret="x", api_key_enabled=False)


def test_secret_is_always_required():
    with pytest.raises(SettingsError, match="JWT_SECRET"):
        load(GatewaySettings, api_key_enabled=False)


def test_token_for_development_exists_in_dev_only():
    def offers(environment: str) -> bool:
        return GatewaySettings.model_validate(
            {
                "environment": environment,
                "jwt_secret": "x",
                "api_key_enabled": False,
                "dev_token_enabled": True,
            }
        ).offers_dev_token

    assert offers("dev")
    assert not offers("test")
    assert not offers("staging")
