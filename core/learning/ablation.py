"""What each part of the decision is worth: levels side by side or averaged, alone, left out, with cells and without.

Every row gets the same decision network, fitted the same way to the same pairs, and sees a part of what a pair is
described by. Levels have different numbers of channels, so to be averaged each is first carried to a common width by
a fixed random matrix with orthonormal columns (or rows, where the level is the wider one). At 2,048, the width of
the widest level, that loses nothing of any single level, so what is lost is lost by averaging; at 256 the vector is
as short as averaging is done for. *Averaged* takes levels of norm 1, *summed* takes them as they are after
standardising, so that a level counts by its number of channels. Like every level, their average is compared in the
plain and in the whitened metric (256 directions of it, as many as of the widest level).
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

from core import classifier, correspondence, embedding, fusing
from core.learning import (
    comparison,
    evaluation,
    examples,
    features,
    fitting,
    methods,
    pairs,
    training,
    whitening,
)

_RECIPE = fitting.Recipe()


@dataclasses.dataclass(frozen=True)
class Variant:
    """A part of what describes a pair: `columns` of `classifier.input_names`, or levels combined into one vector."""

    name: str
    columns: tuple[str, ...] = ()
    combine: Literal["averaged", "summed"] | None = None
    width: int = 2048
    turned: bool = True


@dataclasses.dataclass(frozen=True)
class Ablated:
    """What a variant reached: on the measured pairs, and (set → F1) on houses left out of train and val."""

    result: comparison.Result
    houses_left_out: dict[str, float]


def _of(*levels: str, metrics: Sequence[str] = ("whitened", "plain")) -> tuple[str, ...]:
    return (*(f"{level}_{metric}" for level in levels for metric in metrics), "drawings")


_ALL = tuple(fusing.LEVELS)
_EVERY = classifier.input_names(_ALL)
VARIANTS = (
    Variant("levels and cells", _EVERY),
    Variant("levels and cells, plans not turned", _EVERY, turned=False),
    Variant("levels and cells, not told of drawings", _EVERY[:-1]),
    Variant("levels and cells, no votes", tuple(name for name in _EVERY if not name.startswith("displaced"))),
    Variant("levels and cells, no mirrored", tuple(name for name in _EVERY if not name.endswith("mirrored"))),
    Variant("cells alone", (*correspondence.NAMES, "drawings")),
    Variant("levels, concatenated", _of(*_ALL)),
    Variant("levels, whitened only", _of(*_ALL, metrics=("whitened",))),
    Variant("levels, plain only", _of(*_ALL, metrics=("plain",))),
    Variant("levels, averaged, 2,048 wide", combine="averaged"),
    Variant("levels, averaged, 256 wide", combine="averaged", width=256),
    Variant("levels, summed, 2,048 wide", combine="summed"),
    *(Variant(f"{level} alone", _of(level)) for level in _ALL),
    *(
        Variant(f"levels without {level}", _of(*(other for other in _ALL if other != level)))
        for level in _ALL
    ),
)


class Describer:
    """Describes pairs for any variant, from one fusion fitted to the train pictures."""

    def __init__(self, seen: features.Features, sets: Sequence[pairs.PairSet], seed: int) -> None:
        self._seen = seen
        self._train = [training.learned(part) for part in sets]
        self._whitened = whitening.fit(seen, self._train, seed)
        self._inputs = classifier.Inputs(self._whitened.fusion.layout, self._whitened.variance)
        self._kept: dict[tuple[object, ...], fusing.Vectors] = {}

    def of(
        self, variant: Variant, paths: tuple[pathlib.Path, ...], left: Sequence[int], right: Sequence[int]
    ) -> fusing.Vectors:
        """(n, F) float32 of pairs given as rows of `paths`."""
        if variant.combine is not None:
            return self._combined(variant, paths, left, right)
        key = (variant.turned, paths, tuple(left), tuple(right))
        if key not in self._kept:
            fusion = self._whitened.fusion
            if not variant.turned:
                fusion = dataclasses.replace(
                    fusion,
                    drawing_weight=np.zeros_like(fusion.drawing_weight),
                    drawing_bias=np.full_like(fusion.drawing_bias, -1.0),
                )
            vectors = self._seen.fused(paths, fusion)
            drawn = self._whitened.fusion.drawings(self._seen.levels(paths))
            vectors[:, fusion.layout.drawing] = np.where(drawn, 1.0, -1.0)
            self._kept[key] = examples.inputs_of(self._inputs, vectors, np.array(left), np.array(right))
        chosen = [self._inputs.names.index(name) for name in variant.columns]
        return self._kept[key][:, chosen]

    def _combined(
        self, variant: Variant, paths: tuple[pathlib.Path, ...], left: Sequence[int], right: Sequence[int]
    ) -> fusing.Vectors:
        mean, projection, _ = self._metric(variant)
        vectors, drawn = self._one_vector(variant, paths)
        white = fusing.unit((vectors - mean) @ projection)
        plain = fusing.unit(vectors)
        columns = [
            (white[left] * white[right]).sum(axis=1),
            (plain[left] * plain[right]).sum(axis=1),
            (drawn[left].astype(np.float32) + drawn[right]) / 2,
        ]
        return np.stack(columns, axis=1).astype(np.float32)

    @functools.cache  # noqa: B019 - lives as long as one run of the ablation
    def _metric(self, variant: Variant) -> tuple[fusing.Vectors, fusing.Vectors, fusing.Vectors]:
        train = tuple(dict.fromkeys(path for part in self._train for path in part))
        return whitening.whiten(self._one_vector(variant, train)[0], max(whitening.VALUES.values()))

    def _one_vector(
        self, variant: Variant, paths: tuple[pathlib.Path, ...]
    ) -> tuple[fusing.Vectors, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
        fusion = self._whitened.fusion
        levels = self._seen.levels(paths)
        drawn = fusion.drawings(levels)
        if drawn.any():
            turned = [path for path, is_one in zip(paths, drawn, strict=True) if is_one]
            levels[drawn] = self._seen.levels(turned, turns=embedding.TURNS)
        standard = (levels - fusion.mean) / fusion.std
        total = np.zeros((len(paths), variant.width), np.float32)
        for level, place in fusing.slices().items():
            values = standard[:, place]
            if variant.combine == "averaged":
                values = fusing.unit(values)
            total += values @ projection(level, variant.width)
        return total, drawn


class Method:
    """A variant's network, as a way to score pairs."""

    def __init__(self, variant: Variant, describer: Describer, network: fitting.Network) -> None:
        self.name = variant.name
        self._variant = variant
        self._describer = describer
        self._network = network

    def scores(self, pair_set: pairs.PairSet, progress: methods.Progress | None = None) -> evaluation.Scores:
        """(n,) logits."""
        del progress
        left, right = methods.indices(pair_set)
        return self._network.logits(self._describer.of(self._variant, pair_set.pictures, left, right))


