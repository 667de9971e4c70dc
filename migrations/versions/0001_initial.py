"""Photos, embeddings, pairs, verdicts, flags, their feed, and the views for the listing system."""

from __future__ import annotations

from migrations import sql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    sql.run(__file__, "up")


def downgrade() -> None:
    """Take back; the roles stay, since other databases of the server may use them."""
    sql.run(__file__, "down")
