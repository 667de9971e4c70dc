"""JPEG bytes in memory to fused embeddings, as the embed worker does it, against the raw forward pass of the same run.

``python -m benchmarks.pipeline [--device cuda] [--quick] [--json]``: drawn JPEGs of 1.1 to 2 megapixels, as many
threads as photos are in flight, the micro-batcher and its streams, all by default settings. Beside it the two limits:
the forward pass alone with the same streams and batch, and decoding alone on all cores. `ratio` is to the former,
`cpu_ratio` the same by processor time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import os

import numpy as np

from benchmarks import forward, pictures, results, speed
from core import bundle, embedding, images
from workers import batching

SIZES = ((1280, 853), (1440, 1080), (1632, 1224))


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and keep the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, no CSV")
    options = parser.parse_args(arguments)
    device = embedding.choose_device(options.device)
    on_gpu = device.startswith("cuda")
    streams = embedding.share_cores(None, device)
    backbone = forward.backbone(device, "auto", "auto")
    batch = backbone.batch_size
    backbone.warm_up(forward.SIZE, batch)
    embedder = embedding.Embedder(backbone, bundle.for_backbone(backbone.weights_sha256).fusion)
    coded = [data for size in SIZES for data in pictures.jpegs(4 if options.quick else 12, size)]
    decode = functools.partial(images.decode, size=forward.SIZE, max_pixels=10**8)
    pixels = np.stack([decode(data).pixels for data in coded])
    # A drawing takes four passes more, and drawn rooms may pass for drawings.
    photos = [data for data, drawn in zip(coded, _drawings(embedder, pixels), strict=True) if not drawn]
    if len(photos) < len(coded) // 2:
        raise RuntimeError(f"{len(coded) - len(photos)} of {len(coded)} pictures are taken for drawings")
    count = (1024 if on_gpu else 32) * (1 if options.quick else 4)
    many = [photos[number % len(photos)] for number in range(count)]
    one = np.ascontiguousarray(pixels[np.arange(batch) % len(pixels)])
    in_flight = embedding.photos_in_flight(None, device)
    cores = os.cpu_count() or 1
    batcher = batching.Batcher(embedder.embed, batch, 0.0, streams)
    with (
        concurrent.futures.ThreadPoolExecutor(in_flight) as threads,
        concurrent.futures.ThreadPoolExecutor(cores) as decoders,
    ):

        def raw() -> int:
            times = max(streams, count // batch)
            speed.in_threads(lambda: forward.once(backbone, one), streams, times)
            return times * batch

        def whole() -> int:
            return len(list(threads.map(lambda data: batcher.embed(decode(data).pixels), many)))

        def decoding() -> int:
            return len(list(decoders.map(decode, many)))

        works = {"raw forward": raw, "JPEG to embedding": whole, "decoding": decoding}
        found = speed.compare(works, 3 if options.quick else 9)
    batcher.close()
    limit = found["raw forward"]
    rows = [
        {
            "what": name,
            "device_kind": device,
            "form": backbone.form,
            "precision": backbone.precision,
            "streams": streams,
            "batch": batch,
            "in_flight": in_flight,
            **each.row(),
            "ratio": round(each.photos_per_s / limit.photos_per_s, 3),
            "cpu_ratio": round(limit.cpu_ms_per_photo / each.cpu_ms_per_photo, 3),
        }
        for name, each in found.items()
    ]
    name = "pipeline-gpu" if on_gpu else "pipeline"
    results.write(name, rows, as_json=options.json)
    if not options.json:
        results.plot(name, list(found), [each.photos_per_s for each in found.values()], "photos a second")


def _drawings(embedder: embedding.Embedder, pixels: images.Pixels) -> list[bool]:
    return [bool(embedder.embed(picture[None])[0, -1] > 0) for picture in pixels]


if __name__ == "__main__":
    main()
