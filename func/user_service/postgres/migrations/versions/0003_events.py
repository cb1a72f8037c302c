"""Leases of the outbox's partitions, and the inbox."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute(
        """
        ALTER TABLE outbox_lanes
            ADD COLUMN owner uuid,
            ADD COLUMN leased_until timestamptz,
            ADD COLUMN retry_at timestamptz,
            ADD COLUMN failures integer NOT NULL DEFAULT 0,
            ADD COLUMN refusals integer NOT NULL DEFAULT 0
        """
    )
    op.execute(
        """
        CREATE TABLE inbox (
            source text NOT NULL,
            id text NOT NULL,
            digest bytea NOT NULL,
            reply bytea NOT NULL,
            processed_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT pk_inbox PRIMARY KEY (source, id)
        )
        """
    )
    op.execute("CREATE INDEX ix_inbox_processed_at ON inbox (processed_at)")


def downgrade() -> None:
    op.execute("DROP TABLE inbox")
    op.execute(
        "ALTER TABLE outbox_lanes DROP COLUMN owner, DROP COLUMN leased_until, DROP COLUMN retry_at,"
        " DROP COLUMN failures, DROP COLUMN refusals"
    )
