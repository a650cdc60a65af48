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

    @model_validator(mode="after")
    def _check_backoffs(self) -> Self:
        for first, ceiling in (
            ("backoff_first_seconds", "backoff_ceiling_seconds"),
            ("rate_limited_backoff_seconds", "rate_limited_ceiling_seconds"),
        ):
            if getattr(self, ceiling) < getattr(self, first):
                raise ValueError(f"{ceiling.upper()}: must not be less than {first.upper()}")
        return self
