"""Candles of days that are over, so that they are fetched once."""

from migrations.script import run

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UPGRADE = """
-- By the contract's name and never by its token alone: tokens are given away again after expiry.
CREATE TABLE candle_days (
    source          text NOT NULL CHECK (source IN ('live', 'sim')),
    exchange        text NOT NULL,
    tradingsymbol   text NOT NULL,
    candle_interval text NOT NULL,
    day             date NOT NULL,
    -- As services/greeks/domain/candle_columns.py packs them; a day without candles is a row, too.
    candles         bytea NOT NULL,
    fetched_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, exchange, tradingsymbol, candle_interval, day)
);
-- Deflated already: PostgreSQL need not try it again.
ALTER TABLE candle_days ALTER COLUMN candles SET STORAGE EXTERNAL;
CREATE INDEX candle_days_fetched ON candle_days (fetched_at);
"""

DOWNGRADE = """
DROP TABLE candle_days;
"""


def upgrade() -> None:
    run(UPGRADE)


def downgrade() -> None:
    run(DOWNGRADE)
