"""Timing of work that is compared: in turns, so that whatever else the machine does meets all of it alike."""

from __future__ import annotations

import dataclasses
import statistics
import threading
import time
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Speed:
    """Of one kind of work: photos a second, and milliseconds of all cores together a photo; medians and bests."""

    photos_per_s: float
    best_photos_per_s: float
    cpu_ms_per_photo: float

    def row(self) -> dict[str, object]:
        """For the table."""
        return {
            "photos_per_s": round(self.photos_per_s, 2),
            "best_photos_per_s": round(self.best_photos_per_s, 2),
            "cpu_ms_per_photo": round(self.cpu_ms_per_photo, 2),
        }


Work = Callable[[], int]
"""Does a piece of work; returns how many photos it was."""


def compare(
    works: Mapping[str, Work], rounds: int, prepare: Callable[[str], None] | None = None
) -> dict[str, Speed]:
    """Each work once to warm up, then so many rounds of all of them in turns; `prepare` is called before each."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            if prepare is not None:
                prepare(name)
            wall, cpu = time.perf_counter(), time.process_time()
            photos = work()
            spent = (time.perf_counter() - wall) / photos, (time.process_time() - cpu) / photos
            if number:
                taken[name].append(spent)
    return {
        name: Speed(
            1 / statistics.median(wall for wall, _ in spent),
            1 / min(wall for wall, _ in spent),
            1000 * statistics.median(cpu for _, cpu in spent),
        )
        for name, spent in taken.items()
    }


def in_threads(work: Callable[[], object], threads: int, times: int) -> None:
    """`work` so many times in all, shared by threads that each do it one after the other."""

    def run(share: int) -> None:
        for _ in range(share):
            work()

    shares = [times // threads + (number < times % threads) for number in range(threads)]
    started = [threading.Thread(target=run, args=(share,)) for share in shares]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
