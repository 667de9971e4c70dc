"""The star rule of docs/architecture.md, written a second time: who duplicates whom within one property."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

Pair = tuple[str, str]
"""Two object keys, in their order as text."""


@dataclasses.dataclass(frozen=True)
class Flag:
    """Which canonical photo a photo duplicates, by whose word (`model`, `person`), and the score of the two."""

    duplicate_of: str
    decided_by: str
    score: float


def flags(
    order: Sequence[str], scores: Mapping[Pair, float], verdicts: Mapping[Pair, bool]
) -> dict[str, Flag]:
    """The flags of one property, by the flagged photo's key.

    Args:
        order: the photos that are there, earliest upload first.
        scores: pairs that the model took for duplicates.
        verdicts: of people; they win.
    """

    def said(one: str, other: str) -> bool | None:
        return verdicts.get(ordered(one, other))

    result: dict[str, Flag] = {}
    canonical: list[str] = []
    seen: set[str] = set()
    for first in order:
        if first in seen:
            continue
        # Everybody whom people joined with this photo, directly or through others.
        group, edge = {first}, [first]
        while edge:
            one = edge.pop()
            found = [other for other in order if other not in group and said(one, other) is True]
            group.update(found)
            edge.extend(found)
        seen |= group
        if len(group) == 1:
            continue
        canonical.append(first)
        for photo in group - {first}:
            if said(first, photo) is not False:
                result[photo] = Flag(first, "person", 1.0)
    for photo in order:
        if photo in result or photo in canonical:
            continue
        possible = [
            centre for centre in canonical if said(photo, centre) is None and ordered(photo, centre) in scores
        ]
        if not possible:
            canonical.append(photo)
            continue
        # The most alike; of equals the earliest.
        best = min(possible, key=lambda centre: (-scores[ordered(photo, centre)], order.index(centre)))
        result[photo] = Flag(best, "model", scores[ordered(photo, best)])
    return result


def ordered(one: str, other: str) -> Pair:
    """A pair's name."""
    return (one, other) if one < other else (other, one)
