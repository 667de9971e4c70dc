"""Memory of the workers, in 10^6 bytes, as photos pass: whether it is flat, and how high it peaks.

``python -m benchmarks.memory [--photos N] [--large N] [--quick] [--json]``. First what an embed worker holds while
photos of 4,000 × 3,000 pixels are in flight: fetching from an S3 in another process, decoding, the micro-batcher and
the forward pass in this process, for the kinds of photo in turns, `--large` of them in all. Then every process of the
embedded stack while `--photos` of 0.3 megapixels go through it from upload to flags.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from benchmarks import forward, pictures, portal, results
from core import budgets, bundle, embedding, images, objects, settings, weights
from workers import batching, embedded_s3

SIZE = (4000, 3000)
SMALL = (640, 480)
_MOST_BYTES = 50_000_000
_SHOWN = 8
"""About so many lines of each kind are put down."""


def row(what: str, photos: int, pid: int | str = "self") -> results.Row:
    """Of one process: what it holds now, and the most it ever held."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    status = dict(line.split(":", 1) for line in lines)
    resident, peak = (int(status[name].split()[0]) * 1024 // 10**6 for name in ("VmRSS", "VmHWM"))
    return {"what": what, "photos": photos, "resident_mb": resident, "peak_mb": peak}


def in_flight_rows(endpoint_url: str, photos: int) -> Iterator[results.Row]:
    """Of this process, with large photos in flight; so many of them in all."""
    os.environ |= {
        "AWS_ACCESS_KEY_ID": embedded_s3.ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": embedded_s3.SECRET_ACCESS_KEY,
    }
    device = "cpu"
    in_flight = embedding.photos_in_flight(None, device)
    objects.share_memory(in_flight)
    s3 = objects.client(settings.Settings(s3_endpoint_url=endpoint_url), in_flight)
    kinds = {
        "JPEG": pictures.jpegs(1, SIZE)[0],
        "progressive JPEG": pictures.jpegs(1, SIZE, progressive=True)[0],
        "PNG": pictures.jpegs(1, SIZE, image_format="PNG")[0],
    }
    for kind, data in kinds.items():
        s3.put_object(Bucket="photos", Key=kind, Body=data)
    rounds = max(1, photos // (len(kinds) * in_flight))
    names = {kind: f"embed, {kind} of {len(data) / 1e6:.1f} MB" for kind, data in kinds.items()}
    del kinds, data
    # Forget the peak of drawing them.
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    budgets.limit_arenas()
    streams = embedding.share_cores(None, device)
    backbone = forward.backbone(device, "auto", "auto")
    backbone.warm_up(forward.SIZE, backbone.batch_size)
    embedder = embedding.Embedder(backbone, bundle.for_backbone(backbone.weights_sha256).fusion)
    batcher = batching.Batcher(embedder.embed, backbone.batch_size, 0.0, streams)

    def one(kind: str) -> None:
        with objects.fetched(s3, "photos", kind, _MOST_BYTES) as found:
            batcher.embed(images.decode(found.data, size=forward.SIZE, max_pixels=10**8).pixels)

    with contextlib.closing(batcher), concurrent.futures.ThreadPoolExecutor(in_flight) as threads:
        for number in range(rounds):
            for place, (kind, name) in enumerate(names.items()):
                for _ in threads.map(one, [kind] * in_flight):
                    pass
                if number % max(1, rounds // _SHOWN) == 0 or number == rounds - 1:
                    yield row(name, (number * len(names) + place + 1) * in_flight)


def stack_rows(photos: int) -> Iterator[results.Row]:
    """Of the workers of an embedded stack, as photos go through it."""
    environment = {"DEDUP_BACKBONE_WEIGHTS": weights.UNTRAINED}
    with portal.embedded_stack(environment, pictures.jpegs(20, SMALL)) as there:
        part = max(1, photos // _SHOWN)
        for done in range(part, photos + 1, part):
            there.heap(part)
            for name, process in there.workers.items():
                yield row(name, done, process)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and keep the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=20_000, help="through the stack")
    parser.add_argument("--large", type=int, default=2_000, help="of 12 megapixels")
    parser.add_argument("--quick", action="store_true", help="100 and 48 photos")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, no CSV")
    options = parser.parse_args(arguments)
    photos, large = (100, 48) if options.quick else (options.photos, options.large)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="dedup-benchmark-"))
    folder.chmod(0o755)
    server = embedded_s3.EmbeddedS3(folder)
    try:
        server.start()
        rows = list(in_flight_rows(server.endpoint_url, large))
        server.stop()
        rows += stack_rows(photos)
    finally:
        server.stop()
        shutil.rmtree(folder)
    results.write("memory", rows, as_json=options.json, by=("what", "photos"), value="resident_mb")


if __name__ == "__main__":
    main()
