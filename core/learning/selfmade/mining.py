"""Which pictures may stand for different ones, when nobody said which are duplicates.

A bucket holds duplicates that nobody labelled, within a property and across properties that list the same home. What
looks too much alike is therefore never taken as a negative. Likeness is the cosine of the standardised pooled levels.

Within a property, a pair counts as two different pictures below the 75 % quantile of pairs of *different*
properties, which can hardly be duplicates. Of 40 properties with known duplicates it keeps 76 % of the different
pictures and 1.7 % of the duplicates, so that 0.4 % of these negatives are wrong; the 90 % quantile keeps 93 % and
9 %, so that 1.6 % are. Of virtual tours it keeps 39 % of the views of different rooms, 0.5 % of the views from one
place and 11 % of those from two places of a room, against 60, 1.3 and 34 %
(``python -m benchmarks.selfmade_negatives``).

Across properties, `SAME_PHOTO` (`SAME_PLAN` for drawings) and more counts as the same picture, listed twice. A mere
copy is near 1, one in twenty photos has a true look-alike above 0.6, which is lost, and heavily edited copies may lie
below. Properties that share a picture are never paired at all, as their other pictures are likely of the same rooms.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

SAME_PHOTO = 0.6
SAME_PLAN = 0.85
DIFFERENT_QUANTILE = 0.75

_SAMPLED = 6_000
_STEP = 1_000
_LOOK_ALIKES = 10

Indices = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Mined:
    """What may be paired as negatives with each picture, by its position.

    `look_alikes`: of other properties, the likest first; `others`: of the same property, different enough;
    `apart`: (properties, properties), whether two properties share no picture; `owner`: (n,) property of each.
    """

    look_alikes: tuple[Indices, ...]
    others: tuple[Indices, ...]
    apart: npt.NDArray[np.bool_]
    owner: Indices


def units(levels: Vectors) -> Vectors:
    """(n, dims) directions of the standardised `levels`, whose dot products are cosines."""
    deviation = levels.std(axis=0)
    varying = deviation > 1e-6
    standard = (levels[:, varying] - levels[:, varying].mean(axis=0)) / deviation[varying]
    norms = np.linalg.norm(standard, axis=1, keepdims=True)
    result: Vectors = (standard / np.maximum(norms, 1e-12)).astype(np.float32)
    return result


def different(directions: Vectors, owner: Indices, seed: int, quantile: float = DIFFERENT_QUANTILE) -> float:
    """The cosine below which two pictures of a property are different ones; no pair is where all have one owner."""
    random = np.random.default_rng((seed, 1))
    left, right = random.integers(0, len(directions), (2, _SAMPLED))
    chosen = owner[left] != owner[right]
    left, right = left[chosen], right[chosen]
    if not len(left):
        return -np.inf
    steps = range(0, len(left), _STEP)
    parts = [
        np.einsum("nd,nd->n", directions[left[k : k + _STEP]], directions[right[k : k + _STEP]])
        for k in steps
    ]
    return float(np.quantile(np.concatenate(parts), quantile))


def mine(directions: Vectors, owner: Indices, *, same_picture: float, limit: float) -> Mined:
    """Find negatives among pictures.

    Args:
        directions: (n, dims) of `units`.
        owner: (n,) number of each picture's property.
        same_picture: cosine from which pictures of two properties count as one picture.
        limit: of `different`.
    """
    numbers = np.unique(owner, return_inverse=True)[1]
    alike = directions @ directions.T
    elsewhere = numbers[:, None] != numbers[None, :]
    count = int(numbers.max()) + 1
    apart = ~np.eye(count, dtype=np.bool_)
    left, right = (elsewhere & (alike >= same_picture)).nonzero()
    apart[numbers[left], numbers[right]] = False
    near, others = [], []
    for number, row in enumerate(alike):
        allowed = np.flatnonzero(apart[numbers[number], numbers])
        near.append(allowed[np.argsort(-row[allowed], kind="stable")[:_LOOK_ALIKES]])
        related = numbers == numbers[number]
        related[number] = False
        others.append(np.flatnonzero(related & (row < limit)))
    return Mined(tuple(near), tuple(others), apart, numbers)
