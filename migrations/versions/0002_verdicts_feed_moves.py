"""Verdicts by SQL, one position for readers of the flag feed, and finding a photo by its place in the store."""

from __future__ import annotations

from migrations import sql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    sql.run(__file__, "up")


def downgrade() -> None:
    """Take back; the role stays, since other databases of the server may use it."""
    sql.run(__file__, "down")
