"""Migrations are plain SQL: <revision>.up.sql and <revision>.down.sql beside each revision's module."""

from __future__ import annotations

import pathlib
from typing import Literal

from alembic import op


def run(module_file: str, direction: Literal["up", "down"]) -> None:
    """Run the SQL file of a revision in the migration's transaction."""
    path = pathlib.Path(module_file).with_suffix(f".{direction}.sql")
    op.get_bind().exec_driver_sql(path.read_text(encoding="utf-8"))
