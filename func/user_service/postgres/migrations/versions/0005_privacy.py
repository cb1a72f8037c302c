"""Tombstones of erased users, and links from stored responses and from actors to users.

It only adds, so the previous release continues to work. On a change log of more than ten million rows, create
ix_user_changes_actor beforehand with CREATE INDEX CONCURRENTLY: here changes wait while it is created.
"""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    # NOT VALID: existing rows are correct and are not read; new rows are checked.
    op.execute(
        """
        ALTER TABLE users
            ADD COLUMN erased_at timestamptz,
            ADD CONSTRAINT ck_users_erased_is_deleted CHECK (erased_at IS NULL OR status = 'deleted') NOT VALID
        """
    )
    for table in ("idempotency_keys", "inbox"):
        op.execute(f"ALTER TABLE {table} ADD COLUMN traceparent text, ADD COLUMN mentions uuid[]")
        op.execute(f"CREATE INDEX ix_{table}_traceparent ON {table} (traceparent)")
        op.execute(f"CREATE INDEX ix_{table}_mentions ON {table} USING gin (mentions) WHERE mentions IS NOT NULL")
    op.execute("CREATE INDEX IF NOT EXISTS ix_user_changes_actor ON user_changes (actor) WHERE actor LIKE 'jwt:%'")


def downgrade() -> None:
    op.execute("DROP INDEX ix_user_changes_actor")
    for table in ("inbox", "idempotency_keys"):
        op.execute(f"ALTER TABLE {table} DROP COLUMN mentions, DROP COLUMN traceparent")
    op.execute("ALTER TABLE users DROP CONSTRAINT ck_users_erased_is_deleted, DROP COLUMN erased_at")
