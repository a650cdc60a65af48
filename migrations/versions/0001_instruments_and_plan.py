"""Instruments by dump revision, explicit subscriptions, and the plan as SQL can see it."""

from migrations.script import run

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

UPGRADE = """
CREATE TABLE instrument_dumps (
    revision      integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    market_date   date NOT NULL,
    loaded_at     timestamptz NOT NULL DEFAULT now(),
    source        text NOT NULL CHECK (source IN ('live', 'sim')),
    row_count     integer NOT NULL CHECK (row_count > 0),
    skipped_count integer NOT NULL CHECK (skipped_count >= 0),
    is_current    boolean NOT NULL DEFAULT false
);
-- At most one dump is current: the swap is one UPDATE in the transaction that loads the rows.
CREATE UNIQUE INDEX instrument_dumps_current ON instrument_dumps (is_current) WHERE is_current;

CREATE TABLE instrument_rows (
    revision         integer NOT NULL REFERENCES instrument_dumps ON DELETE CASCADE,
    instrument_token bigint NOT NULL,
    exchange_token   bigint NOT NULL,
    tradingsymbol    text NOT NULL,
    name             text NOT NULL,
    exchange         text NOT NULL,
    segment          text NOT NULL,
    underlying       text NOT NULL,
    kind             text NOT NULL CHECK (kind IN ('option', 'future', 'index', 'equity')),
    strike           double precision,
    expiry           date,
    option_type      text CHECK (option_type IN ('CE', 'PE')),
    lot_size         integer NOT NULL,
    tick_size        double precision NOT NULL,
    PRIMARY KEY (revision, instrument_token)
);
CREATE INDEX instrument_rows_chain
    ON instrument_rows (revision, underlying, expiry, kind, strike, option_type);
CREATE INDEX instrument_rows_symbol ON instrument_rows (revision, exchange, tradingsymbol);

CREATE VIEW instruments AS
SELECT r.instrument_token, r.exchange_token, r.tradingsymbol, r.name, r.exchange, r.segment,
       r.underlying, r.kind, r.strike, r.expiry, r.option_type, r.lot_size, r.tick_size
FROM instrument_rows r JOIN instrument_dumps d USING (revision)
WHERE d.is_current;

CREATE TABLE instrument_subscriptions (
    instrument_token bigint PRIMARY KEY,
    tradingsymbol    text NOT NULL,
    segment          text NOT NULL,
    status           text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'inactive')),
    requested_mode   text NOT NULL DEFAULT 'FULL'
        CHECK (requested_mode IN ('FULL', 'QUOTE', 'LTP')),
    account_id       text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now()
);

-- The plan lives in the key-value store, where the data plane reads it; this is its copy for SQL.
CREATE TABLE plan_entries (
    instrument_token bigint PRIMARY KEY,
    account_id       text NOT NULL,
    connection       integer NOT NULL CHECK (connection >= 0),
    mode             text NOT NULL CHECK (mode IN ('full', 'quote', 'ltp')),
    reason           text NOT NULL CHECK (reason IN ('window', 'explicit', 'priced_with')),
    plan_revision    integer NOT NULL,
    planned_at       timestamptz NOT NULL DEFAULT now()
);
"""

DOWNGRADE = """
DROP TABLE plan_entries;
DROP TABLE instrument_subscriptions;
DROP VIEW instruments;
DROP TABLE instrument_rows;
DROP TABLE instrument_dumps;
"""


def upgrade() -> None:
    run(UPGRADE)


def downgrade() -> None:
    run(DOWNGRADE)
