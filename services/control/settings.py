"""Settings of the control plane."""

from typing import Annotated

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode

from libs.common.contracts.messages import Source
from libs.common.settings import DatabaseSettings, EncryptionSettings, NatsSettings


class ControlSettings(NatsSettings, DatabaseSettings, EncryptionSettings):
    """What the control plane is told.

    Attributes:
        kite_accounts: Names of the accounts, separated by commas; each has the variables
            `KITE_<NAME>_API_KEY`, `_API_SECRET`, `_USER_ID`, `_PASSWORD` and `_TOTP_SECRET`.
        kite_api_url: Root of Kite's REST interface.
        kite_login_url: Root of Kite's login pages.
        kite_ws_url: Root of Kite's market-data WebSocket.
        feed_source: `live`, or `sim` when the roots above belong to a simulator.
        underlyings: Underlyings whose option windows are streamed.
        option_expiry_window: Expiries ahead per underlying.
        otm_levels: Strikes on each side of the money.
        max_instruments_per_ws_connection: Kite's limit is 3000.
        ws_connections_per_account: Kite's limit is 3 per API key.
        plan_interval_seconds: How often prices are read and the plan is made anew; Kite allows
            one quote call a second.
        login_min_interval_seconds: An account is logged in at most this often.
        account_lost_grace_seconds: An account without a lease holder, or with a dead session, for
            so long is lost: its instruments move to the others.
        account_return_hold_seconds: A lost account must be well for so long before its instruments
            come back.
    """

    kite_accounts: str = ""
    kite_api_url: str = "https://api.kite.trade"
    kite_login_url: str = "https://kite.zerodha.com"
    kite_ws_url: str = "wss://ws.kite.trade"
    feed_source: Source = Source.LIVE
    underlyings: Annotated[tuple[str, ...], NoDecode] = ("NIFTY", "BANKNIFTY", "SENSEX")
    option_expiry_window: int = Field(default=3, ge=1, le=20)
    otm_levels: int = Field(default=10, ge=0, le=200)
    max_instruments_per_ws_connection: int = Field(default=3000, ge=1, le=3000)
    ws_connections_per_account: int = Field(default=3, ge=1, le=3)
    plan_interval_seconds: float = Field(default=5.0, ge=1.0, le=3600)
    login_min_interval_seconds: float = Field(default=30.0, ge=1.0, le=86_400)
    account_lost_grace_seconds: float = Field(default=3.0, ge=0.0, le=3600)
    account_return_hold_seconds: float = Field(default=60.0, ge=0.0, le=86_400)

    @field_validator("underlyings", mode="before")
    @classmethod
    def _split_underlyings(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(dict.fromkeys(p.strip().upper() for p in value.split(",") if p.strip()))
        return value

    @model_validator(mode="after")
    def _check(self) -> "ControlSettings":
        if not self.kite_accounts.strip():
            raise ValueError("KITE_ACCOUNTS: name at least one account, such as KITE_ACCOUNTS=main")
        if not self.underlyings:
            raise ValueError("UNDERLYINGS: name at least one, such as NIFTY,BANKNIFTY")
        for variable in ("kite_api_url", "kite_login_url", "kite_ws_url"):
            url = getattr(self, variable)
            schemes = ("ws://", "wss://") if variable == "kite_ws_url" else ("http://", "https://")
            if not url.startswith(schemes):
                raise ValueError(
                    f"{variable.upper()}: {url!r} must start with {' or '.join(schemes)}"
                )
            if (
                self.is_production
                and self.feed_source is Source.LIVE
                and not url.startswith(("https://", "wss://"))
            ):
                raise ValueError(f"{variable.upper()}: must be encrypted (TLS) in production")
        if self.is_production and self.feed_source is Source.SIM:
            raise ValueError("FEED_SOURCE: sim is refused when ENVIRONMENT=production")
        return self
