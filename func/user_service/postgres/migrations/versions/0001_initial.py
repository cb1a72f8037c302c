"""The schema. Until the first release, changes of the schema are made here."""

from alembic import op

from user_service.postgres.partitions import CREATE_MISSING

revision = "0001"
down_revision = None

PARTITIONS = 16
SCHEMA = """
CREATE TABLE users (
    id uuid NOT NULL CONSTRAINT pk_users PRIMARY KEY,
    external_id text,
    phone_index bigint,
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
    erased_at timestamptz,
    CONSTRAINT ck_users_version_positive CHECK (version >= 1),
    CONSTRAINT ck_users_status_known CHECK (status IN ('pending', 'active', 'suspended', 'deleted')),
    CONSTRAINT ck_users_deleted_has_time CHECK ((status = 'deleted') = (deleted_at IS NOT NULL)),
    CONSTRAINT ck_users_erased_is_deleted CHECK (erased_at IS NULL OR status = 'deleted')
);
CREATE INDEX ix_users_updated_at_id ON users (updated_at, id);
CREATE INDEX ix_users_phone_index ON users (phone_index) WHERE phone_index IS NOT NULL;
CREATE INDEX ix_users_status_id ON users (status, id) WHERE status <> 'active';
CREATE TABLE identifiers (
    kind smallint NOT NULL,
    index bytea NOT NULL,
    user_id uuid NOT NULL,
    CONSTRAINT pk_identifiers PRIMARY KEY (kind, index)
);
CREATE TABLE user_terms (
    term bigint NOT NULL,
    user_id uuid NOT NULL,
    CONSTRAINT pk_user_terms PRIMARY KEY (term, user_id)
);
ALTER TABLE user_terms ALTER COLUMN term SET STATISTICS 1000;
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
    event_id uuid NOT NULL,
    CONSTRAINT pk_user_changes PRIMARY KEY (user_id, version, changed_at)
) PARTITION BY RANGE (changed_at);
CREATE TABLE user_changes_default PARTITION OF user_changes DEFAULT;
CREATE INDEX ix_user_changes_actor ON user_changes (actor) WHERE actor LIKE 'jwt:%';
CREATE TABLE feed (
    position bigint NOT NULL,
    user_id uuid NOT NULL,
    version integer NOT NULL,
    changed_at timestamptz NOT NULL,
    CONSTRAINT pk_feed PRIMARY KEY (position, changed_at)
) PARTITION BY RANGE (changed_at);
CREATE TABLE feed_default PARTITION OF feed DEFAULT;
CREATE TABLE feed_queue (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    changed_at timestamptz NOT NULL,
    user_ids uuid[] NOT NULL,
    versions integer[] NOT NULL
);
CREATE TABLE feed_state (position bigint NOT NULL, floor bigint NOT NULL, floor_id uuid NOT NULL);
INSERT INTO feed_state (position, floor, floor_id) VALUES (0, 0, '00000000-0000-0000-0000-000000000000');
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
CREATE INDEX ix_outbox_retry_at ON outbox (retry_at) WHERE retry_at IS NOT NULL;
CREATE TABLE outbox_partitions (
    partition smallint NOT NULL CONSTRAINT pk_outbox_partitions PRIMARY KEY,
    owner uuid,
    leased_until timestamptz,
    retry_at timestamptz,
    failures integer NOT NULL DEFAULT 0
);
CREATE TABLE inbox (
    source text NOT NULL,
    id text NOT NULL,
    digest bytea NOT NULL,
    reply bytea NOT NULL,
    processed_at timestamptz NOT NULL DEFAULT now(),
    traceparent text,
    mentions uuid[],
    CONSTRAINT pk_inbox PRIMARY KEY (source, id)
);
CREATE INDEX ix_inbox_processed_at ON inbox (processed_at);
CREATE TABLE idempotency_keys (
    id bytea NOT NULL CONSTRAINT pk_idempotency_keys PRIMARY KEY,
    fingerprint bytea NOT NULL,
    response bytea NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    traceparent text,
    mentions uuid[]
);
CREATE INDEX ix_idempotency_keys_expires_at ON idempotency_keys (expires_at);
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
    line bigint NOT NULL DEFAULT 0,
    keep_ids boolean NOT NULL DEFAULT false,
    dry_run boolean NOT NULL DEFAULT false,
    CONSTRAINT ck_imports_state_known CHECK (state IN ('running', 'interrupted', 'failed', 'completed'))
);
CREATE TABLE import_failures (
    import_id uuid NOT NULL CONSTRAINT fk_import_failures_import_id_imports REFERENCES imports (id) ON DELETE CASCADE,
    record bigint NOT NULL,
    code text NOT NULL,
    detail text NOT NULL,
    pointer text,
    line bigint,
    CONSTRAINT pk_import_failures PRIMARY KEY (import_id, record)
);
CREATE TABLE service_meta (name text NOT NULL CONSTRAINT pk_service_meta PRIMARY KEY, value text NOT NULL);
"""


def upgrade() -> None:
    for statement in filter(str.strip, SCHEMA.split(";")):
        op.execute(statement)
    for table in ("idempotency_keys", "inbox"):
        op.execute(f"CREATE INDEX ix_{table}_traceparent ON {table} (traceparent)")
        op.execute(f"CREATE INDEX ix_{table}_mentions ON {table} USING gin (mentions) WHERE mentions IS NOT NULL")
    op.execute(f"INSERT INTO outbox_partitions (partition) SELECT generate_series(0, {PARTITIONS - 1})")
    op.execute(CREATE_MISSING)


def downgrade() -> None:
    op.execute(
        "DROP TABLE users, identifiers, user_terms, user_changes, feed, feed_queue, feed_state, outbox,"
        " outbox_partitions, inbox, idempotency_keys, import_failures, imports, service_meta"
    )
