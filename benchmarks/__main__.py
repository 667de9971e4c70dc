"""`python -m benchmarks` runs them all; `python -m benchmarks.<name>` runs one."""

from __future__ import annotations

from benchmarks import backfill, forward, notify

if __name__ == "__main__":
    forward.main()
    notify.main()
    backfill.main()
