"""Do two workers of a kind do the work of two? Photos a second from the queue to the flags, by number of workers.

``python -m benchmarks.scaling [--quick] [--json]``: the embedded stack, on the machine's RabbitMQ where rabbitmqctl
makes a virtual host there and on pgmq. Photos are put into the store and taken up by ingest while the embed workers
hold still; then the time runs from their start to the last match. A forward pass of theirs is a fixed wait
(`benchmarks.waiting`), so that the cores, of which there may be fewer than workers, are left to everything else; the
match workers do what they always do.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image

from benchmarks import results, waiting
from core import census, database
from workers import embedded

_PATIENCE_SECONDS = 300.0
_PROPERTY_PHOTOS = 10
_BATCH = 4
_RABBITMQ = "amqp://guest:guest@127.0.0.1:5672/"
"""Login of a RabbitMQ as it is installed."""


@contextlib.contextmanager
def rabbitmq() -> Iterator[str | None]:
    """A virtual host of our own as a broker URL; None where none can be made."""
    program, name = shutil.which("rabbitmqctl"), f"dedup-benchmark-{uuid.uuid4().hex[:8]}"

    def control(*arguments: str) -> bool:
        command = [str(program), *arguments]
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0  # noqa: S603

    if program is None or not control("add_vhost", name):
        yield None
        return
    try:
        control("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
        yield _RABBITMQ + name
    finally:
        control("delete_vhost", name)


class Trial:
    """One stack with so many embed and match workers; `seconds` a forward pass of `_BATCH` photos takes."""

    def __init__(self, broker: str | None, workers: int, seconds: float) -> None:
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="dedup-benchmark-"))
        self._folder.chmod(0o755)
        self._gate = self._folder / "gate"
        own = {"DEDUP_BROKER_URL": broker} if broker else {}
        environment = {
            "DEDUP_BACKBONE_WEIGHTS": "untrained",
            "DEDUP_EMBED_STREAMS": "1",
            "DEDUP_EMBED_BATCH_SIZE": str(_BATCH),
            # Enough for the next batch to be decoded while one is in its forward pass.
            "DEDUP_EMBED_CONCURRENCY": str(3 * _BATCH),
            # A batch that is not full would take as long as a full one.
            "DEDUP_EMBED_BATCH_WAIT_SECONDS": "0.2",
            waiting.SECONDS: str(seconds),
            waiting.GATE: str(self._gate),
            **own,
        }
        self._workers = workers
        self._stack = embedded.Stack(self._folder, environment, {"ingest": ("ingest",)})

    def run(self, count: int) -> float:
        """Photos a second."""
        try:
            with self._stack:
                base = database.Database(self._stack.environment["DEDUP_DATABASE_URL"])
                with contextlib.closing(base):
                    return self._measured(base, count)
        finally:
            shutil.rmtree(self._folder)

    def _measured(self, base: database.Database, count: int) -> float:
        def counted() -> tuple[int, int]:
            with base.transaction() as connection:
                waiting_, done = census.census(connection)
            return len(waiting_), len(done)

        s3, picture = self._stack.s3(), _picture()
        for number in range(count):
            key = f"properties/{number // _PROPERTY_PHOTOS}/photos/{number:05d}.jpg"
            s3.put_object(Bucket="photos", Key=key, Body=picture + number.to_bytes(4, "big"))
        self._await(lambda: counted()[0] == count, "every photo waits")
        for number in range(self._workers):
            self._stack.start_process(f"match-{number}", ("worker", "match"))
            self._stack.start_process(f"embed-{number}", ("worker", "embed"), waiting.__name__)
        for number in range(self._workers):
            for kind in ("embed", "match"):
                self._await(lambda kind=kind, number=number: self._ready(f"{kind}-{number}", kind), "ready")  # type: ignore[misc]
        self._await(lambda: self._in_hand(base) == min(count, self._workers * 3 * _BATCH), "all have begun")
        self._gate.touch()
        started = time.perf_counter()
        self._await(lambda: counted()[1] == count, "every photo is matched")
        return count / (time.perf_counter() - started)

    def _ready(self, name: str, kind: str) -> bool:
        return f"{kind}_worker_ready" in self._stack.log_file(name).read_text(encoding="utf-8")

    @staticmethod
    def _in_hand(base: database.Database) -> int:
        with base.transaction() as connection:
            row = connection.execute("SELECT count(*) AS n FROM photo WHERE attempts > 0").fetchone()
        return int(row["n"]) if row else 0

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not condition():
            self._stack.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {_PATIENCE_SECONDS:.0f} s: {what}")
            time.sleep(0.02)


def _picture() -> bytes:
    coded = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 255, (180, 240, 3), dtype=np.uint8)
    Image.fromarray(noise).save(coded, "JPEG", quality=80)
    # What follows the end of a JPEG is not looked at.
    return coded.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=100, help="in each trial")
    parser.add_argument(
        "--wait", type=float, default=1.0, help=f"seconds that a forward pass of {_BATCH} photos takes"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of one trial with each number of workers")
    parser.add_argument("--quick", action="store_true", help="40 photos, one round, pgmq only")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, no CSV")
    options = parser.parse_args(arguments)
    count, rounds = (40, 1) if options.quick else (options.photos, options.rounds)
    rows = []
    with contextlib.ExitStack() as stack:
        brokers = {"pgmq": None}
        url = None if options.quick else stack.enter_context(rabbitmq())
        trials: dict[str, str | None] = {**({"rabbitmq": url} if url else {}), **brokers}
        for name, broker in trials.items():
            rates: dict[int, list[float]] = {1: [], 2: []}
            for _ in range(rounds):
                # In turns, so that what else the machine does meets both.
                for workers, found in rates.items():
                    found.append(Trial(broker, workers, options.wait).run(count))
            medians = {workers: statistics.median(found) for workers, found in rates.items()}
            rows += [
                {
                    "broker": name,
                    "embed_workers": workers,
                    "match_workers": workers,
                    "photos": count,
                    "rounds": rounds,
                    "forward_s": options.wait,
                    "batch": _BATCH,
                    "photos_per_s": round(median, 2),
                    "ideal_photos_per_s": round(workers * _BATCH / options.wait, 2),
                    "times_one": round(median / medians[1], 2),
                }
                for workers, median in medians.items()
            ]
    results.write(
        "scaling",
        rows,
        as_json=options.json,
        by=(
            "broker",
            "embed_workers",
        ),
        value="photos_per_s",
    )


if __name__ == "__main__":
    main()
