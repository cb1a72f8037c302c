"""Imports, their progress and their failed records."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE imports (
            id uuid NOT NULL CONSTRAINT pk_imports PRIMARY KEY,
            actor text NOT NULL,
            key bytea CONSTRAINT uq_imports_key UNIQUE,
            fingerprint bytea,
            format text NOT NULL,
            on_conflict text NOT NULL,
            state text NOT NULL,
            position bigint NOT NULL DEFAULT 0,
            created bigint NOT NULL DEFAULT 0,
            updated bigint NOT NULL DEFAULT 0,
            skipped bigint NOT NULL DEFAULT 0,
            failed bigint NOT NULL DEFAULT 0,
            started_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            finished_at timestamptz,
            CONSTRAINT ck_imports_state_known CHECK (state IN ('running', 'interrupted', 'failed', 'completed'))
        )
        """
    )
    op.execute(
        """
        CREATE TABLE import_failures (
            import_id uuid NOT NULL CONSTRAINT fk_import_failures_import_id_imports
                REFERENCES imports (id) ON DELETE CASCADE,
            record bigint NOT NULL,
            code text NOT NULL,
            detail text NOT NULL,
            pointer text,
            CONSTRAINT pk_import_failures PRIMARY KEY (import_id, record)
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE import_failures, imports")
