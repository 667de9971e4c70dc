"""Fits the fusion: what the levels and cells of pictures vary in, projected on the directions that vary most.

A channel that is high on every photo makes all photos alike, and the few directions that most photos vary in drown
those that tell two rooms apart. Whitening (PCA, each direction divided by its deviation) gives each direction the
same say; it is what makes plain cosines tell near-duplicates apart.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from core import embedding, errors, fusing
from core.learning import drawings, features

VALUES = {"stem": 32, "layer1": 96, "layer2": 160, "layer3": 192, "layer4": 256}
"""Directions kept of each level."""

CELL_VALUES = 64
"""Directions kept of each cell: 49 of them leave 864 of the 4,000 values that halfvec can index."""

_LEAST_STD = 0.1
"""Least deviation of a channel, as a share of the median one of its level's channels that vary at all."""
_LEAST_VARIANCE = 1e-4
"""Least variance of a direction, as a share of the greatest: from few pictures the rest is noise."""
_PICTURES = 400
"""Pictures of each set whose cells are looked at."""


@dataclasses.dataclass(frozen=True)
class Whitened:
    """A fusion, and the variance of each of its levels' values before they were whitened."""

    fusion: fusing.Fusion
    variance: fusing.Vectors


def fit(
    seen: features.Features,
    sets: Sequence[Sequence[pathlib.Path]],
    seed: int,
    progress: features.Progress | None = None,
) -> Whitened:
    """Fit to pictures of several sets.

    Args:
        sets: the pictures of each set; of the cells, as many of each set count.
        seed: of the draw of the pictures whose cells are looked at.
    """
    paths = list(dict.fromkeys(path for part in sets for path in part))
    levels = seen.levels(paths, progress)
    mean, std = levels.mean(axis=0), _deviations(levels)
    standard = (levels - mean) / std
    weight, bias = drawings.fit(standard, seen.few_colours(paths))
    drawn = dict(zip(paths, standard @ weight + bias > 0, strict=True))
    projections, variances = {}, []
    for level, place in fusing.slices().items():
        _, projections[level], variance = whiten(standard[:, place], VALUES[level])
        variances.append(variance)
    cell_mean, cell_projection, _ = whiten(_cells(seen, sets, drawn, seed), CELL_VALUES)
    fusion = fusing.Fusion(mean, std, projections, cell_mean, cell_projection, weight, bias)
    return Whitened(fusion, np.concatenate(variances))


def drawings_among(
    seen: features.Features, paths: Sequence[pathlib.Path], progress: features.Progress | None = None
) -> tuple[fusing.Vectors, npt.NDArray[np.bool_]]:
    """The pictures' (n, 3904) pooled levels, and (n,) which of them are drawings, told among themselves."""
    levels = seen.levels(paths, progress)
    standard = (levels - levels.mean(axis=0)) / _deviations(levels)
    weight, bias = drawings.fit(standard, seen.few_colours(paths))
    return levels, standard @ weight + bias > 0


def whiten(rows: fusing.Vectors, values: int) -> tuple[fusing.Vectors, fusing.Vectors, fusing.Vectors]:
    """PCA of (n, channels) rows.

    Returns:
        Their mean (channels,), the projection (channels, values) that gives each direction variance 1, rounded to
        float16, and the directions' variances (values,); all float32.
    """
    if len(rows) < 2:
        raise errors.ConfigurationError(f"Expected several train pictures to learn from, found {len(rows)}.")
    mean = rows.mean(axis=0)
    variance, axes = np.linalg.eigh(np.cov(rows - mean, rowvar=False).astype(np.float64))
    variance, axes = variance[::-1][:values], axes[:, ::-1][:, :values]
    # An axis has no sign of its own: fixed, so that the same pictures give the same digest.
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    variance = np.maximum(variance, max(_LEAST_VARIANCE * variance[0], 1e-8))
    projection = (axes / np.sqrt(variance)).astype(np.float16).astype(np.float32)
    return mean, projection, variance.astype(np.float32)


def _deviations(levels: fusing.Vectors) -> fusing.Vectors:
    std: fusing.Vectors = levels.std(axis=0)
    for place in fusing.slices().values():
        # A channel that hardly varies here may do so in an unseen house, and would then drown its level.
        living = std[place][std[place] > 0]
        std[place] = np.maximum(std[place], _LEAST_STD * float(np.median(living)) if len(living) else 1.0)
    return std


def _cells(
    seen: features.Features,
    sets: Sequence[Sequence[pathlib.Path]],
    drawn: dict[pathlib.Path, np.bool_],
    seed: int,
) -> fusing.Vectors:
    """(n, channels) of every second cell, since neighbours are alike."""
    random = np.random.default_rng(seed)
    chosen = [
        part[row]
        for part in sets
        for row in sorted(random.choice(len(part), min(len(part), _PICTURES), replace=False))
    ]
    rows = []
    for turns, is_drawing in ((1, False), (embedding.TURNS, True)):
        cells = seen.cells([path for path in chosen if drawn[path] == is_drawing], turns)
        rows.append(cells[:, ::2].reshape(-1, cells.shape[2]).astype(np.float32))
    return np.concatenate(rows)
