"""${message}"""

from __future__ import annotations

from migrations import sql

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    sql.run(__file__, "up")


def downgrade() -> None:
    """Take back."""
    sql.run(__file__, "down")
