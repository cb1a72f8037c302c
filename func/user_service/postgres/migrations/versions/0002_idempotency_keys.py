"""Responses to requests with an Idempotency-Key."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE idempotency_keys (
            id bytea NOT NULL CONSTRAINT pk_idempotency_keys PRIMARY KEY,
            fingerprint bytea NOT NULL,
            answer bytea NOT NULL,
            created_at timestamptz NOT NULL,
            expires_at timestamptz NOT NULL
        )
        """
    )
    op.execute("CREATE INDEX ix_idempotency_keys_expires_at ON idempotency_keys (expires_at)")


def downgrade() -> None:
    op.execute("DROP TABLE idempotency_keys")
