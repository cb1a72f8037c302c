"""The audit over all users: indexes by type, and by actor and type; the reason of a change.

Writes wait while the indexes are built, about two minutes for 100 million changes. Where that is too long, build each
index on each monthly partition before with CREATE INDEX CONCURRENTLY: this migration then attaches those.
"""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # The locks that readers wait for come last.
    op.execute("CREATE INDEX ix_user_changes_type_changed_at ON user_changes (type, changed_at)")
    op.execute("CREATE INDEX ix_user_changes_actor_type_changed_at ON user_changes (actor, type, changed_at)")
    op.execute("ALTER TABLE user_changes ADD COLUMN reason text")
    op.execute("DROP INDEX ix_user_changes_actor")


def downgrade() -> None:
    op.execute("CREATE INDEX ix_user_changes_actor ON user_changes (actor) WHERE actor LIKE 'jwt:%'")
    op.execute("DELETE FROM user_changes WHERE version < 0")
    op.execute("ALTER TABLE user_changes DROP COLUMN reason")
    # Citus drops one at a time.
    op.execute("DROP INDEX ix_user_changes_actor_type_changed_at")
    op.execute("DROP INDEX ix_user_changes_type_changed_at")
