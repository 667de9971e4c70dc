"""Trying to embed a photo: how often it was tried, what became of it, and whether it may have cost a process.

And how often its match failed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from core import database, photos


@dataclasses.dataclass(frozen=True)
class Attempt:
    """Where the photo lies, how often its process was lost with it before, and what it lacks.

    `lacking`: the models by which it is to be embedded, none when its task came twice. `sha256`: of the bytes that it
    was embedded from or people judged, if any. `active`: the active model; `live`: it and the candidates.
    """

    bucket: str
    key: str
    lost: int
    lacking: tuple[str, ...]
    sha256: str | None
    active: str | None
    live: frozenset[str]

    @property
    def embedded(self) -> bool:
        """Whether it has all its embeddings already."""
        return not self.lacking


def begin_attempt(
    connection: database.Connection,
    photo: photos.Revision,
    *,
    known: Collection[str],
    unfit: Collection[str] = (),
    alone: bool = False,
    again: str | None = None,
) -> Attempt | None:
    """Begin an attempt at embedding; None when the photo was removed, replaced or parked meanwhile.

    The first attempt is counted at once: if its process is lost, nobody is left to count it. A photo that was lost
    (`Attempt.lost` above 0) is counted again only if it is tried `alone`, with no other photo in the process.

    Args:
        connection: to the database.
        photo: the photo.
        known: models that the process can embed by. One that lacks others is not counted: the process learns them and
            begins again.
        unfit: models that it cannot embed by, which are not asked of it.
        alone: whether no other photo is in the process.
        again: a time in ISO 8601; embeddings from before it do not count as such.
    """
    return begun(begin(connection, photo, known=known, unfit=unfit, alone=alone, again=again))


def begin(
    connection: database.Connection,
    photo: photos.Revision,
    *,
    known: Collection[str],
    unfit: Collection[str],
    alone: bool = False,
    again: str | None,
) -> database.Cursor:
    """`begin_attempt` whose answer is not waited for; `begun` reads it."""
    return database.execute(
        connection,
        "begin_attempt",
        **dataclasses.asdict(photo),
        known=list(known),
        unfit=list(unfit),
        alone=alone,
        again=again,
    )


def begun(cursor: database.Cursor) -> Attempt | None:
    """What `begin` came to."""
    row = cursor.fetchone()
    if row is None:
        return None
    return Attempt(**{**row, "lacking": tuple(row["lacking"]), "live": frozenset(row["live"])})


def excuse(connection: database.Connection, photo: photos.Revision) -> None:
    """Take an attempt back: something else was away, so it says nothing of this photo.

    Nor did it take its process with it. Other processes that had copies of its task may have thought so, and parked it.
    """
    database.execute(connection, "excuse", **dataclasses.asdict(photo))
    database.execute(connection, "unpark", **dataclasses.asdict(photo))


def postpone(connection: database.Connection, photo: photos.Revision, after: int) -> int:
    """Leave a photo to the sweep after its task gave up; returns how often that has happened in a row.

    `after` is how often it had happened when the task was published: its copies count once together.
    """
    row = database.execute(connection, "postpone", **dataclasses.asdict(photo), round=after).fetchone()
    return 0 if row is None else int(row["postponed"])


def match_failed(
    connection: database.Connection, property_id: str, photo_id: int, after: int
) -> tuple[photos.Revision, int] | None:
    """Count that a photo's match failed; returns what is unmatched, and in how many rounds of the sweep it failed.

    None when it is matched by now, or not to be matched any more. `after` is as in `postpone`.
    """
    row = database.execute(
        connection, "match_failed", property_id=property_id, photo_id=photo_id, round=after
    ).fetchone()
    if row is None:
        return None
    return photos.Revision(property_id, photo_id, row["revision"]), int(row["postponed"])
