"""The feed can keep the changes of a set in one row.

Release 0.1.0 leaves out all but the last change of such a row, and may run on this schema during a rollout or after a
rollback. So they are written where the database is new, and elsewhere once an operator sets `feed_state.has_sets`.
"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("ALTER TABLE feed ADD COLUMN user_ids uuid[], ADD COLUMN versions integer[]")
    op.execute("ALTER TABLE feed_state ADD COLUMN has_sets boolean NOT NULL DEFAULT false")
    # All revisions of a new database are made in one transaction.
    op.execute("UPDATE feed_state SET has_sets = true WHERE xmin = pg_current_xact_id()::xid")


def downgrade() -> None:
    # The last change of a set has its row.
    op.execute(
        "INSERT INTO feed (position, user_id, version, changed_at)"
        " SELECT f.position - cardinality(f.user_ids) + c.place, c.user_id, c.version, f.changed_at"
        " FROM feed f, unnest(f.user_ids, f.versions) WITH ORDINALITY AS c(user_id, version, place)"
        " WHERE c.place < cardinality(f.user_ids)"
    )
    op.execute("ALTER TABLE feed DROP COLUMN user_ids, DROP COLUMN versions")
    op.execute("ALTER TABLE feed_state DROP COLUMN has_sets")
