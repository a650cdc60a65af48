"""Accounts whose secrets lie encrypted in the database."""

from migrations.script import run

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UPGRADE = """
CREATE TABLE accounts (
    account_id            text PRIMARY KEY CHECK (account_id ~ '^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$'),
    -- A Fernet token of the account's name and secrets under ACCOUNT_ENCRYPTION_KEY. NULL: the row
    -- only switches an account of another source off or on.
    sealed_secrets        text CHECK (sealed_secrets LIKE 'gAAAA%'),
    enabled               boolean NOT NULL DEFAULT true,
    connections           integer CHECK (connections BETWEEN 1 AND 3),
    tokens_per_connection integer CHECK (tokens_per_connection BETWEEN 1 AND 3000),
    created_at            timestamptz NOT NULL DEFAULT now(),
    updated_at            timestamptz NOT NULL DEFAULT now()
);
"""

DOWNGRADE = """
DROP TABLE accounts;
"""


def upgrade() -> None:
    run(UPGRADE)


def downgrade() -> None:
    run(DOWNGRADE)
