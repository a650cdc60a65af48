"""Settings of the control plane."""

import re
from typing import Annotated, Final

from pydantic import Field, SecretStr, field_validator, model_validator
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
            `KITE_<NAME>_API_KEY`, `_API_SECRET`, `_USER_ID`, `_PASSWORD`, `_TOTP_SECRET`,
            `_ACCESS_TOKEN`, `_WS_CONNECTIONS` and `_MAX_INSTRUMENTS_PER_WS_CONNECTION`.
        kite_accounts_file: YAML file with further accounts; read again when it changes.
        kite_token_dir: Folder of access tokens made elsewhere, `kite_token_<account>.json`; empty
            for none.
        use_user_service_accounts: Whether the user service is asked for accounts.
        user_service_base_url: Its root; `/internal/trading-accounts` is asked for.
        user_service_service_token: Bearer token for it.
        user_service_interval_seconds: How often it is asked.
        kite_api_url: Root of Kite's REST interface.
        kite_login_url: Root of Kite's login pages.
        kite_ws_url: Root of Kite's market-data WebSocket.
        feed_source: `live`, or `sim` when the roots above belong to a simulator.
        enable_mock_data: Whether the simulator stands in while every exchange is closed; unset
            means yes, except in production, where it is refused.
        mock_accounts: Names of the simulator's accounts, described like those of `kite_accounts`;
            without any there is nobody to stand in.
        mock_url: Root of the simulator, REST, login and WebSocket alike.
        underlyings: Underlyings whose option windows are streamed.
        option_expiry_window: Expiries ahead per underlying.
        otm_levels: Strikes on each side of the money.
        max_instruments_per_ws_connection: Of accounts that do not say; Kite's limit is 3000.
        ws_connections_per_account: Of accounts that do not say; Kite's limit is 3 per API key.
        plan_interval_seconds: How often prices are read and the plan is made anew; Kite allows
            one quote call a second.
        login_min_interval_seconds: An account is logged in at most this often.
        login_retry_ceiling_seconds: Logins without an answer are repeated after ever longer
            delays, up to this.
        login_attempts_per_day: Logins of an account in one session day (06:05 to 06:05 IST) at
            most.
        instrument_exchanges: Whose instruments are loaded, one download each; `all` is one
            download of everything Kite has.
        instrument_refresh_hours: Instruments are loaded again when they are this old by the
            market's clock, besides every new day and every 08:30 Indian time.
        instrument_max_shrinkage: Share of its rows that an exchange may lose from one dump to the
            next; one that lost more keeps those it had.
        account_lost_grace_seconds: An account without a lease holder, or with a dead session, for
            so long is lost: its instruments move to the others.
        account_return_hold_seconds: A lost account must be well for so long before its instruments
            come back.
    """

    kite_accounts: str = ""
    kite_accounts_file: str = ""
    kite_token_dir: str = "tokens"  # noqa: S105  # A folder.
    use_user_service_accounts: bool = False
    user_service_base_url: str = ""
    user_service_service_token: SecretStr | None = None
    user_service_interval_seconds: float = Field(default=180.0, ge=1.0, le=86_400)
    kite_api_url: str = "https://api.kite.trade"
    kite_login_url: str = "https://kite.zerodha.com"
    kite_ws_url: str = "wss://ws.kite.trade"
    feed_source: Source = Source.LIVE
    enable_mock_data: bool | None = None
    mock_accounts: str = ""
    mock_url: str = "http://127.0.0.1:9010"
    underlyings: Annotated[tuple[str, ...], NoDecode] = ("NIFTY", "BANKNIFTY", "SENSEX")
    option_expiry_window: int = Field(default=3, ge=1, le=20)
    otm_levels: int = Field(default=10, ge=0, le=200)
    max_instruments_per_ws_connection: int = Field(default=3000, ge=1, le=3000)
    ws_connections_per_account: int = Field(default=3, ge=1, le=3)
    plan_interval_seconds: float = Field(default=5.0, ge=1.0, le=3600)
    login_min_interval_seconds: float = Field(default=30.0, ge=1.0, le=86_400)
    login_retry_ceiling_seconds: float = Field(default=300.0, ge=1.0, le=3600)
    login_attempts_per_day: int = Field(default=60, ge=1, le=1000)
    instrument_exchanges: Annotated[tuple[str, ...], NoDecode] = ("NSE", "NFO", "BSE", "BFO")
    instrument_refresh_hours: float = Field(default=12.0, ge=0.25, le=24.0)
    instrument_max_shrinkage: float = Field(default=0.5, ge=0.0, le=1.0)
    account_lost_grace_seconds: float = Field(default=3.0, ge=0.0, le=3600)
    account_return_hold_seconds: float = Field(default=60.0, ge=0.0, le=86_400)

    @property
    def may_stand_in(self) -> bool:
        """Whether the simulator streams while every exchange is closed."""
        return (
            self.feed_source is Source.LIVE
            and self.enable_mock_data is not False
            and not self.is_production
            and bool(self.mock_accounts.strip())
        )

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
        self._check_user_service()
        self._check_stand_in()
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

    def _check_stand_in(self) -> None:
        if self.is_production and self.enable_mock_data:
            raise ValueError("ENABLE_MOCK_DATA: true is refused when ENVIRONMENT=production")
        if self.enable_mock_data and not self.mock_accounts.strip():
            raise ValueError(
                "MOCK_ACCOUNTS: name the simulator's accounts, such as MOCK_ACCOUNTS=sim1, when "
                "ENABLE_MOCK_DATA=true"
            )
        if not self.mock_url.startswith(("http://", "https://")):
            raise ValueError("MOCK_URL: must look like http://127.0.0.1:9010")
        live = {name.strip() for name in self.kite_accounts.split(",")}
        for name in self.mock_accounts.split(","):
            if name.strip() and name.strip() in live:
                raise ValueError(f"MOCK_ACCOUNTS: {name.strip()} is an account of KITE_ACCOUNTS")

    def _check_user_service(self) -> None:
        if not self.use_user_service_accounts:
            return
        url = self.user_service_base_url
        if not url.startswith(("http://", "https://")) or "@" in url:
            raise ValueError(
                "USER_SERVICE_BASE_URL: must look like https://users.internal, without "
                "credentials, when USE_USER_SERVICE_ACCOUNTS=true"
            )
        if self.is_production and not url.startswith("https://"):
            raise ValueError("USER_SERVICE_BASE_URL: must be encrypted (https) in production")
        if self.is_production and self.user_service_service_token is None:
            raise ValueError(
                "USER_SERVICE_SERVICE_TOKEN: required with USE_USER_SERVICE_ACCOUNTS in production"
            )
