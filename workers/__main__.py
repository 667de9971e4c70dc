"""`python -m workers` is `dedup`, also where the command is not on the PATH."""

from __future__ import annotations

from workers import cli

cli.main()
