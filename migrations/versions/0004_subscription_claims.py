"""Who wants which instrument in which mode, and how each subscription fares."""

from migrations.script import run

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UPGRADE = """
ALTER TABLE instrument_subscriptions
    ADD COLUMN state        text NOT NULL DEFAULT 'pending'
        CHECK (state IN ('pending', 'live', 'no_data', 'rejected')),
    ADD COLUMN state_reason text NOT NULL DEFAULT '',
    ADD COLUMN state_at     timestamptz NOT NULL DEFAULT now();

-- One row per wish. A subscription lives as long as somebody claims it, in the highest mode that
-- anybody claims: saying the same thing twice changes nothing, which a counter cannot promise.
CREATE TABLE subscription_claims (
    instrument_token bigint NOT NULL REFERENCES instrument_subscriptions ON DELETE CASCADE,
    mode             text NOT NULL CHECK (mode IN ('FULL', 'QUOTE', 'LTP')),
    subscriber       text NOT NULL CHECK (subscriber ~ '^[A-Za-z0-9._:-]{1,64}$'),
    account_id       text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (instrument_token, mode, subscriber)
);
CREATE INDEX subscription_claims_subscriber ON subscription_claims (subscriber);

-- Whoever subscribed before there were claims is called what a request without a name is called.
INSERT INTO subscription_claims (instrument_token, mode, subscriber, account_id, created_at)
SELECT instrument_token, requested_mode, 'default', account_id, created_at
FROM instrument_subscriptions
WHERE status = 'active';

ALTER TABLE plan_entries
    ADD COLUMN home_account_id text,
    ADD COLUMN state           text NOT NULL DEFAULT 'pending'
        CHECK (state IN ('pending', 'live', 'no_data', 'rejected')),
    ADD COLUMN state_reason    text NOT NULL DEFAULT '',
    ADD COLUMN state_at        timestamptz NOT NULL DEFAULT now();
"""

DOWNGRADE = """
ALTER TABLE plan_entries
    DROP COLUMN home_account_id, DROP COLUMN state, DROP COLUMN state_reason, DROP COLUMN state_at;
DROP TABLE subscription_claims;
ALTER TABLE instrument_subscriptions
    DROP COLUMN state, DROP COLUMN state_reason, DROP COLUMN state_at;
"""


def upgrade() -> None:
    run(UPGRADE)


def downgrade() -> None:
    run(DOWNGRADE)
