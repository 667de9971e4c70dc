"""From pair sets to the described pairs that a decision network learns from."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from core import classifier, errors, fusing
from core.learning import fitting, pairs

SPLITS = ("train", "val")
_CHUNK = 1024


@dataclasses.dataclass(frozen=True)
class Table:
    """n pairs of pictures.

    `left` and `right` are rows of `paths`; `houses` (n, 2) the photos' properties as numbers; `part` the number of
    each pair's set, −1 for those made here; `val` whether it stands in val.
    """

    paths: tuple[pathlib.Path, ...]
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    duplicate: npt.NDArray[np.bool_]
    houses: npt.NDArray[np.int64]
    part: npt.NDArray[np.int64]
    val: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.left)


def gather(pair_sets: Sequence[pairs.PairSet], recipe: fitting.Recipe, seed: int) -> Table:
    """The train and val pairs of the sets, and the pairs that need no label. Test pairs are not read.

    Raises:
        ConfigurationError: a set has not both labels among its train and val pairs.
    """
    rows: dict[pathlib.Path, int] = {}
    houses: dict[str, int] = {}
    found: list[tuple[int, int, bool, int, int, int, bool]] = []
    for number, pair_set in enumerate(pair_sets):
        _check(pair_set)
        for split in SPLITS:
            for pair in pair_set.of(split).pairs:
                left, right = (
                    rows.setdefault(pair_set.images / name, len(rows)) for name in (pair.a, pair.b)
                )
                first, second = (
                    houses.setdefault(name, len(houses)) for name in (pair.property_a, pair.property_b)
                )
                found.append((left, right, pair.duplicate, first, second, number, split == "val"))
    found += _unlabelled(found, recipe, np.random.default_rng(seed))
    columns = [np.array(column) for column in zip(*found, strict=True)]
    lefts, rights, labels, *both, part, val = columns
    return Table(tuple(rows), lefts, rights, labels, np.stack(both, axis=1), part, val)


def describe(table: Table, vectors: fusing.Vectors, inputs: classifier.Inputs) -> fitting.Examples:
    """The pairs as the network sees them; the sets count alike, however many pairs each has.

    Args:
        vectors: (pictures, dims) fused embeddings of `table.paths`.
    """
    columns = inputs_of(inputs, vectors, table.left, table.right)
    return fitting.Examples(columns, table.duplicate, counts(table), table.houses)


def inputs_of(
    inputs: classifier.Inputs,
    vectors: fusing.Vectors,
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
) -> fusing.Vectors:
    """(n, inputs) of many pairs, given as rows of `vectors`, a part of them at a time."""
    columns = [
        inputs.of(vectors[left[start : start + _CHUNK]], vectors[right[start : start + _CHUNK]])
        for start in range(0, len(left), _CHUNK)
    ]
    return np.concatenate(columns) if columns else np.empty((0, len(inputs.names)), np.float32)


def counts(table: Table) -> npt.NDArray[np.float32]:
    """(n,) how much each pair counts: the sets alike, the pairs made here as the average one."""
    result = np.ones(len(table), np.float32)
    labelled = int((table.part >= 0).sum())
    parts = np.unique(table.part[table.part >= 0])
    for number in parts:
        here = table.part == number
        result[here] = labelled / len(parts) / here.sum()
    return result


def _unlabelled(
    found: Sequence[tuple[int, int, bool, int, int, int, bool]],
    recipe: fitting.Recipe,
    random: np.random.Generator,
) -> list[tuple[int, int, bool, int, int, int, bool]]:
    """A picture with itself, and pictures of two sets."""
    pictures: dict[int, dict[int, int]] = {}
    for left, right, _, first, second, number, _ in found:
        pictures.setdefault(number, {}).update({left: first, right: second})
    sets = [list(part.items()) for part in pictures.values()]
    houses = [set(part.values()) for part in pictures.values()]

    def draw(number: int) -> tuple[int, int]:
        return sets[number][int(random.integers(len(sets[number])))]

    made = []
    for _ in range(round(recipe.identical * len(found))):
        row, house = draw(int(random.integers(len(sets))))
        made.append((row, row, True, house, house, -1, False))
    for _ in range(round(recipe.strangers * len(found)) if len(sets) > 1 else 0):
        one, other = random.choice(len(sets), 2, replace=False)
        (left, first), (right, second) = draw(one), draw(other)
        # Sets that share a house, as those made of one bucket's photos do, may show the same.
        if houses[one].isdisjoint(houses[other]):
            made.append((left, right, False, first, second, -1, False))
    return made


def _check(pair_set: pairs.PairSet) -> None:
    labels = [pair.duplicate for split in SPLITS for pair in pair_set.of(split).pairs]
    if set(labels) != {True, False}:
        raise errors.ConfigurationError(
            f"Pair set {pair_set.name}: expected pairs of both labels in the splits train and val, found "
            f"{len(labels)} pairs, {sum(labels)} of them duplicates."
        )
