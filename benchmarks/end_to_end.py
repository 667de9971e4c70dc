"""From the upload to the flag, through every process on this machine: how long one photo takes, and how many a second.

``python -m benchmarks.end_to_end [--weights FILE] [--quick] [--json]``: drawn JPEGs of 1.1 to 2 megapixels, twenty a
property. On the embedded stack first one photo after the other with nothing else to do ("idle"); then a heap of photos
that were put into the store while the workers held still, from their events to the last match, as a ratio to the raw
forward pass with the streams and batches of the embed worker, which is measured some times on the way while the workers
hold still once more, since the machine's speed moves; then one after the other again, beside uploads at half the rate
of that heap ("loaded").

The embedded store (moto) and the broker in the embedded Postgres share the machine with the workers. So, where the
machine has a RabbitMQ, the heap is worked off once more over that and a store that does nothing but hand out bytes
(`benchmarks.object_store`): what the workers themselves make of the cores. `*_ms` is the processor time that a photo
takes of each kind of worker; the rest is the database, the broker and the store.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import itertools
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks import forward, pictures, pipeline, portal, results, scaling, speed
from core import bundle, embedding, images, weights

_PROPERTY_PHOTOS = 20
_MEASUREMENTS = 8
"""Of the raw pass, on the way of a heap."""


def raw_forward(device: str, streams: int, photos: int) -> Callable[[], float]:
    """Measures the forward pass alone, as the embed worker runs it, in photos a second, by so many photos."""
    backbone = forward.backbone(device, "auto", "auto")
    batch = backbone.batch_size
    backbone.warm_up(forward.SIZE, batch)
    one = np.zeros((batch, 3, forward.SIZE, forward.SIZE), np.uint8)
    times = max(streams, photos // batch)

    def raw() -> float:
        started = time.perf_counter()
        speed.in_threads(lambda: forward.once(backbone, one), streams, times)
        return times * batch / (time.perf_counter() - started)

    return raw


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


@contextlib.contextmanager
def uploads(there: portal.Portal, photos_per_s: float) -> Iterator[None]:
    """Upload beside, at a rate."""
    over = threading.Event()

    def run() -> None:
        for number in itertools.count():
            if over.wait(1 / photos_per_s):
                return
            there.upload(f"beside-{number // _PROPERTY_PHOTOS}")

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        running = thread.submit(run)
        try:
            yield
        finally:
            over.set()
        running.result()


def _row(what: str, seconds: Sequence[float] = (), /, **more: object) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(
        (
            "what",
            "photos",
            "p50_s",
            "p99_s",
            "photos_per_s",
            "ratio_to_raw",
            *(f"{kind}_ms" for kind in portal.KINDS),
        ),
        "",
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
    parser.add_argument("--quick", action="store_true", help="5 and 40 photos, on the embedded stack only")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, no CSV")
    options = parser.parse_args(arguments)
    single, heap, round_photos = (5, 40, 16) if options.quick else (options.single, options.heap, 64)
    device = embedding.choose_device("auto")
    streams = embedding.share_cores(None, device)
    chosen = some_photos(1 if options.quick else 12, weights.load(options.weights))
    environment = {"DEDUP_BACKBONE_WEIGHTS": options.weights}
    measure = raw_forward(device, streams, round_photos)
    heaps: dict[str, portal.Heap] = {}

    def work_off(what: str, there: portal.Portal) -> float:
        heaps[what] = found = there.heap(heap, [measure] * _MEASUREMENTS)
        _tell(f"{what}: {found.photos_per_s:.1f} photos/s; raw: {[round(raw, 1) for raw in found.raw]}")
        return found.photos_per_s

    with contextlib.nullcontext() if options.quick else scaling.rabbitmq() as broker:
        if broker is not None:
            with portal.apart(environment, chosen, broker) as there:
                work_off("S3 to flags, store and broker apart", there)
    with portal.embedded_stack(environment, chosen) as stack:
        idle = [stack.latency() for _ in range(single)]
        _tell(f"idle: {statistics.median(idle):.3f} s")
        rate = work_off("S3 to flags, embedded stack", stack)
        with uploads(stack, rate / 2):
            loaded = [stack.latency() for _ in range(single)]
    rows = [
        _row("upload to flag, idle", idle),
        _row("upload to flag, loaded to half", loaded),
        *(
            _row(
                what,
                photos=heap,
                ratio_to_raw=round(found.photos_per_s / statistics.harmonic_mean(found.raw), 3),
                **found.row(),
            )
            for what, found in heaps.items()
        ),
        _row(
            "raw forward",
            photos_per_s=round(
                statistics.harmonic_mean([raw for found in heaps.values() for raw in found.raw]), 2
            ),
            ratio_to_raw=1,
        ),
    ]
    results.write("end_to_end", rows, as_json=options.json, by=("what",), value="p50_s")


if __name__ == "__main__":
    main()
