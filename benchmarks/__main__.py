"""`python -m benchmarks` runs them all; `python -m benchmarks.<name>` runs one."""

from __future__ import annotations

from benchmarks import backfill, decode, forward, memory, notify, pipeline, scaling

if __name__ == "__main__":
    forward.main()
    decode.main()
    pipeline.main()
    memory.main()
    notify.main()
    backfill.main()
    scaling.main()
