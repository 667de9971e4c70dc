"""Two models held against each other: which flags would come and go if a portal changed from one to the other.

Both sides are made from what is on record, pairs and verdicts, by the same pure function that makes the flags.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from typing import Literal

from core import database, groups, models

PAGE_PROPERTIES = 200

Kind = Literal["comes", "goes", "moves"]


@dataclasses.dataclass(frozen=True)
class Change:
    """What becomes of one photo's flag: it ``comes``, ``goes``, or ``moves`` to another canonical photo.

    Keys of the canonical photos and the scores, by the old and the new model; None where it has no flag.
    """

    property_id: str
    key: str
    kind: Kind
    old_duplicate_of: str | None
    new_duplicate_of: str | None
    old_score: float | None
    new_score: float | None


@dataclasses.dataclass(frozen=True)
class Page:
    """Some properties compared. `same` counts flags that stay as they are but for their score.

    `lacking` counts embedded photos that lack one of the two models; `last` is where the next page begins.
    """

    changes: list[Change]
    properties: int
    same: int
    lacking: int
    last: str


def pages(
    base: database.Database, old: models.Model, new: models.Model, property_id: str | None = None
) -> Iterator[Page]:
    """Compare two models over all properties, or one, a page at a time.

    Each page is read as of one moment.
    """
    after = ""
    while True:
        with base.transaction() as connection:
            page = _page(connection, old, new, property_id, after)
        if page is None:
            return
        yield page
        after = page.last


def _page(
    connection: database.Connection,
    old: models.Model,
    new: models.Model,
    property_id: str | None,
    after: str,
) -> Page | None:
    database.execute(connection, "read_consistently")
    chosen = [
        row["property_id"]
        for row in database.execute(
            connection, "properties_to_compare", after=after, property_id=property_id, limit=PAGE_PROPERTIES
        )
    ]
    if not chosen:
        return None
    both = {"properties": chosen, "models": [old.id, new.id]}
    scores: dict[tuple[str, str], dict[groups.Pair, float]] = collections.defaultdict(dict)
    for row in database.execute(connection, "pairs_to_compare", **both):
        scores[row["property_id"], row["model_id"]][row["photo_a"], row["photo_b"]] = row["score"]
    verdicts: dict[str, dict[groups.Pair, bool]] = collections.defaultdict(dict)
    for row in database.execute(connection, "verdicts_to_compare", properties=chosen):
        verdicts[row["property_id"]][row["photo_a"], row["photo_b"]] = row["duplicate"]
    photos: dict[str, dict[int, str]] = collections.defaultdict(dict)
    lacking = 0
    for row in database.execute(connection, "photos_to_compare", **both):
        photos[row["property_id"]][row["photo_id"]] = row["key"]
        lacking += row["lacks"]
    changes: list[Change] = []
    same = 0
    for place in chosen:
        keys = photos[place]
        before, behind = (
            groups.flags(list(keys), scores[place, model.id], verdicts[place]) for model in (old, new)
        )
        for photo in keys:
            was, will = before.get(photo), behind.get(photo)
            if was and will and was.duplicate_of == will.duplicate_of:
                same += 1
            elif was or will:
                changes.append(_change(place, keys, photo, was, will))
    return Page(changes, len(chosen), same, lacking, chosen[-1])


def _change(
    property_id: str, keys: dict[int, str], photo: int, was: groups.Flag | None, will: groups.Flag | None
) -> Change:
    return Change(
        property_id=property_id,
        key=keys[photo],
        kind="moves" if was and will else "comes" if will else "goes",
        old_duplicate_of=keys[was.duplicate_of] if was else None,
        new_duplicate_of=keys[will.duplicate_of] if will else None,
        old_score=was.score if was else None,
        new_score=will.score if will else None,
    )
