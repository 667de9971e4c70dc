"""Whether levels should be laid side by side: the same levels averaged, summed, alone, and each left out.

Levels have different numbers of channels, so they cannot be averaged as they are. Each is first carried to a common
width by a fixed random matrix with orthonormal columns (or rows, where the level is the wider one). At 2,048, the
width of the widest level, that loses nothing of any single level, so what is lost is lost by averaging; at 256 the
vector is as short as averaging is done for. *Averaged* takes levels of norm 1, *summed* takes them as they are
after standardising, so that a level counts by its number of channels; a constant factor changes neither a cosine
nor the network, which standardises its inputs. Every row gets the same decision network, trained the same way.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

from core import embedding, errors
from core.learning import baselines, comparison, evaluation, fitting, methods, network, pairs, training

Combine = Literal["concatenated", "averaged", "summed"]

_WIDTHS = {256: "layer1", 512: "layer2", 1024: "layer3", 2048: "layer4"}
"""The level as which a vector of that width is passed to the decision network, which knows dims by level."""


@dataclasses.dataclass(frozen=True)
class Representation:
    """How levels become one vector; `width` is that of the averaged or summed one."""

    name: str
    levels: tuple[str, ...]
    combine: Combine = "concatenated"
    width: int = 2048

    def fusion(self, every: embedding.Fusion) -> embedding.Fusion:
        """The parts that the decision network sees, out of the fusion of all levels."""
        if self.combine == "concatenated":
            mean, std = (
                methods.level_columns(values[None], self.levels)[0] for values in (every.mean, every.std)
            )
            return embedding.Fusion(self.levels, mean, std)
        nothing = np.zeros(self.width, np.float32)
        return embedding.Fusion((_WIDTHS[self.width],), nothing, nothing + 1)

    def vectors(self, raw: embedding.Vectors, every: embedding.Fusion) -> embedding.Vectors:
        """(n, dims) of norm 1 out of (n, 3904) pooled levels."""
        columns = methods.level_columns(raw, self.levels)
        parts = dataclasses.replace(self, combine="concatenated").fusion(every)
        if self.combine == "concatenated":
            return parts.fuse(columns)
        standard = (columns - parts.mean) / parts.std
        total = np.zeros((len(raw), self.width), np.float32)
        for level, place in parts.slices.items():
            values = standard[:, place]
            if self.combine == "averaged":
                values = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
            total += values @ projection(level, self.width)
        result: embedding.Vectors = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
        return result


ALL = tuple(embedding.LEVELS)
REPRESENTATIONS = (
    Representation("concatenated", ALL),
    Representation("averaged, 2,048 wide", ALL, "averaged"),
    Representation("averaged, 256 wide", ALL, "averaged", 256),
    Representation("summed, 2,048 wide", ALL, "summed"),
    *(Representation(f"{level} alone", (level,)) for level in ALL),
    *(Representation(f"without {level}", tuple(other for other in ALL if other != level)) for level in ALL),
)


@functools.cache
def projection(level: str, width: int) -> embedding.Vectors:
    """(channels, width) float32 with orthonormal rows, or columns where the level has more channels than that."""
    channels = embedding.LEVELS[level]
    if channels == width:
        # The others are turned at random against it, so turning it too would change nothing.
        return np.eye(width, dtype=np.float32)
    random = np.random.default_rng([channels, width])
    basis, _ = np.linalg.qr(random.normal(size=(max(channels, width), min(channels, width))))
    return np.ascontiguousarray(basis if channels >= width else basis.T, dtype=np.float32)


class Cosine:
    """Plain cosine of a representation."""

    def __init__(
        self, representation: Representation, pooled: methods.Features, every: embedding.Fusion
    ) -> None:
        self.name = f"{representation.name}, cosine"
        self._representation = representation
        self._pooled = pooled
        self._every = every

    def scores(self, pair_set: pairs.PairSet, progress: methods.Progress | None = None) -> evaluation.Scores:
        """(n,) in −1…1."""
        raw = self._pooled.of(pair_set.pictures, progress)
        return baselines.cosines(self._representation.vectors(raw, self._every), pair_set)


class Trained:
    """The decision network over a representation."""

    def __init__(
        self,
        representation: Representation,
        pooled: methods.Features,
        every: embedding.Fusion,
        model: network.Network,
    ) -> None:
        self.name = f"{representation.name}, network"
        self._representation = representation
        self._pooled = pooled
        self._every = every
        self._model = model

    def scores(self, pair_set: pairs.PairSet, progress: methods.Progress | None = None) -> evaluation.Scores:
        """(n,) logits."""
        raw = self._pooled.of(pair_set.pictures, progress)
        left, right = methods.indices(pair_set)
        table = fitting.Table(np.array(left, np.int64), np.array(right, np.int64), methods.labels(pair_set))
        return fitting.logits_of(self._model, self._representation.vectors(raw, self._every), table)


def run(
    sets: Sequence[pairs.PairSet],
    tasks: Sequence[comparison.Task],
    pooled: methods.Features,
    *,
    recipe: fitting.Recipe | None = None,
    seed: int = 0,
    representations: Sequence[Representation] = REPRESENTATIONS,
    progress: comparison.MethodProgress | None = None,
) -> list[comparison.Result]:
    """Train and measure every representation, by the decision network and by plain cosine.

    Args:
        sets: with train and val pairs; only the labelled pairs are learned from, the same ones for each row.
        tasks: to measure on; thresholds are chosen on their val pairs.
        seed: of the networks.

    Raises:
        ConfigurationError: a set has no train or no val pairs of both labels.
    """
    learn, watch = (_split(sets, split) for split in ("train", "val"))
    pictures = list(dict.fromkeys(path for part in (*learn, *watch) for path in part.pictures))
    rows = {path: row for row, path in enumerate(pictures)}
    raw = pooled.of(
        pictures, None if progress is None else lambda done, all_: progress("features", done, all_)
    )
    every = training.fusion_of(raw[: len({path for part in learn for path in part.pictures})])
    results = []
    for done, representation in enumerate(representations):
        if progress is not None:
            progress("ablation", done, len(representations))
        model = fitting.fit(
            representation.vectors(raw, every),
            representation.fusion(every),
            _table(learn, rows),
            _table(watch, rows),
            recipe or fitting.Recipe(),
            seed,
        )
        results.append(comparison.measure(Trained(representation, pooled, every, model), tasks))
        results.append(comparison.measure(Cosine(representation, pooled, every), tasks))
    if progress is not None:
        progress("ablation", len(representations), len(representations))
    return results


def _split(sets: Sequence[pairs.PairSet], split: str) -> list[pairs.PairSet]:
    parts = [pair_set.of(split) for pair_set in sets]
    for part in parts:
        if {pair.duplicate for pair in part.pairs} != {True, False}:
            raise errors.ConfigurationError(
                f"Pair set {part.name}: the ablation needs {split} pairs of both labels, found {len(part.pairs)} "
                f"pairs; put pairs*.csv with {split} rows into the same folder."
            )
    return parts


def _table(parts: Sequence[pairs.PairSet], rows: dict[pathlib.Path, int]) -> fitting.Table:
    found = [(part.images, pair) for part in parts for pair in part.pairs]
    return fitting.Table(
        np.array([rows[images / pair.a] for images, pair in found], np.int64),
        np.array([rows[images / pair.b] for images, pair in found], np.int64),
        np.array([pair.duplicate for _, pair in found], np.bool_),
    )
