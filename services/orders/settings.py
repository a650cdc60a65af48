"""Settings of orders."""

from typing import Self

from pydantic import Field, model_validator

from libs.common.settings import DatabaseSettings, EncryptionSettings, Environment, NatsSettings


class OrdersSettings(NatsSettings, DatabaseSettings, EncryptionSettings):
    """What an orders process is told; accounts and sessions come from the bus.

    Attributes:
        database_pool_size: Connections at most; an order needs one for some milliseconds, twice.
        orders_waiting: Commands of an account that may wait in memory; more stay in the stream.
        orders_call_seconds: A call to the broker that has not answered by then is of unknown
            outcome.
        orders_per_second: Placements and changes of an account in any second; Kite allows 10.
        orders_spare_per_second: What cancellations may use on top of it.
        orders_per_minute: Placements and changes of an account in any minute; Kite allows 400.
        orders_spare_per_minute: What cancellations may use on top of it.
        orders_per_day: Placements of an account in an Indian day; Kite allows 5000, and at its cap
            not even a position can be closed.
        orders_limits_file: TOML with the limits of accounts and users; empty for none.
        orders_market_valid_seconds: A MARKET or SL-M order without an end of its own is not sent
            when it is older.
        orders_duplicate_seconds: An order that looks like one of the last so many seconds is
            refused unless it says `allow_duplicate`; 0 for no such guard.
        orders_band_wait_seconds: How long an order waits for the price band of an instrument that
            nobody has ordered lately; 0 to leave bands to the broker.
        orders_max_attempts: Sends of one request, all of them proven not to have arrived.
        orders_retry_first_seconds: First step of the delay between them.
        orders_unknown_window_seconds: How long a request of unknown outcome is looked for, at
            least, before a person is asked; Kite has shown orders after 85 s.
        orders_poll_seconds: Between two looks into the order book while something is unknown or
            on its way.
        orders_quiet_poll_seconds: The same when all open orders merely rest.
        orders_sync_seconds: Between two readings of orders, trades and positions into PostgreSQL,
            and their comparison with the ledger; an order event brings the next one forward.
        orders_funds_seconds: Between two readings of holdings and margins.
        orders_breaker_failures: Failed calls in a row after which an account stops sending.
        orders_breaker_seconds: For how long.
        orders_breaker_probes: Calls that must succeed before it sends as before.
        orders_stray_seconds: A command for an account that nobody knows is a dead letter after
            this.
        orders_max_deliveries: A command that could not be taken in so many deliveries is a dead
            letter: each failed one has cost a process its life.
        orders_stop_seconds: How long calls under way may go on when the process stops or gives an
            account away.
        orders_crash_at: For tests alone: the process kills itself at this step.
        orders_unsafe_resend: For tests alone: sends again what may have been executed, to prove
            that the proof notices.
    """

    database_pool_size: int = Field(default=10, ge=1, le=100)
    orders_waiting: int = Field(default=500, ge=1, le=10_000)
    orders_call_seconds: float = Field(default=10.0, gt=0, le=60)
    orders_per_second: int = Field(default=9, ge=1, le=1_000)
    orders_spare_per_second: int = Field(default=1, ge=0, le=1_000)
    orders_per_minute: int = Field(default=380, ge=1, le=100_000)
    orders_spare_per_minute: int = Field(default=20, ge=0, le=100_000)
    orders_per_day: int = Field(default=4_900, ge=1, le=10_000_000)
    orders_limits_file: str = ""
    orders_market_valid_seconds: float = Field(default=30.0, gt=0, le=86_400)
    orders_duplicate_seconds: float = Field(default=3.0, ge=0, le=3_600)
    orders_band_wait_seconds: float = Field(default=0.15, ge=0, le=5)
    orders_max_attempts: int = Field(default=5, ge=1, le=100)
    orders_retry_first_seconds: float = Field(default=0.5, gt=0, le=60)
    orders_unknown_window_seconds: float = Field(default=90.0, gt=0, le=3_600)
    orders_poll_seconds: float = Field(default=1.5, gt=0, le=60)
    orders_quiet_poll_seconds: float = Field(default=5.0, gt=0, le=600)
    orders_sync_seconds: float = Field(default=30.0, ge=1, le=3_600)
    orders_funds_seconds: float = Field(default=60.0, ge=1, le=3_600)
    orders_breaker_failures: int = Field(default=5, ge=1, le=1_000)
    orders_breaker_seconds: float = Field(default=60.0, gt=0, le=3_600)
    orders_breaker_probes: int = Field(default=3, ge=1, le=100)
    orders_stray_seconds: float = Field(default=30.0, ge=0, le=3_600)
    orders_max_deliveries: int = Field(default=20, ge=2, le=1_000)
    orders_stop_seconds: float = Field(default=5.0, ge=0, le=60)
    orders_crash_at: str = ""
    orders_unsafe_resend: bool = False

    @model_validator(mode="after")
    def _check_orders(self) -> Self:
        if self.orders_quiet_poll_seconds < self.orders_poll_seconds:
            raise ValueError(
                "ORDERS_QUIET_POLL_SECONDS: must not be less than ORDERS_POLL_SECONDS "
                f"({self.orders_poll_seconds:g})"
            )
        if self.environment is not Environment.TEST:
            for name in ("orders_crash_at", "orders_unsafe_resend"):
                if getattr(self, name):
                    raise ValueError(f"{name.upper()}: only with ENVIRONMENT=test")
        return self
