"""The outbox is a table whose rows are deleted after delivery, and every change has an event id of its own.

What was pending becomes rows of the outbox. A downgrade puts it behind the cursors again. Code from before this
revision, which was never released, can't write to the new schema: writes fail until the new pods have replaced it.
"""

from alembic import op

revision = "0008"
down_revision = "0007"

# A UUIDv7 (RFC 9562) with the millisecond of the change and random bits.
EVENT_ID = (
    "encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) PLACING"
    " substring(int8send(floor(extract(epoch FROM changed_at) * 1000)::bigint) FROM 3) FROM 1 FOR 6), 52, 1), 53, 1),"
    " 'hex')::uuid"
)
UPGRADE = f"""
LOCK TABLE user_changes, outbox_lanes;
CREATE TABLE outbox (
    partition smallint NOT NULL,
    seq bigint GENERATED ALWAYS AS IDENTITY,
    user_id uuid NOT NULL,
    version integer NOT NULL,
    changed_at timestamptz NOT NULL,
    refusals integer NOT NULL DEFAULT 0,
    retry_at timestamptz,
    CONSTRAINT pk_outbox PRIMARY KEY (partition, seq)
);
INSERT INTO outbox (partition, user_id, version, changed_at)
SELECT c.lane, c.user_id, c.version, c.changed_at FROM user_changes c JOIN outbox_lanes l USING (lane)
WHERE (c.txid, c.user_id, c.version) > (l.txid, l.user_id, l.version) ORDER BY c.txid, c.user_id, c.version;
CREATE INDEX ix_outbox_retry_at ON outbox (retry_at) WHERE retry_at IS NOT NULL;
CREATE TABLE outbox_partitions (
    partition smallint NOT NULL CONSTRAINT pk_outbox_partitions PRIMARY KEY,
    owner uuid,
    leased_until timestamptz,
    retry_at timestamptz,
    failures integer NOT NULL DEFAULT 0
);
INSERT INTO outbox_partitions (partition) SELECT lane FROM outbox_lanes;
DROP TABLE outbox_lanes;
ALTER TABLE user_changes DROP COLUMN lane, DROP COLUMN txid, ADD COLUMN event_id uuid;
ALTER TABLE user_changes ALTER COLUMN event_id TYPE uuid USING {EVENT_ID}, ALTER COLUMN event_id SET NOT NULL;
CREATE INDEX ix_user_changes_changed_at ON user_changes (changed_at)
"""  # noqa: S608
# What was delivered gets the transaction number 1 and what is pending 2: both are older than any of the cluster.
DOWNGRADE = """
LOCK TABLE user_changes, outbox, outbox_partitions;
CREATE TABLE outbox_lanes (
    lane smallint NOT NULL CONSTRAINT pk_outbox_lanes PRIMARY KEY,
    txid bigint NOT NULL DEFAULT 0,
    user_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    version integer NOT NULL DEFAULT 0,
    owner uuid,
    leased_until timestamptz,
    retry_at timestamptz,
    failures integer NOT NULL DEFAULT 0,
    refusals integer NOT NULL DEFAULT 0
);
INSERT INTO outbox_lanes (lane, txid, user_id, version)
SELECT partition, 1, 'ffffffff-ffff-ffff-ffff-ffffffffffff', 2147483647 FROM outbox_partitions;
DROP INDEX ix_user_changes_changed_at;
ALTER TABLE user_changes DROP COLUMN event_id,
    ADD COLUMN lane smallint NOT NULL DEFAULT 0, ADD COLUMN txid bigint NOT NULL DEFAULT 1;
UPDATE user_changes SET lane = get_byte(uuid_send(user_id), 15) % 16;
UPDATE user_changes c SET txid = 2 FROM outbox o WHERE o.user_id = c.user_id AND o.version = c.version;
ALTER TABLE user_changes ALTER COLUMN lane DROP DEFAULT,
    ALTER COLUMN txid SET DEFAULT (pg_current_xact_id()::text::bigint);
CREATE INDEX ix_user_changes_lane_txid ON user_changes (lane, txid, user_id, version);
DROP TABLE outbox, outbox_partitions
"""


def upgrade() -> None:
    for statement in UPGRADE.split(";"):
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE.split(";"):
        op.execute(statement)
