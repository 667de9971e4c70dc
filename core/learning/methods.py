"""Ways to score pairs, behind one interface, so that the bundle and every baseline are measured alike."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from core import bundle, embedding
from core.learning import evaluation, features, pairs

Progress = Callable[[int, int], None]
"""Called with the steps done and the steps in all."""


class Method(Protocol):
    """Something that says how alike the two pictures of a pair are."""

    @property
    def name(self) -> str:
        """As tables and plots show it."""
        ...

    def scores(self, pair_set: pairs.PairSet, progress: Progress | None = None) -> evaluation.Scores:
        """(n,) scores of the pairs in their order, higher for what is likelier a duplicate.

        Raises:
            ConfigurationError: a picture cannot be read or decoded (with its path).
        """
        ...


class Features:
    """Pooled levels of pictures, kept in memory too: several methods ask for the same ones.

    Args:
        cache: folder that keeps them between runs; nothing is kept without one.
    """

    def __init__(
        self, backbone: embedding.Backbone, input_size: int, cache: pathlib.Path | None = None
    ) -> None:
        self._backbone = backbone
        self._input_size = input_size
        self._cache = cache
        self._known: dict[pathlib.Path, embedding.Vectors] = {}

    def of(self, paths: Sequence[pathlib.Path], progress: Progress | None = None) -> embedding.Vectors:
        """(n, 3904) float32, the global averages of all levels side by side. Raises as `features.pooled`."""
        new = list(dict.fromkeys(path for path in paths if path not in self._known))
        if new:
            values = features.pooled(
                new, self._backbone, input_size=self._input_size, cache=self._cache, progress=progress
            )
            self._known.update(zip(new, values, strict=True))
        if not paths:
            return np.empty((0, features.DIMS), dtype=np.float32)
        return np.stack([self._known[path] for path in paths])


class BundleMethod:
    """A model bundle as production applies it: its fusion, then its pair classifier."""

    def __init__(self, model_bundle: bundle.Bundle, pooled: Features) -> None:
        self.bundle = model_bundle
        self._pooled = pooled

    @property
    def name(self) -> str:
        """The bundle's name."""
        return f"bundle {self.bundle.name}"

    def scores(self, pair_set: pairs.PairSet, progress: Progress | None = None) -> evaluation.Scores:
        """(n,) probabilities. Raises as `Method.scores`."""
        left, right = indices(pair_set)
        raw = level_columns(self._pooled.of(pair_set.pictures, progress), self.bundle.fusion.levels)
        vectors = self.bundle.fusion.fuse(raw)
        return self.bundle.classifier.score(vectors[left], vectors[right]).astype(np.float64)


def level_columns(raw: embedding.Vectors, levels: Sequence[str]) -> embedding.Vectors:
    """The columns of some levels, in the order of `levels`, out of the (n, 3904) of all of them."""
    every = np.zeros(features.DIMS, np.float32)
    slices = embedding.Fusion(tuple(embedding.LEVELS), every, every).slices
    return np.concatenate([raw[:, slices[level]] for level in levels], axis=1)


def indices(pair_set: pairs.PairSet) -> tuple[list[int], list[int]]:
    """Places of each pair's pictures in `pair_set.pictures`."""
    rows = {path: row for row, path in enumerate(pair_set.pictures)}
    return (
        [rows[pair_set.images / pair.a] for pair in pair_set.pairs],
        [rows[pair_set.images / pair.b] for pair in pair_set.pairs],
    )


def labels(pair_set: pairs.PairSet) -> evaluation.Labels:
    """(n,) bool, true for duplicates."""
    return np.array([pair.duplicate for pair in pair_set.pairs], dtype=np.bool_)
