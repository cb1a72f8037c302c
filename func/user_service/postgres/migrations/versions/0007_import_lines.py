"""Lines of imported files, and imports that keep ids or change nothing.

New columns with constant defaults: no row is rewritten, and the previous release, which does not name them, continues
to work.
"""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute(
        """
        ALTER TABLE imports
            ADD COLUMN line bigint NOT NULL DEFAULT 0,
            ADD COLUMN keep_ids boolean NOT NULL DEFAULT false,
            ADD COLUMN dry_run boolean NOT NULL DEFAULT false
        """
    )
    op.execute("ALTER TABLE import_failures ADD COLUMN line bigint")


def downgrade() -> None:
    op.execute("ALTER TABLE import_failures DROP COLUMN line")
    op.execute("ALTER TABLE imports DROP COLUMN line, DROP COLUMN keep_ids, DROP COLUMN dry_run")
