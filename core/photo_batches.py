"""Many photos in one transaction, of whatever properties: the commit is most of what storing one photo costs.

One photo must not delay the others. So nothing here waits for a photo that somebody else works on (a match, an event),
and what needs more than the usual statements is left out, too. What is left out is for `core.photos`, photo by photo.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping

from core import attempts, database, photos


@dataclasses.dataclass(frozen=True)
class Beginning:
    """What `attempts.begin_attempt` is to know of the process; not of one that tries the photo alone."""

    known: Collection[str]
    unfit: Collection[str]
    again: str | None


def begin_attempts(
    connection: database.Connection, wanted: Mapping[photos.Revision, Beginning]
) -> dict[photos.Revision, attempts.Attempt]:
    """As `attempts.begin_attempt`, of all that nobody works on; those left out may be gone, or in somebody's hands."""
    free = _free(connection, wanted)
    with connection.pipeline():
        begun = {
            photo: attempts.begin(
                connection,
                photo,
                known=wanted[photo].known,
                unfit=wanted[photo].unfit,
                again=wanted[photo].again,
            )
            for photo in free
        }
    found = {photo: attempts.begun(cursor) for photo, cursor in begun.items()}
    return {photo: attempt for photo, attempt in found.items() if attempt is not None}


def store(
    connection: database.Connection, wanted: Mapping[photos.Revision, photos.Embedded]
) -> dict[photos.Revision, photos.Stored]:
    """As `photos.store`, of all that nobody works on and whose bytes are not others than those on record."""
    free = {
        photo: row
        for photo, row in _free(connection, wanted).items()
        if row["sha256"] in {None, wanted[photo].sha256}
    }
    models = sorted({model for photo in free for model in wanted[photo].embeddings})
    with connection.pipeline():
        # All of them, in the one order in which everybody locks them: one photo may lack another model than the next.
        database.execute(connection, "share_models", models=models)
        written = {
            photo: photos.write(connection, photo, wanted[photo], row["etag"]) for photo, row in free.items()
        }
    return {photo: photos.written(cursor) for photo, cursor in written.items()}


def _free(
    connection: database.Connection, wanted: Iterable[photos.Revision]
) -> dict[photos.Revision, database.Row]:
    """The rows of those photos that nobody else has locked, locked now."""
    with connection.pipeline():
        asked = {
            photo: database.execute(connection, "free_photo", **dataclasses.asdict(photo)) for photo in wanted
        }
    found = {photo: cursor.fetchone() for photo, cursor in asked.items()}
    return {photo: row for photo, row in found.items() if row is not None}
