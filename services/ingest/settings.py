"""Settings of ingest."""

from pydantic import Field

from libs.common.settings import EncryptionSettings, NatsSettings


class IngestSettings(NatsSettings, EncryptionSettings):
    """What an ingest process is told; accounts and instruments come from the plan.

    Attributes:
        silence_limit_seconds: A connection without any frame for so long is dead: Kite sends a
            heartbeat every couple of seconds when there are no ticks.
        connect_timeout_seconds: Time for the TCP connection and the handshake.
        backoff_first_seconds: First step of the delay between attempts.
        backoff_ceiling_seconds: Largest step; small, so that a feed is back soon after the broker.
        rate_limited_backoff_seconds: Delay after a 429 at the handshake.
    """

    silence_limit_seconds: float = Field(default=6.0, gt=0, le=60)
    connect_timeout_seconds: float = Field(default=5.0, gt=0, le=60)
    backoff_first_seconds: float = Field(default=0.25, gt=0, le=10)
    backoff_ceiling_seconds: float = Field(default=4.0, gt=0, le=300)
    rate_limited_backoff_seconds: float = Field(default=5.0, gt=0, le=600)
