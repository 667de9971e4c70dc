"""Who duplicates whom within one property: stars around canonical photos, a pure function of the pairs.

A star, never a chain: every flagged photo is itself a duplicate of its canonical photo, so that a row of
look-alikes cannot grow into one mega-group. Going through the photos in the order of their upload makes
the result independent of the order of arrival, and lets a later upload never change the flags among
earlier ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

Pair = tuple[int, int]
"""Two photo ids, the smaller first."""


@dataclasses.dataclass(frozen=True)
class Flag:
    """`photo_id` duplicates the canonical photo `duplicate_of`; `score` is the pair's, 1.0 by a person."""

    photo_id: int
    duplicate_of: int
    score: float
    by_person: bool


def pair(one: int, other: int) -> Pair:
    """A pair's key."""
    return (one, other) if one < other else (other, one)


def flags(
    order: Sequence[int], scores: Mapping[Pair, float], verdicts: Mapping[Pair, bool]
) -> dict[int, Flag]:
    """The flags of one property.

    Args:
        order: its photos, earliest upload first; pairs of other photos are passed over.
        scores: pairs that the model decided to be duplicates.
        verdicts: what people said of pairs; it wins over the model. Photos that people joined, directly or
            through a third one, go into one group; a photo is never flagged to one that a person told apart
            from it.

    Returns:
        A flag for each photo that is not canonical, by its id.
    """
    partners = _partners(order, scores, verdicts)
    result: dict[int, Flag] = {}
    centres: set[int] = set()
    for group in _joined_by_people(order, verdicts):
        centre, *others = group
        centres.add(centre)
        for photo in others:
            if verdicts.get(pair(centre, photo)) is False:
                continue
            result[photo] = Flag(photo, centre, 1.0, by_person=True)
    rank = {photo: place for place, photo in enumerate(order)}
    for photo in order:
        if photo in result or photo in centres:
            continue
        candidates = [
            (score, -rank[other], other) for other, score in partners[photo].items() if other in centres
        ]
        if candidates:
            score, _, canonical = max(candidates)
            result[photo] = Flag(photo, canonical, score, by_person=False)
        else:
            centres.add(photo)
    return result


def _partners(
    order: Sequence[int], scores: Mapping[Pair, float], verdicts: Mapping[Pair, bool]
) -> dict[int, dict[int, float]]:
    partners: dict[int, dict[int, float]] = {photo: {} for photo in order}
    for (one, other), score in scores.items():
        if one in partners and other in partners and (one, other) not in verdicts:
            partners[one][other] = partners[other][one] = score
    return partners


def _joined_by_people(order: Sequence[int], verdicts: Mapping[Pair, bool]) -> Iterable[list[int]]:
    """Photos connected by people's verdicts, each group in the order of upload."""
    leader = {photo: photo for photo in order}

    def find(photo: int) -> int:
        while leader[photo] != photo:
            leader[photo] = leader[leader[photo]]
            photo = leader[photo]
        return photo

    joined: set[int] = set()
    for (one, other), duplicate in verdicts.items():
        if duplicate and one in leader and other in leader:
            leader[find(one)] = find(other)
            joined |= {one, other}
    groups: dict[int, list[int]] = {}
    for photo in order:
        if photo in joined:
            groups.setdefault(find(photo), []).append(photo)
    return groups.values()
