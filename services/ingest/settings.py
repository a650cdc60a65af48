"""Settings of ingest."""

from typing import Self

from pydantic import Field, model_validator

from libs.common.settings import EncryptionSettings, NatsSettings


class IngestSettings(NatsSettings, EncryptionSettings):
    """What an ingest process is told; accounts and instruments come from the plan.

    Attributes:
        silence_limit_seconds: A connection without any frame for so long is dead: Kite sends a
            heartbeat every couple of seconds when there are no ticks.
        connect_timeout_seconds: Time for the TCP connection and the handshake.
        backoff_first_seconds: First step of the delay between attempts.
        backoff_ceiling_seconds: Largest step; small, so that a feed is back soon after the broker.
        rate_limited_backoff_seconds: First step of the delay after a 429 at the handshake.
        rate_limited_ceiling_seconds: Largest step after repeated 429s.
        no_data_seconds: An instrument that was subscribed in session for so long without any tick
            is reported as having no data.
        stale_seconds: An instrument whose last tick in session is so old is reported as stale.
        outbox_mib: How much of an account's data may wait while NATS is away or slow.
        outbox_seconds: Data that waited longer is dropped.
        history_per_second: Candle calls that Kite allows per second and api_key.
        quotes_per_second: Quote calls that Kite allows per second and api_key.
        history_spare_per_second: Of the candle calls, left for other programs on the same key.
        broker_call_seconds: Deadline of one call to Kite.
        request_deadline_seconds: Who asks for candles or quotes gets each answer, or an error,
            within this.
        request_concurrency: Requests served at once; one more is refused as unavailable.
        requests_waiting: Requests that may wait for a call, by account and kind.
        request_stop_seconds: How long running requests may go on when the process stops.
    """

    silence_limit_seconds: float = Field(default=6.0, gt=0, le=60)
    connect_timeout_seconds: float = Field(default=5.0, gt=0, le=60)
    backoff_first_seconds: float = Field(default=0.25, gt=0, le=10)
    backoff_ceiling_seconds: float = Field(default=4.0, gt=0, le=300)
    rate_limited_backoff_seconds: float = Field(default=5.0, gt=0, le=600)
    rate_limited_ceiling_seconds: float = Field(default=60.0, gt=0, le=3_600)
    no_data_seconds: float = Field(default=30.0, gt=0, le=3_600)
    stale_seconds: float = Field(default=60.0, gt=0, le=86_400)
    outbox_mib: int = Field(default=16, ge=1, le=1_024)
    outbox_seconds: float = Field(default=5.0, gt=0, le=60)
    history_per_second: int = Field(default=3, ge=1, le=100)
    quotes_per_second: int = Field(default=1, ge=1, le=100)
    history_spare_per_second: int = Field(default=0, ge=0, le=99)
    broker_call_seconds: float = Field(default=7.0, gt=0, le=60)
    request_deadline_seconds: float = Field(default=20.0, gt=0, le=300)
    request_concurrency: int = Field(default=32, ge=1, le=1_000)
    requests_waiting: int = Field(default=32, ge=1, le=1_000)
    request_stop_seconds: float = Field(default=3.0, ge=0, le=60)

    @model_validator(mode="after")
    def _check_backoffs(self) -> Self:
        for first, ceiling in (
            ("backoff_first_seconds", "backoff_ceiling_seconds"),
            ("rate_limited_backoff_seconds", "rate_limited_ceiling_seconds"),
        ):
            if getattr(self, ceiling) < getattr(self, first):
                raise ValueError(f"{ceiling.upper()}: must not be less than {first.upper()}")
        return self

    @model_validator(mode="after")
    def _check_calls(self) -> Self:
        if self.history_spare_per_second >= self.history_per_second:
            raise ValueError(
                "HISTORY_SPARE_PER_SECOND: must be less than HISTORY_PER_SECOND "
                f"({self.history_per_second}), or no call is left"
            )
        return self