@functools.cache
def projection(level: str, width: int) -> fusing.Vectors:
    """(channels, width) float32 with orthonormal rows, or columns where the level has more channels than that."""
    channels = fusing.LEVELS[level]
    if channels == width:
        # The others are turned at random against it, so turning it too would change nothing.
        return np.eye(width, dtype=np.float32)
    random = np.random.default_rng([channels, width])
    basis, _ = np.linalg.qr(random.normal(size=(max(channels, width), min(channels, width))))
    return np.ascontiguousarray(basis if channels >= width else basis.T, dtype=np.float32)


def run(
    sets: Sequence[pairs.PairSet],
    tasks: Sequence[comparison.Task],
    seen: features.Features,
    *,
    recipe: fitting.Recipe = _RECIPE,
    seed: int = 0,
    variants: Sequence[Variant] = VARIANTS,
    progress: comparison.MethodProgress | None = None,
) -> list[Ablated]:
    """Fit and measure every variant; thresholds are chosen on the train and val pairs of houses left out.

    Args:
        sets: with train and val pairs.
        tasks: to measure on, one for each set.
        seed: of the networks.

    Raises:
        ConfigurationError: a set has not both labels among its train and val pairs.
    """
    table = examples.gather(sets, recipe, seed)
    describer = Describer(seen, sets, seed)
    results = []
    for done, variant in enumerate(variants):
        if progress is not None:
            progress("ablation", done, len(variants))
        inputs = describer.of(variant, table.paths, table.left.tolist(), table.right.tolist())
        described = fitting.Examples(inputs, table.duplicate, examples.counts(table), table.houses)
        network, logits = fitting.leave_houses_out(described, recipe, seed)
        held = {
            task.name: (logits[table.part == number], table.duplicate[table.part == number])
            for number, task in enumerate(tasks)
        }
        decision = comparison.choose(held)
        results.append(
            Ablated(
                comparison.measure(Method(variant, describer, network), tasks, decision),
                {name: evaluation.f1_at(*part, decision.common) for name, part in held.items()},
            )
        )
    if progress is not None:
        progress("ablation", len(variants), len(variants))
    return results
