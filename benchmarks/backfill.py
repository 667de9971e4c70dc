"""How long a live photo takes from its upload to its flag, with and without a backfill beside it.

``python -m benchmarks.backfill``: the embedded stack on untrained weights, drawn photos. Live photos are uploaded one
after the other, each the duplicate of one that is there; first with nothing else to do, then while a bucket of photos
that never raised an event is filled in. Both in one run, since the machine decides the rest.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import results
from core import backfills, database, matching, models
from core.drawing import rooms
from workers import embedded, processes

_OLD = "photos-old"
_PAUSE_SECONDS = 0.25
_PATIENCE_SECONDS = 120.0
"""For one live photo, and for the backfill to come one photo further."""

_TELL_SECONDS = 20.0
_SIZE = (240, 180)


def drawn(count: int) -> Iterator[bytes]:
    """So many small JPEGs, each with bytes of its own."""
    pictures = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        room = rooms.Room.random(rng, "bedroom")
        coded = io.BytesIO()
        room.view(room.camera(rng), *_SIZE).save(coded, "JPEG", quality=80)
        pictures.append(coded.getvalue())
    for number, picture in zip(range(count), itertools.cycle(pictures)):
        # What follows the end of a JPEG is not looked at.
        yield picture + number.to_bytes(4, "big")


class Uploads:
    """Live uploads to a running stack, each timed from its upload to its flag."""

    def __init__(self, stack: embedded.Stack, base: database.Database) -> None:
        self._stack = stack
        self._s3 = stack.s3()
        self._base = base
        self._picture = next(drawn(1))
        self.seconds: list[float] = []

    def one(self) -> None:
        """Upload a photo and its duplicate; the time of the latter counts."""
        name = uuid.uuid4().hex
        self._put(name, "a.jpg", self._picture)
        self._await(lambda: self._embedded(name), "embedded")
        started = time.perf_counter()
        self._put(name, "b.jpg", self._picture + b"b")
        self._await(lambda: bool(self._flags(name)), "flagged")
        self.seconds.append(time.perf_counter() - started)
        time.sleep(_PAUSE_SECONDS)

    def _put(self, property_id: str, name: str, data: bytes) -> None:
        self._s3.put_object(Bucket="photos", Key=f"properties/{property_id}/photos/{name}", Body=data)

    def _embedded(self, property_id: str) -> bool:
        with self._base.transaction() as connection:
            model = models.active(connection)
            everything = backfills.Selection("all", property_id)
            missing = backfills.Selection("missing", property_id)
            return (
                model is not None
                and backfills.count(connection, everything, model.id, "") == 1
                and backfills.count(connection, missing, model.id, "") == 0
            )

    def _flags(self, property_id: str) -> list[database.Row]:
        with self._base.transaction() as connection:
            return matching.flags(connection, property_id)

    def _await(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not condition():
            self._stack.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"a live photo was not {what} within {_PATIENCE_SECONDS:.0f} s")
            time.sleep(0.01)


class Backfill:
    """A `dedup backfill` of a bucket in a process of its own. It tells how far it is, and may not stand still."""

    def __init__(
        self, stack: embedded.Stack, base: database.Database, photos: int, most_seconds: float
    ) -> None:
        self._stack = stack
        self._base = base
        self._photos = photos
        self._started = time.monotonic()
        self._ends = self._started + most_seconds
        environment = {**os.environ, **stack.environment, "DEDUP_BUCKETS": f"photos,{_OLD}"}
        environment[processes.SUPERVISED] = str(os.getpid())
        command = [sys.executable, "-m", "workers", "backfill", "--bucket", _OLD, "--json"]
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603
        self._done, self._moved, self._told = 0, self._started, self._started
        self.seconds = 0.0

    def __enter__(self) -> Backfill:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def runs(self) -> bool:
        """Whether it is still at work.

        Raises:
            RuntimeError: it failed, stands still, or takes longer than it may.
        """
        status = self._process.poll()
        now = time.monotonic()
        self.seconds = now - self._started
        if status is not None:
            done = self._count()
            if status or done < self._photos:
                raise RuntimeError(
                    f"the backfill ended with {status} and {done} of {self._photos} photos done"
                )
            return False
        self._stack.check()
        if (done := self._count()) > self._done:
            self._done, self._moved = done, now
        if now - self._told > _TELL_SECONDS:
            self._told = now
            rate = done / self.seconds
            left = f"{(self._photos - done) / rate / 60:.0f} min to go" if rate else "nothing done yet"
            _say(f"{done} of {self._photos} photos filled in, {rate:.1f} a second, {left}")
        if now - self._moved > _PATIENCE_SECONDS:
            raise RuntimeError(f"no photo was filled in for {_PATIENCE_SECONDS:.0f} s; {done} are")
        if now > self._ends:
            raise RuntimeError(
                f"after {self.seconds:.0f} s only {done} of {self._photos} photos are filled in"
            )
        return True

    def _count(self) -> int:
        with self._base.transaction() as connection:
            statement = "SELECT count(*) AS photos FROM photo WHERE bucket = %s AND status = 'embedded'"
            row = connection.execute(statement, (_OLD,)).fetchone()
            return int(row["photos"]) if row else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, print, and keep the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=5000, help="to fill in")
    parser.add_argument("--live", type=int, default=60, help="live photos without the backfill")
    parser.add_argument("--minutes", type=float, default=40, help="a backfill that takes longer is a failure")
    parser.add_argument("--quick", action="store_true", help="100 photos, 10 live ones")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, no CSV")
    options = parser.parse_args()
    photos, live = (100, 10) if options.quick else (options.photos, options.live)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="dedup-benchmark-"))
    folder.chmod(0o755)
    with embedded.Stack(folder, {"DEDUP_BACKBONE_WEIGHTS": "untrained"}) as stack:
        stack.start_worker("bulk", "bulk")
        base = database.Database(stack.environment["DEDUP_DATABASE_URL"])
        s3 = stack.s3()
        s3.create_bucket(Bucket=_OLD)
        _say(f"putting {photos} photos into a bucket that raises no events")
        for number, data in enumerate(drawn(photos)):
            s3.put_object(
                Bucket=_OLD, Key=f"properties/old-{number // 15}/photos/{number:05d}.jpg", Body=data
            )
        uploads = Uploads(stack, base)
        for _ in range(3):
            uploads.one()
        _say(f"{live} live photos with nothing beside")
        quiet = Uploads(stack, base)
        while len(quiet.seconds) < live:
            quiet.one()
        beside = Uploads(stack, base)
        _say("live photos beside the backfill")
        with Backfill(stack, base, photos, 60 * options.minutes) as filling:
            while filling.runs():
                beside.one()
            seconds = filling.seconds
        base.close()
    shutil.rmtree(folder)
    if len(beside.seconds) < 5:
        raise RuntimeError(f"only {len(beside.seconds)} live photos beside the backfill; take more --photos")
    medians = [statistics.median(item.seconds) for item in (quiet, beside)]
    rows = [
        {
            "backfill": name,
            "live_photos": len(item.seconds),
            "median_s": round(statistics.median(item.seconds), 3),
            "p90_s": round(float(np.quantile(item.seconds, 0.9)), 3),
            "ratio_of_medians": round(median / medians[0], 2),
            "filled_in": filled_in,
            "filled_in_per_s": round(filled_in / seconds, 2),
        }
        for name, item, median, filled_in in (
            ("no", quiet, medians[0], 0),
            ("yes", beside, medians[1], photos),
        )
    ]
    results.write("backfill", rows, as_json=options.json, by=("backfill",), value="median_s")


if __name__ == "__main__":
    main()
