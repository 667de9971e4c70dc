"""Where a backfill stands; indexes for what failed and for what a bucket holds."""

from __future__ import annotations

from migrations import sql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    sql.run(__file__, "up")


def downgrade() -> None:
    """Take back."""
    sql.run(__file__, "down")
