"""Users, their search terms, the change log, and values that must stay the same between starts."""

from alembic import op

revision = "0001"
down_revision = None

LANES = 16


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE users (
            id uuid NOT NULL CONSTRAINT pk_users PRIMARY KEY,
            external_id text,
            email_index bytea NOT NULL,
            personal bytea NOT NULL,
            email_verified boolean NOT NULL,
            locale text,
            timezone text,
            status text NOT NULL,
            prior_status text,
            metadata jsonb NOT NULL,
            version integer NOT NULL,
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            last_login_at timestamptz,
            deleted_at timestamptz,
            CONSTRAINT ck_users_version_positive CHECK (version >= 1),
            CONSTRAINT ck_users_status_known CHECK (status IN ('pending', 'active', 'suspended', 'deleted')),
            CONSTRAINT ck_users_deleted_has_time CHECK ((status = 'deleted') = (deleted_at IS NOT NULL))
        )
        """
    )
    op.execute("CREATE UNIQUE INDEX uq_users_email_index_living ON users (email_index) WHERE deleted_at IS NULL")
    op.execute("CREATE UNIQUE INDEX uq_users_external_id_living ON users (external_id) WHERE deleted_at IS NULL")
    op.execute("CREATE INDEX ix_users_email_index_deleted ON users (email_index) WHERE deleted_at IS NOT NULL")
    op.execute("CREATE INDEX ix_users_external_id_deleted ON users (external_id) WHERE deleted_at IS NOT NULL")
    op.execute("CREATE INDEX ix_users_updated_at_id ON users (updated_at, id)")
    op.execute("CREATE INDEX ix_users_status_id ON users (status, id) WHERE status <> 'active'")
    op.execute(
        """
        CREATE TABLE user_terms (
            term bigint NOT NULL,
            user_id uuid NOT NULL,
            CONSTRAINT pk_user_terms PRIMARY KEY (term, user_id)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE user_changes (
            user_id uuid NOT NULL,
            version integer NOT NULL,
            type text NOT NULL,
            status text NOT NULL,
            changed text[] NOT NULL,
            actor text NOT NULL,
            request_id text NOT NULL,
            traceparent text NOT NULL,
            changed_at timestamptz NOT NULL,
            lane smallint NOT NULL,
            txid bigint NOT NULL DEFAULT (pg_current_xact_id()::text::bigint),
            CONSTRAINT pk_user_changes PRIMARY KEY (user_id, version)
        )
        """
    )
    op.execute("CREATE INDEX ix_user_changes_lane_txid ON user_changes (lane, txid, user_id, version)")
    op.execute(
        """
        CREATE TABLE outbox_lanes (
            lane smallint NOT NULL CONSTRAINT pk_outbox_lanes PRIMARY KEY,
            txid bigint NOT NULL DEFAULT 0,
            user_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
            version integer NOT NULL DEFAULT 0
        )
        """
    )
    op.execute(f"INSERT INTO outbox_lanes (lane) SELECT generate_series(0, {LANES - 1})")
    op.execute(
        "CREATE TABLE service_meta (name text NOT NULL CONSTRAINT pk_service_meta PRIMARY KEY, value text NOT NULL)"
    )


def downgrade() -> None:
    op.execute("DROP TABLE service_meta, outbox_lanes, user_changes, user_terms, users")
