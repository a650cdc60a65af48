"""Instruments by exchange and day: what each revision is made of, reused tokens, search."""

from alembic import op

from migrations.script import run

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

UPGRADE = """
-- What a revision is made of: each exchange's rows are of one download, not always of the same day.
CREATE TABLE instrument_dump_exchanges (
    revision      integer NOT NULL REFERENCES instrument_dumps ON DELETE CASCADE,
    exchange      text NOT NULL,
    market_date   date,
    fetched_at    timestamptz,
    row_count     integer NOT NULL CHECK (row_count >= 0),
    outcome       text NOT NULL DEFAULT 'loaded',
    reason        text NOT NULL DEFAULT '',
    PRIMARY KEY (revision, exchange)
);
INSERT INTO instrument_dump_exchanges (revision, exchange, market_date, fetched_at, row_count)
SELECT r.revision, r.exchange, d.market_date, d.loaded_at, count(*)
FROM instrument_rows r JOIN instrument_dumps d USING (revision)
GROUP BY r.revision, r.exchange, d.market_date, d.loaded_at;

-- `EXCHANGE:tradingsymbol` that the token meant on the day before; null for nearly all.
ALTER TABLE instrument_rows ADD COLUMN reused_from text;
CREATE INDEX instrument_rows_reused ON instrument_rows (revision) WHERE reused_from IS NOT NULL;
CREATE INDEX instrument_dumps_day ON instrument_dumps (source, market_date, revision);

-- Symbols and their beginnings in any case. Substrings are found by the trigram index below.
CREATE INDEX instrument_rows_upper_symbol
    ON instrument_rows (revision, upper(tradingsymbol) text_pattern_ops);

CREATE OR REPLACE VIEW instruments AS
SELECT r.instrument_token, r.exchange_token, r.tradingsymbol, r.name, r.exchange, r.segment,
       r.underlying, r.kind, r.strike, r.expiry, r.option_type, r.lot_size, r.tick_size,
       r.reused_from
FROM instrument_rows r JOIN instrument_dumps d USING (revision)
WHERE d.is_current;
"""

# pg_trgm comes with most servers and any owner of a database may create it, but not with all: a
# search for a part of a name then reads the rows of its revision, some 50 ms instead of 10.
TRIGRAMS = """
DO $$
BEGIN
    CREATE EXTENSION IF NOT EXISTS pg_trgm;
    CREATE INDEX instrument_rows_text ON instrument_rows
        USING gin (upper(tradingsymbol) gin_trgm_ops, upper(name) gin_trgm_ops);
EXCEPTION
    WHEN undefined_file OR feature_not_supported OR insufficient_privilege OR undefined_object THEN
        RAISE NOTICE 'pg_trgm cannot be used (%), searches for parts of names scan', SQLERRM;
END
$$
"""

# The extension stays: others may use it by now.
DOWNGRADE = """
DROP INDEX IF EXISTS instrument_rows_text;
DROP INDEX instrument_rows_upper_symbol;
DROP INDEX instrument_dumps_day;
DROP VIEW instruments;
ALTER TABLE instrument_rows DROP COLUMN reused_from;
CREATE VIEW instruments AS
SELECT r.instrument_token, r.exchange_token, r.tradingsymbol, r.name, r.exchange, r.segment,
       r.underlying, r.kind, r.strike, r.expiry, r.option_type, r.lot_size, r.tick_size
FROM instrument_rows r JOIN instrument_dumps d USING (revision)
WHERE d.is_current;
DROP TABLE instrument_dump_exchanges;
"""


def upgrade() -> None:
    run(UPGRADE)
    op.execute(TRIGRAMS)


def downgrade() -> None:
    run(DOWNGRADE)
