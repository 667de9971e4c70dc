"""`dedup`, except that a forward pass takes a fixed time and no processor: for benchmarks.scaling.

So it is seen whether what is around the forward pass scales, even on a machine with fewer cores than workers.
"""

from __future__ import annotations

import os
import pathlib
import time

import numpy as np

from core import embedding, fusing, images
from workers import cli

SECONDS = "SCALING_BENCHMARK_SECONDS"
"""Environment variable: how long a forward pass takes, however many photos are in it."""

GATE = "SCALING_BENCHMARK_GATE"
"""Environment variable: path of a file before whose appearance no forward pass ends."""

_LOOK_SECONDS = 0.005


def main() -> None:
    """Run the command line with such a forward pass."""
    seconds, gate = float(os.environ[SECONDS]), pathlib.Path(os.environ[GATE])
    known: list[fusing.Vectors] = []

    def embed(self: embedding.Embedder, pixels: images.Pixels) -> fusing.Vectors:
        if not known:
            # The one that the network gives, for a photo that is not empty: what follows must find it usable.
            known.append(real(self, pixels[:1])[0])
        while not gate.exists():
            time.sleep(_LOOK_SECONDS)
        time.sleep(seconds)
        # Each photo is the duplicate of all others of its property.
        return np.repeat(known[0][None], len(pixels), axis=0)

    real = embedding.Embedder.embed
    embedding.Embedder.embed = embed  # type: ignore[method-assign]
    cli.main()


if __name__ == "__main__":
    main()
