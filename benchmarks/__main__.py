"""`python -m benchmarks` runs them all; `python -m benchmarks.<name>` runs one."""

from __future__ import annotations

from benchmarks import backfill, decode, end_to_end, forward, match, memory, notify, peers, pipeline, scaling

if __name__ == "__main__":
    forward.main()
    decode.main()
    pipeline.main()
    match.main()
    memory.main()
    end_to_end.main()
    notify.main()
    backfill.main()
    scaling.main()
    # The one that needs trained weights: DEDUP_BACKBONE_WEIGHTS.
    peers.main()
