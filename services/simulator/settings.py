"""What can be set from outside; every variable of the simulator starts with SIM_."""

from typing import Annotated, Self

from pydantic import BaseModel, Field, HttpUrl, SecretStr, field_validator, model_validator

from libs.common.domain.market_calendar import CALENDAR
from libs.common.settings import BaseServiceSettings, Port
from services.simulator.domain.accounts import Account, demo_accounts
from services.simulator.domain.session_clock import resolve_start
from services.simulator.domain.universe import MAX_STRIKES_PER_SIDE, UniverseSize

_Text = Annotated[str, Field(min_length=1, max_length=64)]


class AccountSettings(BaseModel):
    """One element of SIM_ACCOUNTS."""

    api_key: _Text
    api_secret: SecretStr
    user_id: _Text
    password: SecretStr
    totp_secret: SecretStr

    @field_validator("totp_secret")
    @classmethod
    def _check_totp(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if not text or set(text.upper()) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567="):
            raise ValueError("must be base32: letters A-Z and digits 2-7")
        return value


class SimulatorSettings(BaseServiceSettings):
    """The settings of the simulator.

    Attributes:
        sim_host: Address to listen on.
        sim_port: Port of REST, login pages, WebSocket, control and health alike.
        sim_seed: Another seed, another market, other demo accounts, other access tokens.
        sim_universe: `demo` (8 indices, 24 stocks, about 7 000 contracts) or `full`.
        sim_strikes_per_side: Strikes on each side of the money; unset means 25 (stocks: 10) in
            the demo and as many as fit into `sim_max_contracts` in the full universe.
        sim_max_contracts: Size of the full universe.
        sim_tick_interval_seconds: Real seconds between two steps of the market.
        sim_tick_probability: Chance that the most active instruments tick in a step (the
            quietest: a quarter of it); 4 makes everything tick in every step.
        sim_accounts: JSON list of accounts; empty means the demo accounts.
        sim_demo_accounts: How many demo accounts there are.
        sim_rate_limits: Whether Kite's limits per calendar second hold.
        sim_start: First reading of the virtual clock: `auto` or an ISO date and time (IST).
        sim_rate: Virtual seconds per real second.
        sim_skip_closed: Go on at the next open when the F&O session has closed.
        sim_outbox_frames: Frames that may wait for a slow reader; the oldest go first.
        sim_heartbeat_seconds: Silence after which a connection gets a sign of life.
        sim_order_delay_ms: How long an order takes to the exchange on average, in real time; each
            its own time between half of it and one and a half.
        sim_partial_fills: Chance that a fill of several lots takes only a part of them.
        sim_funds: Rupees each account begins a day with.
        sim_orders_per_day: Most orders of an account and day; it bounds the books, too.
        sim_risk_replies: Whether the risk system's rejections come in the reply (400) instead of
            in the order book.
        sim_postback_url: Where updates of orders are posted, as to an app's postback URL; unset:
            nowhere.
    """

    sim_host: str = "127.0.0.1"
    sim_port: Port = 9010
    sim_seed: int = Field(default=1, ge=0)
    sim_universe: UniverseSize = UniverseSize.DEMO
    sim_strikes_per_side: int | None = Field(default=None, ge=1, le=MAX_STRIKES_PER_SIDE)
    sim_max_contracts: int = Field(default=100_000, ge=1_000, le=200_000)
    sim_tick_interval_seconds: float = Field(default=0.5, ge=0.01, le=60)
    sim_tick_probability: float = Field(default=0.8, ge=0, le=4)
    sim_accounts: list[AccountSettings] = Field(default_factory=list)
    sim_demo_accounts: int = Field(default=2, ge=1, le=99)
    sim_rate_limits: bool = True
    sim_start: str = "auto"
    sim_rate: float = Field(default=1.0, gt=0, le=1_000)
    sim_skip_closed: bool = True
    sim_outbox_frames: int = Field(default=64, ge=1, le=10_000)
    sim_heartbeat_seconds: float = Field(default=2.0, gt=0, le=60)
    sim_order_delay_ms: float = Field(default=40.0, ge=0, le=60_000)
    sim_partial_fills: float = Field(default=0.1, ge=0, le=1)
    sim_funds: float = Field(default=1e9, ge=0, le=1e13)
    sim_orders_per_day: int = Field(default=5_000, ge=1, le=100_000)
    sim_risk_replies: bool = False
    sim_postback_url: HttpUrl | None = None

    @field_validator("sim_start")
    @classmethod
    def _check_start(cls, value: str) -> str:
        resolve_start(value, real_now_ns=0, calendar=CALENDAR)
        return value

    @model_validator(mode="after")
    def _check_accounts(self) -> Self:
        for field in ("api_key", "user_id"):
            values = [getattr(account, field) for account in self.sim_accounts]
            if len(set(values)) < len(values):
                raise ValueError(f"SIM_ACCOUNTS: every account needs its own {field}")
        return self

    @model_validator(mode="after")
    def _check_production(self) -> Self:
        if self.is_production:
            raise ValueError("ENVIRONMENT: the simulator is no broker; production refuses it")
        return self

    def accounts(self) -> list[Account]:
        """Give the accounts: those of SIM_ACCOUNTS, else the demo's."""
        if not self.sim_accounts:
            return demo_accounts(self.sim_demo_accounts, self.sim_seed)
        return [
            Account(
                api_key=item.api_key,
                api_secret=item.api_secret.get_secret_value(),
                user_id=item.user_id,
                password=item.password.get_secret_value(),
                totp_secret=item.totp_secret.get_secret_value(),
            )
            for item in self.sim_accounts
        ]
