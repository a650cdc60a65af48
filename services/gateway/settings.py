"""The gateway's settings."""

from typing import Annotated

from pydantic import Field, SecretStr, model_validator

from libs.common.settings import DatabaseSettings, Environment, NatsSettings, Port

JWT_SECRET_LENGTH_MIN = 32
API_KEY_LENGTH_MIN = 16
Milliseconds = Annotated[float, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


class GatewaySettings(NatsSettings, DatabaseSettings):
    """What the gateway needs to run.

    Attributes:
        gateway_host: Address to listen on.
        gateway_port: Port of WebSocket, REST, page, health and metrics.
        jwt_secret: HS256 key of client tokens; at least 32 characters in production.
        jwt_issuer: Required `iss` of a token; empty accepts any.
        jwt_audience: Required `aud` of a token; empty accepts any.
        jwt_leeway_seconds: How far clocks may differ.
        api_key_enabled: Whether REST wants `X-API-Key`; may not be off in production.
        api_key: The key; required when enabled.
        dev_token_enabled: With ENVIRONMENT=dev, `GET /dev-token` hands out tokens to anybody who
            reaches the port: for one's own machine only.
        auth_deadline_seconds: A client that sent no token with the handshake has so long.
        flush_interval_ms: How long ticks are gathered before they are written, in mode `tick`.
        connections_max: Per process; further ones are refused with 503.
        connections_per_user_max: Further ones are closed with 4429.
        tokens_per_connection_max: Instruments that one connection may subscribe.
        messages_per_second_max: A client that sends more is closed with 1008; twice as many may
            come at once.
        message_bytes_max: Larger messages close the connection with 1009.
        stall_seconds: A client that has not read for so long is reset.
        last_values_max: Instruments whose last tick is kept for snapshots.
        history_concurrency: Requests for candles at once; one more is answered with 503.
        history_piece_seconds: How long greeks may take for each piece of such a request.
        order_waits_max: Callers that may wait for the outcome of an order at once; one more is
            answered at once with 202, as if it had not asked to wait.
        postbacks_per_second_max: Of the broker's postbacks; twice as many may come at once.
        tick_patience_seconds: Without a tick for so long, `/health` says degraded.
    """

    gateway_host: str = "127.0.0.1"
    gateway_port: Port = 8080
    jwt_secret: SecretStr = Field(min_length=1)
    jwt_issuer: str = "tickfleet"
    jwt_audience: str = "tickfleet-ws"
    jwt_leeway_seconds: float = Field(default=0.0, ge=0, le=300)
    api_key_enabled: bool = True
    api_key: SecretStr | None = None
    dev_token_enabled: bool = False
    auth_deadline_seconds: Seconds = 5.0
    flush_interval_ms: Milliseconds = 5.0
    connections_max: int = Field(default=4000, ge=1)
    connections_per_user_max: int = Field(default=50, ge=1)
    tokens_per_connection_max: int = Field(default=3000, ge=1)
    messages_per_second_max: float = Field(default=50.0, gt=0)
    message_bytes_max: int = Field(default=256 * 1024, ge=1024)
    stall_seconds: Seconds = 10.0
    last_values_max: int = Field(default=200_000, ge=1)
    history_concurrency: int = Field(default=8, ge=1, le=1000)
    history_piece_seconds: float = Field(default=45.0, gt=0, le=300)
    order_waits_max: int = Field(default=1000, ge=0)
    postbacks_per_second_max: float = Field(default=50.0, gt=0)
    tick_patience_seconds: Seconds = 5.0

    @property
    def offers_dev_token(self) -> bool:
        """Whether `GET /dev-token` exists."""
        return self.dev_token_enabled and self.environment is Environment.DEV

    @property
    def health_needs_key(self) -> bool:
        """Whether `GET /health`, which names accounts, wants the API key too."""
        return self.api_key_enabled and self.environment is not Environment.DEV

    @model_validator(mode="after")
    def _check_gateway(self) -> "GatewaySettings":
        if self.is_production:
            if len(self.jwt_secret.get_secret_value()) < JWT_SECRET_LENGTH_MIN:
                raise ValueError(
                    f"JWT_SECRET: at least {JWT_SECRET_LENGTH_MIN} characters are required when "
                    "ENVIRONMENT=production"
                )
            if not self.api_key_enabled:
                raise ValueError("API_KEY_ENABLED: may not be false when ENVIRONMENT=production")
            if self.dev_token_enabled:
                raise ValueError("DEV_TOKEN_ENABLED: may not be true when ENVIRONMENT=production")
            if not (self.jwt_issuer and self.jwt_audience):
                raise ValueError(
                    "JWT_ISSUER and JWT_AUDIENCE: may not be empty when ENVIRONMENT=production"
                )
        if self.api_key_enabled:
            if self.api_key is None or not self.api_key.get_secret_value():
                raise ValueError("API_KEY: required unless API_KEY_ENABLED=false")
            if self.is_production and len(self.api_key.get_secret_value()) < API_KEY_LENGTH_MIN:
                raise ValueError(
                    f"API_KEY: at least {API_KEY_LENGTH_MIN} characters are required when "
                    "ENVIRONMENT=production"
                )
        return self
