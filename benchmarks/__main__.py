"""`python -m benchmarks [BENCH...]` runs them all; `python -m benchmarks.<name>` runs one, `--quick` in short.

Each in a process of its own: what one leaves behind (threads, memory) would be in the figures of the next. With
labelled pair sets and DEDUP_BACKBONE_WEIGHTS also `peers`, which measures on them.
"""

from __future__ import annotations

import argparse
import pathlib
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


def main() -> None:
    """Run them all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("bench", nargs="*", type=pathlib.Path, help="folder of a labelled pair set")
    bench = parser.parse_args().bench
    if missing := [str(folder) for folder in bench if not folder.is_dir()]:
        parser.error(f"no such folder: {', '.join(missing)}; one benchmark is python -m benchmarks.<name>")
    for name in _NAMES:
        run(name)
    if bench:
        run("peers", *map(str, bench))


if __name__ == "__main__":
    main()
