"""Settings of the control plane."""

import re
from typing import Annotated, Final

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode

from libs.common.contracts.messages import Source
from libs.common.settings import DatabaseSettings, EncryptionSettings, NatsSettings
from services.control.domain.dumps import ALL_EXCHANGES

_EXCHANGE: Final = re.compile(r"[A-Z]{2,8}")
_EXCHANGES_MAX: Final = 16


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
        instrument_exchanges: Whose instruments are loaded, one download each; `all` is one
            download of everything Kite has.
        instrument_refresh_hours: Instruments are loaded again when they are this old by the
            market's clock, besides every new day and every 08:30 Indian time.
        instrument_max_shrinkage: Share of its rows that an exchange may lose from one dump to the
            next; one that lost more keeps those it had.
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
    instrument_exchanges: Annotated[tuple[str, ...], NoDecode] = ("NSE", "NFO", "BSE", "BFO")
    instrument_refresh_hours: float = Field(default=12.0, ge=0.25, le=24.0)
    instrument_max_shrinkage: float = Field(default=0.5, ge=0.0, le=1.0)

    @field_validator("underlyings", mode="before")
    @classmethod
    def _split_underlyings(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(dict.fromkeys(p.strip().upper() for p in value.split(",") if p.strip()))
        return value

    @field_validator("instrument_exchanges", mode="before")
    @classmethod
    def _read_exchanges(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.strip().lower() == ALL_EXCHANGES:
            return (ALL_EXCHANGES,)
        names = tuple(dict.fromkeys(p.strip().upper() for p in value.split(",") if p.strip()))
        is_wrong = ALL_EXCHANGES.upper() in names or not all(map(_EXCHANGE.fullmatch, names))
        if is_wrong or not 0 < len(names) <= _EXCHANGES_MAX:
            raise ValueError(
                f"INSTRUMENT_EXCHANGES: {value!r} must be all, or 1 to {_EXCHANGES_MAX} names of"
                " exchanges such as NSE,NFO,BSE,BFO"
            )
        return names

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
