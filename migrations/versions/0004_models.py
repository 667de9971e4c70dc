"""Bundles in the database, and which model each property shows."""

from __future__ import annotations

from migrations import sql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    sql.run(__file__, "up")


def downgrade() -> None:
    """Take back."""
    sql.run(__file__, "down")
