"""The raw forward pass, by batch size, and the micro-batcher on top of it: what batching single photos costs."""

from __future__ import annotations

import argparse
import concurrent.futures
import time
import warnings
from collections.abc import Callable

import numpy as np

from benchmarks import results
from core import bundle, embedding, weights
from workers import batching

SIZE = 224
BATCHES = (1, 4, 8, 16, 32)


def rate(call: Callable[[], object], photos: int, seconds: float) -> float:
    """Photos a second of repeated calls of `photos` photos each, after one call to warm up."""
    call()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        call()
        done += photos
    return done / (time.perf_counter() - started)


def main() -> None:
    """Measure, print, and keep the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds each")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, no CSV")
    options = parser.parse_args()
    seconds = 2.0 if options.quick else 10.0
    with warnings.catch_warnings():
        # The speed does not depend on what the weights know.
        warnings.simplefilter("ignore", RuntimeWarning)
        backbone = embedding.Backbone(weights.load(weights.UNTRAINED), embedding.choose_device("auto"))
    fusion = bundle.for_backbone(backbone.weights_sha256).fusion
    embedder = embedding.Embedder(backbone, fusion)
    pixels = np.random.default_rng(0).integers(0, 256, (max(BATCHES), 3, SIZE, SIZE), dtype=np.uint8)
    rows: list[dict[str, object]] = []
    for size in BATCHES:
        raw = rate(lambda size=size: embedder.embed(pixels[:size]), size, seconds)  # type: ignore[misc]
        with concurrent.futures.ThreadPoolExecutor(2 * size) as pool:
            batcher = batching.Batcher(embedder.embed, size, 0.03)
            singles = list(pixels[np.arange(2 * size) % len(pixels)])
            through = rate(
                lambda pool=pool, batcher=batcher, singles=singles: list(  # type: ignore[misc]
                    pool.map(batcher.embed, singles)
                ),
                2 * size,
                seconds,
            )
            batcher.close()
        rows.append(
            {
                "batch": size,
                "raw_photos_per_s": round(raw, 2),
                "batcher_photos_per_s": round(through, 2),
                "ratio": round(through / raw, 3),
            }
        )
    results.write("forward", rows, as_json=options.json)


if __name__ == "__main__":
    main()
