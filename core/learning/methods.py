"""Ways to score pairs, behind one interface, so that the bundle and every baseline are measured alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from core import bundle
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


class BundleMethod:
    """A model bundle as production applies it: its fusion, then its pair classifier."""

    def __init__(self, model_bundle: bundle.Bundle, seen: features.Features) -> None:
        self.bundle = model_bundle
        self._seen = seen

    @property
    def name(self) -> str:
        """The bundle's name."""
        return f"bundle {self.bundle.name}"

    def scores(self, pair_set: pairs.PairSet, progress: Progress | None = None) -> evaluation.Scores:
        """(n,) probabilities. Raises as `Method.scores`."""
        left, right = indices(pair_set)
        vectors = self._seen.fused(pair_set.pictures, self.bundle.fusion, progress)
        return self.bundle.classifier.score(vectors[left], vectors[right]).astype(np.float64)


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
