"""How many pairs a second the pair classifier decides on one core, in parts and as a whole.

``python -m benchmarks.decision [--quick] [--json]``. Compared in one run: the whole decision, and the correspondence of
the cells alone, which is most of it; a photo against all others of its property, as a match does it, and pairs of any
two photos, as an evaluation does it.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

# Before numpy is loaded: afterwards its threads are there.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from benchmarks import results
from core import bundle, correspondence, fusing

NEIGHBOURS = (20, 200)
PAIRS = 2_000


def rate(work: Callable[[], object], pairs: int, seconds: float) -> float:
    """Pairs per second of processor time; the best of three stretches."""
    best = 0.0
    for _ in range(3):
        done, started = 0, time.process_time()
        while time.process_time() - started < seconds / 3:
            work()
            done += pairs
        best = max(best, done / (time.process_time() - started))
    return best


def main() -> None:
    """Measure, print, and keep the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a second each")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, no CSV")
    options = parser.parse_args()
    seconds = 1.0 if options.quick else 9.0
    head = bundle.shipped()["imagenet"].classifier
    random = np.random.default_rng(0)
    vectors = random.normal(size=(PAIRS + 1, head.layout.dims)).astype(np.float32)
    cells = fusing.unit(vectors[:, head.layout.cells].reshape(len(vectors), fusing.CELLS, -1))
    table: list[dict[str, object]] = []
    for name, left, right in [
        *((f"one against {count}", slice(0, 1), slice(1, count + 1)) for count in NEIGHBOURS),
        (f"{PAIRS} pairs", slice(0, PAIRS), slice(1, PAIRS + 1)),
    ]:
        count = right.stop - right.start
        whole = rate(lambda a=left, b=right: head.score(vectors[a], vectors[b]), count, seconds)  # type: ignore[misc]
        part = rate(lambda a=left, b=right: correspondence.describe(cells[a], cells[b]), count, seconds)  # type: ignore[misc]
        table.append(
            {"pairs": name, "decided_per_s": round(whole), "correspondence_per_s": round(part)}
            | {"share_of_time": round(whole / part, 3)}
        )
    results.write("decision", table, as_json=options.json)


if __name__ == "__main__":
    main()
