"""`python -m benchmarks` runs them all; `python -m benchmarks.<name>` runs one."""

from __future__ import annotations

from benchmarks import backfill, forward

if __name__ == "__main__":
    forward.main()
    backfill.main()
