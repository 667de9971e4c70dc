"""`python -m benchmarks [BENCH...]` runs them all; `python -m benchmarks.<name>` runs one.

Each in a process of its own: what one leaves behind (threads, memory) would be in the figures of the next. With
labelled pair sets and DEDUP_BACKBONE_WEIGHTS also `peers`, which measures on them.
"""

from __future__ import annotations

import subprocess
import sys

_NAMES = (
    "forward",
    "decode",
    "vectors",
    "pipeline",
    "match",
    "memory",
    "end_to_end",
    "notify",
    "backfill",
    "scaling",
    "disk",
)


def run(name: str, *arguments: str) -> None:
    """One of them, to its end.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    print(f"== {name}", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], check=True)  # noqa: S603 - our own module


if __name__ == "__main__":
    for each in _NAMES:
        run(each)
    if bench := sys.argv[1:]:
        run("peers", *bench)
