"""The ledger of orders: tasks, the requests they send, what happened, and what the broker says."""

from migrations.script import run

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

UPGRADE = """
-- One row per command that was taken. The key is the caller's; its body decides whether a second
-- command with it is the same.
CREATE TABLE order_tasks (
    account         text NOT NULL,
    task_id         text NOT NULL,
    verb            text NOT NULL CHECK (verb IN ('place', 'modify', 'cancel')),
    user_name       text NOT NULL,
    command         jsonb NOT NULL,
    fingerprint     text NOT NULL,
    state           text NOT NULL,
    code            text NOT NULL DEFAULT '',
    message         text NOT NULL DEFAULT '',
    stream_sequence bigint NOT NULL,
    event_count     integer NOT NULL DEFAULT 0,
    valid_until     timestamptz,
    created_at      timestamptz NOT NULL,
    accepted_at     timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, task_id)
);
CREATE INDEX order_tasks_task ON order_tasks (task_id);
CREATE INDEX order_tasks_recent ON order_tasks (account, accepted_at DESC);
CREATE INDEX order_tasks_unsettled ON order_tasks (account, stream_sequence)
    WHERE state NOT IN ('complete', 'cancelled', 'rejected', 'failed', 'dead_letter');

-- One row per request to the broker that a task needs: a slice of a placed order, a change, a
-- cancellation. Its tag is committed before the request leaves and is never used for another one.
CREATE TABLE order_intents (
    tag              text PRIMARY KEY CHECK (tag ~ '^[A-Za-z0-9]{1,20}$'),
    account          text NOT NULL,
    task_id          text NOT NULL,
    leg              integer NOT NULL CHECK (leg >= 0),
    verb             text NOT NULL CHECK (verb IN ('place', 'modify', 'cancel')),
    state            text NOT NULL,
    exchange         text,
    tradingsymbol    text,
    parameters       jsonb NOT NULL,
    quantity         integer,
    attempts         integer NOT NULL DEFAULT 0,
    order_id         text,
    status           text,
    status_message   text,
    filled_quantity  integer NOT NULL DEFAULT 0,
    average_price    double precision,
    code             text NOT NULL DEFAULT '',
    message          text NOT NULL DEFAULT '',
    -- The request that this one replaces, after a person decided to send it again.
    replaces         text REFERENCES order_intents (tag),
    sent_at          timestamptz,
    settled_at       timestamptz,
    updated_at       timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (account, task_id) REFERENCES order_tasks (account, task_id),
    UNIQUE (account, task_id, leg)
);
CREATE UNIQUE INDEX order_intents_order ON order_intents (account, order_id)
    WHERE verb = 'place' AND order_id IS NOT NULL;
CREATE INDEX order_intents_unsettled ON order_intents (account)
    WHERE state NOT IN ('complete', 'cancelled', 'rejected', 'failed', 'dead_letter');

CREATE TABLE order_events (
    account      text NOT NULL,
    task_id      text NOT NULL,
    seq          integer NOT NULL CHECK (seq >= 1),
    kind         text NOT NULL,
    state        text NOT NULL,
    leg          integer,
    tag          text,
    at           timestamptz NOT NULL,
    body         jsonb NOT NULL,
    is_published boolean NOT NULL DEFAULT false,
    PRIMARY KEY (account, task_id, seq),
    FOREIGN KEY (account, task_id) REFERENCES order_tasks (account, task_id)
);
CREATE INDEX order_events_unpublished ON order_events (account, at) WHERE NOT is_published;
-- What counts against the limits of a minute and of a day is asked of this after a take-over.
CREATE INDEX order_events_sent ON order_events (account, at) WHERE kind = 'sending';

-- Commands that never became a task: they did not decode, or their key belongs to another body.
CREATE TABLE order_dead_letters (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account         text NOT NULL,
    task_id         text NOT NULL,
    stream_sequence bigint NOT NULL,
    code            text NOT NULL,
    message         text NOT NULL,
    field           text,
    command         text NOT NULL,
    at              timestamptz NOT NULL DEFAULT now(),
    UNIQUE (account, stream_sequence)
);

-- What the broker says, of the whole account: orders placed elsewhere are here too.
CREATE TABLE broker_orders (
    account    text NOT NULL,
    order_id   text NOT NULL,
    day        date NOT NULL,
    status     text NOT NULL,
    tag        text,
    body       jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, day, order_id)
);
CREATE TABLE broker_trades (
    account  text NOT NULL,
    trade_id text NOT NULL,
    day      date NOT NULL,
    order_id text NOT NULL,
    body     jsonb NOT NULL,
    at       timestamptz NOT NULL,
    PRIMARY KEY (account, day, trade_id)
);
CREATE INDEX broker_trades_order ON broker_trades (account, order_id);
-- The newest snapshot of each kind: positions, holdings, margins.
CREATE TABLE broker_snapshots (
    account  text NOT NULL,
    kind     text NOT NULL CHECK (kind IN ('positions', 'holdings', 'margins')),
    body     jsonb NOT NULL,
    taken_at timestamptz NOT NULL,
    PRIMARY KEY (account, kind)
);
"""

DOWNGRADE = """
DROP TABLE broker_snapshots;
DROP TABLE broker_trades;
DROP TABLE broker_orders;
DROP TABLE order_dead_letters;
DROP TABLE order_events;
DROP TABLE order_intents;
DROP TABLE order_tasks;
"""


def upgrade() -> None:
    run(UPGRADE)


def downgrade() -> None:
    run(DOWNGRADE)
