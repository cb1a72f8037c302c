"""Statistics of terms that distinguish a common word from a rare one.

It only changes what ANALYZE stores, so the previous release continues to work. ANALYZE reads a sample, which takes
seconds at ten million users and blocks no statement.
"""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("ALTER TABLE user_terms ALTER COLUMN term SET STATISTICS 1000")
    op.execute("ANALYZE user_terms")


def downgrade() -> None:
    op.execute("ALTER TABLE user_terms ALTER COLUMN term SET STATISTICS -1")
