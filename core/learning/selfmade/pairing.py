"""Which pairs a self-made set holds: a photo's own edits as duplicates, mined different photos as negatives."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np

from core.learning.selfmade import mining, recipes

NEGATIVES_EACH = 1.4
"""Negatives for each positive, as in a bucket most pairs of a property are none."""

_MOST_EACH = 8
"""Positives of one photo at most, so that a small bucket does not become a set of a few photos over and over."""
_STYLES = 48
_SAME_STYLE = 0.4
_BASE = 0.25
_TRIES = 6


@dataclasses.dataclass(frozen=True)
class Sort:
    """What pairs a set is made of.

    `positives`: name, share and the kinds of both sides; `negatives`: name and share of ``near``, ``random`` and
    ``property``; `sides`: kinds of a negative's sides besides ``base``.
    """

    name: str
    positives: tuple[tuple[str, float, str, str], ...]
    negatives: tuple[tuple[str, float], ...]
    sides: tuple[str, ...]
    base: float = _BASE


OVERLAYS = Sort(
    "self-overlays",
    (("base-variant", 0.72, "base", "edit"), ("variant-variant", 0.28, "edit", "edit")),
    (("near", 0.4), ("random", 0.25), ("property", 0.35)),
    ("edit",),
)
ANGLES = Sort(
    "self-angles",
    (("views", 1.0, "left", "right"),),
    (("near", 0.35), ("random", 0.15), ("property", 0.5)),
    ("left", "right"),
    base=0.0,
)
PLANS = Sort(
    "self-plans",
    (
        ("rescanned", 0.4, "base", "rescan"),
        ("redrawn", 0.3, "base", "redraw"),
        ("rescanned-redrawn", 0.2, "rescan", "redraw"),
        ("redrawn-redrawn", 0.1, "redraw", "redraw"),
    ),
    (("near", 0.7), ("random", 0.3)),
    ("rescan", "redraw"),
)
"""Two floors of one home look alike, and so do two drawings of one floor: plans of one property are no negatives."""


@dataclasses.dataclass(frozen=True)
class Planned:
    """A pair to be made. `left` and `right` are of one photo exactly where it is a duplicate."""

    left: recipes.Recipe
    right: recipes.Recipe
    duplicate: bool
    kind: str


def planned(
    sort: Sort, photos: mining.Indices, mined: mining.Mined, count: int, split: str, seed: int
) -> list[Planned]:
    """The pairs of one split of a set.

    Args:
        photos: (n,) positions of the split's photos among all; `mined` knows them as 0…n−1.
        count: pairs, positives and negatives together; fewer where the photos do not give as many.
    """
    random = np.random.default_rng((seed, 2))
    order = random.permutation(len(photos))
    positives = min(round(count / (1 + NEGATIVES_EACH)), _MOST_EACH * len(photos))
    work = _Work(sort, photos, mined, split, random)
    result = [work.positive(int(order[k % len(order)]), k // len(order)) for k in range(positives)]
    seen: set[frozenset[str]] = set()
    for k in range(round(positives * NEGATIVES_EACH)):
        for _ in range(_TRIES):
            pair = work.negative(int(order[k % len(order)]))
            if pair is not None and (key := frozenset((pair.left.name, pair.right.name))) not in seen:
                seen.add(key)
                result.append(pair)
                break
    return result


class _Work:
    def __init__(
        self, sort: Sort, photos: mining.Indices, mined: mining.Mined, split: str, random: np.random.Generator
    ) -> None:
        self.sort, self.photos, self.mined, self.split, self.random = sort, photos, mined, split, random

    def positive(self, number: int, turn: int) -> Planned:
        """The pair of one photo's edits, different in each turn."""
        shares = np.array([share for _, share, _, _ in self.sort.positives])
        name, _, left, right = self.sort.positives[
            int(self.random.choice(len(shares), p=shares / shares.sum()))
        ]
        # Views come from one draw and share its number; edits of one kind need two.
        first = 2 * turn
        second = first + 1 if left == right else first
        one = self._recipe(number, left, first)
        style = one.style if self.random.random() < _SAME_STYLE and left != "base" else None
        return Planned(one, self._recipe(number, right, second, style), True, name)

    def negative(self, number: int) -> Planned | None:
        """A pair of this photo and a different one, either side edited, often in one style; None for none."""
        shares = np.array([share for _, share in self.sort.negatives])
        name = self.sort.negatives[int(self.random.choice(len(shares), p=shares / shares.sum()))][0]
        pool = self._pool(name, number)
        if not len(pool) and name != "random":
            # Properties of one photo have no other; a property alone has no look-alikes.
            name = "property" if name == "near" else "near"
            name = name if any(known == name for known, _ in self.sort.negatives) else "random"
            pool = self._pool(name, number)
        if not len(pool):
            return None
        one = self._side(number)
        style = one.style if self.random.random() < _SAME_STYLE and one.kind != "base" else None
        return Planned(one, self._side(int(self.random.choice(pool)), style), False, name)

    def _pool(self, name: str, number: int) -> mining.Indices:
        if name == "near":
            return self.mined.look_alikes[number]
        if name == "property":
            return self.mined.others[number]
        return np.flatnonzero(self.mined.apart[self.mined.owner[number], self.mined.owner])

    def _side(self, number: int, style: int | None = None) -> recipes.Recipe:
        if style is None and self.random.random() < self.sort.base:
            return self._recipe(number, "base", 0)
        kind = self.sort.sides[int(self.random.integers(len(self.sort.sides)))]
        return self._recipe(number, kind, 0, style)

    def _recipe(self, number: int, kind: str, variant: int, style: int | None = None) -> recipes.Recipe:
        photo = int(self.photos[number])
        if kind == "base":
            return recipes.Recipe(photo, kind, 0, 0, self.split)
        # Its own style unless told, so that positives and negatives share most of their pictures.
        own = zlib.crc32(f"{photo} {kind} {variant}".encode()) % _STYLES
        return recipes.Recipe(photo, kind, variant, own if style is None else style, self.split)
