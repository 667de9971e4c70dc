"""Whole properties: one that is taken off the portal, and photos that a new key pattern gives to another one."""

from __future__ import annotations

import dataclasses

from core import database, errors, events, matching


@dataclasses.dataclass(frozen=True)
class Page:
    """Some of the photos on record, held against the key pattern.

    `moved` are those that belong to another property by now, as events to be applied; `unassigned` counts those that
    belong to none; `last` is where the next page begins, None after the last one.
    """

    moved: tuple[events.Event, ...]
    unassigned: int
    last: tuple[str, int] | None


def remove(connection: database.Connection, property_id: str) -> int:
    """Take every photo of a property out, and with them its flags; returns how many there were.

    To be run alone in its transaction. The rows stay, with the people's verdicts: an event from before this moment,
    late or once more, brings no known photo back, a later upload does.
    """
    database.execute(connection, "lock_property", property_id=property_id)
    removed = database.execute(connection, "remove_property", property_id=property_id).fetchall()
    if removed:
        database.execute(connection, "drop_property_embeddings", property_id=property_id)
        database.execute(connection, "drop_property_pairs", property_id=property_id)
        matching.regroup(connection, property_id)
    return len(removed)


def moved(
    connection: database.Connection, pattern: events.KeyPattern, after: tuple[str, int], limit: int
) -> Page:
    """Read the next photos in the order of (property, id) and find those that moved.

    Args:
        connection: to the database.
        pattern: the key pattern as it is now.
        after: `last` of the page before; ``("", 0)`` for the first one.
        limit: read at most so many.
    """
    property_id, photo_id = after
    rows = database.execute(
        connection, "photos_after", property_id=property_id, photo_id=photo_id, limit=limit
    ).fetchall()
    found: list[events.Event] = []
    unassigned = 0
    for row in rows:
        try:
            owner = pattern.property_of(row["bucket"], row["key"])
        except errors.PermanentError:
            unassigned += 1
            continue
        if owner != row["property_id"]:
            found.append(
                events.Event(
                    kind=events.Kind.CREATED,
                    bucket=row["bucket"],
                    key=row["key"],
                    property_id=owner,
                    etag=row["etag"],
                    size=row["bytes"],
                    sequencer=row["sequencer"],
                    occurred_at=row["occurred_at"],
                )
            )
    last = (rows[-1]["property_id"], rows[-1]["id"]) if len(rows) == limit else None
    return Page(tuple(found), unassigned, last)
