"""Statistics of terms that tell a common word from a rare one.

It only changes what ANALYZE keeps; the release before this one works on. ANALYZE reads a sample, in seconds at ten
million users, and nobody waits for it.
"""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("ALTER TABLE user_terms ALTER COLUMN term SET STATISTICS 1000")
    op.execute("ANALYZE user_terms")


def downgrade() -> None:
    op.execute("ALTER TABLE user_terms ALTER COLUMN term SET STATISTICS -1")
