"""From the upload to the flag, through every process on this machine: how long one photo takes, and how many a second.

``python -m benchmarks.end_to_end [--weights FILE] [--quick] [--json]``: the embedded stack, drawn JPEGs of 1.1 to 2
megapixels, twenty a property. First one photo after the other with nothing else to do ("idle"); then a heap of photos
that were put into the store while the workers held still, from their events to the last match, as a ratio to the raw
forward pass, which is measured before and after it in the same run with the streams and batches of the embed worker;
last one after the other again, beside uploads at half the rate of that heap ("loaded"). The store shares the machine,
so what it takes to hand out a photo (moto: some milliseconds) is missing from the ratio. The broker is the embedded
stack's own, in its Postgres.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import itertools
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks import forward, pictures, pipeline, results, speed
from core import bundle, census, database, embedding, images, matching, weights
from workers import embedded

_PATIENCE_SECONDS = 300.0
_PROPERTY_PHOTOS = 20


def raw_photos_per_s(device: str, streams: int, photos: int) -> float:
    """The forward pass alone, as the embed worker runs it; so many photos a round."""
    backbone = forward.backbone(device, "auto", "auto")
    batch = backbone.batch_size
    backbone.warm_up(forward.SIZE, batch)
    one = np.zeros((batch, 3, forward.SIZE, forward.SIZE), np.uint8)

    def raw() -> int:
        times = max(streams, photos // batch)
        speed.in_threads(lambda: forward.once(backbone, one), streams, times)
        return times * batch

    return speed.compare({"raw": raw}, 3)["raw"].photos_per_s


def some_photos(count: int, source: weights.Weights) -> list[bytes]:
    """Drawn JPEGs that the bundle of these weights does not take for drawings, which take four passes more."""
    backbone = embedding.Backbone(source)
    model = bundle.for_backbone(backbone.weights_sha256)
    embedder = embedding.Embedder(backbone, model.fusion)
    found = []
    for data in (data for size in pipeline.SIZES for data in pictures.jpegs(count, size)):
        pixels = images.decode(data, size=model.input_size, max_pixels=10**8).pixels
        if embedder.embed(pixels[None])[0, -1] < 0:
            found.append(data)
    return found


class Portal:
    """Uploads photos to a running stack and looks in the database what becomes of them."""

    def __init__(self, stack: embedded.Stack, base: database.Database, pictures_: Sequence[bytes]) -> None:
        self._stack = stack
        self._s3 = stack.s3()
        self._base = base
        self._pictures = itertools.cycle(pictures_)
        self._numbers = itertools.count()

    def upload(self, property_id: str, data: bytes | None = None) -> bytes:
        """Upload a photo with bytes of its own; returns them."""
        number = next(self._numbers)
        # What follows the end of a JPEG is not looked at.
        data = (data or next(self._pictures)) + number.to_bytes(8, "big")
        key = f"properties/{property_id}/photos/{number:06d}.jpg"
        self._s3.put_object(Bucket="photos", Key=key, Body=data)
        return data

    def latency(self) -> float:
        """Seconds from the upload of a duplicate to its flag."""
        name = uuid.uuid4().hex
        original = self.upload(name)
        self._await(lambda: self.settled(name) == 1, "matched")
        started = time.perf_counter()
        self.upload(name, original)
        self._await(lambda: bool(self._flags(name)), "flagged")
        return time.perf_counter() - started

    def heap(self, count: int) -> float:
        """Photos a second, from when they lie in the store, their events waiting, to the last match."""
        prefix = uuid.uuid4().hex
        with held(self._stack._processes.values()):
            for number in range(count):
                self.upload(f"{prefix}-{number // _PROPERTY_PHOTOS}")
        started = time.perf_counter()
        # Looking reads every photo on record: seldom, or it is the looking that is measured.
        self._await(lambda: self.settled(prefix) == count, "matched", look_seconds=0.25)
        return count / (time.perf_counter() - started)

    def settled(self, prefix: str) -> int:
        """How many photos of properties with this prefix are matched."""
        with self._base.transaction() as connection:
            _, done = census.census(connection)
        return sum(property_id.startswith(prefix) for property_id, _, _ in done)

    def _flags(self, property_id: str) -> list[database.Row]:
        with self._base.transaction() as connection:
            return matching.flags(connection, property_id)

    def _await(self, condition: Callable[[], bool], what: str, look_seconds: float = 0.02) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not condition():
            self._stack.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"not {what} within {_PATIENCE_SECONDS:.0f} s")
            time.sleep(look_seconds)


@contextlib.contextmanager
def held(processes: Collection[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Let processes stand still."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def uploads(portal: Portal, photos_per_s: float) -> Iterator[None]:
    """Upload beside, at a rate."""
    over = threading.Event()

    def run() -> None:
        for number in itertools.count():
            if over.wait(1 / photos_per_s):
                return
            portal.upload(f"beside-{number // _PROPERTY_PHOTOS}")

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        running = thread.submit(run)
        try:
            yield
        finally:
            over.set()
        running.result()


def _row(what: str, seconds: Sequence[float] = (), **more: object) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(
        ("what", "photos", "p50_s", "p99_s", "photos_per_s", "ratio_to_raw"), ""
    )
    row |= {"what": what, **more}
    if seconds:
        row |= {
            "photos": len(seconds),
            "p50_s": round(statistics.median(seconds), 3),
            "p99_s": round(float(np.quantile(seconds, 0.99)), 3),
        }
    return row


def _tell(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default=weights.UNTRAINED)
    parser.add_argument("--single", type=int, default=100, help="photos one after the other")
    parser.add_argument("--heap", type=int, default=600, help="photos at once")
    parser.add_argument("--quick", action="store_true", help="5 and 40 photos")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, no CSV")
    options = parser.parse_args(arguments)
    single, heap, round_photos = (5, 40, 16) if options.quick else (options.single, options.heap, 64)
    device = embedding.choose_device("auto")
    streams = embedding.share_cores(None, device)
    chosen = some_photos(1 if options.quick else 12, weights.load(options.weights))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="dedup-benchmark-"))
    folder.chmod(0o755)
    raw = [raw_photos_per_s(device, streams, round_photos)]
    _tell(f"raw forward: {raw[0]:.1f} photos/s")
    try:
        with embedded.Stack(folder, {"DEDUP_BACKBONE_WEIGHTS": options.weights}) as stack:
            base = database.Database(stack.environment["DEDUP_DATABASE_URL"])
            with contextlib.closing(base):
                portal = Portal(stack, base, chosen)
                _tell(f"the stack is up and warm: {portal.heap(_PROPERTY_PHOTOS):.1f} photos/s")
                idle = [portal.latency() for _ in range(single)]
                _tell(f"idle: {statistics.median(idle):.3f} s")
                rate = portal.heap(heap)
                _tell(f"heap: {rate:.1f} photos/s")
                with uploads(portal, rate / 2):
                    loaded = [portal.latency() for _ in range(single)]
    finally:
        shutil.rmtree(folder)
    raw.append(raw_photos_per_s(device, streams, round_photos))
    limit = statistics.mean(raw)
    rows = [
        _row("upload to flag, idle", idle),
        _row("upload to flag, loaded to half", loaded),
        _row("S3 to flags", photos=heap, photos_per_s=round(rate, 2), ratio_to_raw=round(rate / limit, 3)),
        _row("raw forward", photos_per_s=round(limit, 2), ratio_to_raw=1),
    ]
    results.write("end_to_end", rows, as_json=options.json, by=("what",), value="p50_s")


if __name__ == "__main__":
    main()
