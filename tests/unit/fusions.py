"""Small fusions and decision networks with random numbers, and what a backbone might have given for them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from core import classifier, fusing

EVERY = sum(fusing.LEVELS.values())
CELL = fusing.LEVELS[fusing.CELL_LEVEL]
LEVELS = {"stem": 8, "layer1": 6}


def fusion(levels: dict[str, int] | None = None, cell: int = 4, seed: int = 5) -> fusing.Fusion:
    """Calls those pictures drawings whose first channel is far above its mean."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> fusing.Vectors:
        # Of a precision that float16 keeps, as trained ones are.
        return random.normal(size=shape).astype(np.float16).astype(np.float32)

    weight = np.zeros(EVERY, np.float32)
    weight[0] = 1.0
    return fusing.Fusion(
        mean=normal(EVERY),
        std=random.uniform(0.5, 2, EVERY).astype(np.float32),
        projections={level: normal(fusing.LEVELS[level], size) for level, size in (levels or LEVELS).items()},
        cell_mean=normal(CELL),
        cell_projection=normal(CELL, cell),
        drawing_weight=weight,
        drawing_bias=np.array([-20.0], np.float32),
    )


def pooled(count: int, seed: int = 3) -> fusing.Pooled:
    """What a backbone might give of so many pictures."""
    random = np.random.default_rng(seed)
    return fusing.Pooled(
        random.normal(3, 2, (count, EVERY)).astype(np.float32),
        random.normal(1, 1, (count, fusing.CELLS, CELL)).astype(np.float16),
    )


def vectors(count: int, seed: int) -> fusing.Vectors:
    """(count, dims) fused embeddings, every third one of a drawing."""
    return fusion().fuse(pooled(count, seed), np.arange(count) % 3 == 0)


def head(slope: float = 1.5, offset: float = -0.25, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """The tensors of a pair classifier for `fusion()` with its levels."""
    random = np.random.default_rng(seed)
    inputs = len(classifier.input_names(LEVELS))

    def normal(*shape: int) -> npt.NDArray[np.float32]:
        return random.normal(size=shape).astype(np.float32)

    return {
        "variance": random.uniform(0.5, 3, sum(LEVELS.values())).astype(np.float32),
        "input.mean": normal(inputs),
        "input.std": random.uniform(0.1, 0.5, inputs).astype(np.float32),
        "hidden.weight": normal(8, inputs),
        "hidden.bias": normal(8),
        "output.weight": normal(1, 8),
        "output.bias": normal(1),
        "calibration": np.array([slope, offset], np.float32),
    }
