"""Settings of the embedded fleet: FLEET_* variables, over which the command line wins."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator

from libs.common.settings import BaseServiceSettings, Environment
from services.fleet.domain.plan import FleetShape

DEFAULT_DATA_DIRECTORY = Path(".data")
DEFAULT_PORT = 8080


class TokenSettings(BaseServiceSettings):
    """What a development token is signed with.

    Attributes:
        jwt_secret: HS256 key; generated and kept in the data directory when not given.
        jwt_issuer: `iss` of the tokens.
        jwt_audience: `aud` of the tokens.
    """

    jwt_secret: SecretStr | None = Field(default=None, min_length=16)
    jwt_issuer: str = "tickfleet"
    jwt_audience: str = "tickfleet-ws"


class GatewayAccess(BaseServiceSettings):
    """What the command line shows a gateway.

    Attributes:
        api_key: Goes into `X-API-Key`; not needed where API_KEY_ENABLED is false.
    """

    api_key: SecretStr | None = None


class FleetSettings(TokenSettings):
    """How large the fleet is and where it keeps its data.

    Attributes:
        fleet_accounts: Simulated Kite accounts of different capacity, each with an ingest process.
        fleet_greeks: Greeks workers.
        fleet_gateways: Gateways, on neighbouring ports.
        fleet_controls: Control processes, a leader and standbys.
        fleet_port: Port of the first gateway; 0 for any free one.
        fleet_data_dir: Holds databases, keys and `fleet.json`.
        fleet_start_deadline_seconds: Give up when the fleet is not up by then.
        fleet_stop_deadline_seconds: The whole stop ends within this.
        sim_seed: Of the simulated market.
        sim_port: Port of the simulator; 0 for any free one.
        gateway_host: Address that the gateways listen on.
        api_key_enabled: Whether the gateway's REST wants `X-API-Key`; then set API_KEY too.
        account_encryption_key: Fernet key; generated and kept when not given.
    """

    log_format: Literal["json", "console"] = "console"
    fleet_accounts: int = Field(default=3, ge=1, le=16)
    fleet_greeks: int = Field(default=2, ge=1, le=16)
    fleet_gateways: int = Field(default=1, ge=1, le=16)
    fleet_controls: int = Field(default=1, ge=1, le=4)
    fleet_port: int = Field(default=DEFAULT_PORT, ge=0, le=65_000)
    fleet_data_dir: Path = DEFAULT_DATA_DIRECTORY
    fleet_start_deadline_seconds: float = Field(default=120.0, gt=0)
    fleet_stop_deadline_seconds: float = Field(default=15.0, gt=0, le=300)
    sim_seed: int = Field(default=1, ge=0)
    sim_port: int = Field(default=0, ge=0, le=65_535)
    gateway_host: str = "127.0.0.1"
    api_key_enabled: bool = False
    account_encryption_key: SecretStr | None = None

    @property
    def shape(self) -> FleetShape:
        """How many processes of each kind."""
        return FleetShape(
            accounts=self.fleet_accounts,
            greeks=self.fleet_greeks,
            gateways=self.fleet_gateways,
            controls=self.fleet_controls,
        )

    @model_validator(mode="after")
    def _check_fleet(self) -> "FleetSettings":
        if self.environment not in {Environment.DEV, Environment.TEST}:
            raise ValueError(
                f"ENVIRONMENT: the embedded fleet is for dev and test, not {self.environment}; "
                "deploy the services one by one instead (deploy/)"
            )
        return self
