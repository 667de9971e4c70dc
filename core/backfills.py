"""Backfills: which photos on record are to be embedded, and where one that was stopped goes on."""

from __future__ import annotations

import dataclasses
import datetime
import json
from typing import Literal

from core import database, photos

What = Literal["missing", "failed", "all"]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Photos on record, by what they lack.

    ``missing``: without an embedding of the model; ``failed``: parked; ``all``: embedded anew. Narrowed to a
    property, or to contents uploaded since a time.
    """

    what: What
    property_id: str | None = None
    since: datetime.datetime | None = None

    @property
    def again(self) -> bool:
        """Whether an embedding that is there is computed anew."""
        return self.what == "all"


@dataclasses.dataclass(frozen=True)
class Backfill:
    """One that is under way: everything up to `position` is done, `settled` photos of `total` (None: unknown).

    By the database's clock: `started_at`, when it began, however often it was stopped since; `resumed_at`, when this
    run of it began.
    """

    id: int
    position: str
    settled: int
    total: int | None
    started_at: datetime.datetime
    resumed_at: datetime.datetime


@dataclasses.dataclass(frozen=True)
class Standing:
    """Of the photos of a page: `unsettled` are still to be embedded, `postponed` gave up for a fault outside them.

    The latter are done as far as the backfill goes: without any embedding they are the sweep's, the others keep what
    they have.
    """

    unsettled: int
    postponed: int


def start(connection: database.Connection, selection: str) -> Backfill:
    """Begin a backfill, or go on with the unfinished one of the same selection (a text that says which)."""
    row = database.execute(connection, "backfill_start", selection=selection).fetchone()
    assert row is not None  # noqa: S101 - an upsert returns its row
    return Backfill(**row)


def forget(connection: database.Connection, selection: str) -> None:
    """Let the next one of this selection begin at the beginning."""
    database.execute(connection, "backfill_forget", selection=selection)


def set_total(connection: database.Connection, backfill: Backfill, total: int) -> None:
    """Remember how many photos there are to do."""
    database.execute(connection, "backfill_total", id=backfill.id, total=total)


def advance(connection: database.Connection, backfill: Backfill, position: str, settled: int) -> None:
    """Everything up to `position` is done, `settled` photos more than before."""
    database.execute(connection, "backfill_progress", id=backfill.id, position=position, settled=settled)


def finish(connection: database.Connection, backfill: Backfill) -> None:
    """It is done; the next one of its selection begins anew."""
    database.execute(connection, "backfill_finish", id=backfill.id)


def finished(connection: database.Connection, selection: str) -> datetime.datetime | None:
    """When the last backfill of a selection was finished, by the database's clock; None: never."""
    row = database.execute(connection, "backfill_finished", selection=selection).fetchone()
    return None if row is None else row["finished_at"]


def forget_finished(connection: database.Connection, selection: str) -> None:
    """What backfills of this selection filled in is there no more."""
    database.execute(connection, "backfill_forget_finished", selection=selection)


def page(
    connection: database.Connection, selection: Selection, model_id: str | None, position: str, limit: int
) -> list[photos.Revision]:
    """At most `limit` photos of a selection after `position`, in the order of property and id."""
    found = database.execute(
        connection, "backfill_page", **_parameters(selection, model_id, position), limit=limit
    )
    return [photos.Revision(**row) for row in found]


def count(connection: database.Connection, selection: Selection, model_id: str | None, position: str) -> int:
    """How many photos of a selection come after `position`."""
    row = database.execute(
        connection, "backfill_count", **_parameters(selection, model_id, position)
    ).fetchone()
    return int(row["photos"]) if row else 0


def position_of(photo: photos.Revision) -> str:
    """The position right after a photo."""
    return json.dumps([photo.property_id, photo.photo_id])


def put_back(connection: database.Connection, chosen: list[photos.Revision]) -> None:
    """Make those of these photos that failed pending again, as if never tried."""
    database.execute(connection, "put_back_these", **_arrays(chosen))


def take_from_sweep(connection: database.Connection, chosen: list[photos.Revision]) -> None:
    """Let those of these photos that an outage postponed begin anew: the backfill waits for them, too."""
    database.execute(connection, "take_from_sweep", **_arrays(chosen))


def standing(
    connection: database.Connection,
    chosen: list[photos.Revision],
    model_id: str | None,
    published_at: datetime.datetime,
    *,
    again: bool,
) -> Standing:
    """How far these photos are, published at a time or later to be embedded (by a model; anew: `again`).

    One that has been embedded by another model before, and was found not to be embeddable by this one, is done.
    """
    row = database.execute(
        connection,
        "backfill_standing",
        **_arrays(chosen),
        model_id=model_id,
        published_at=published_at,
        again=again,
    ).fetchone()
    return Standing(**row) if row else Standing(0, 0)


def _parameters(selection: Selection, model_id: str | None, position: str) -> dict[str, object]:
    after_property, after_id = json.loads(position) if position else ("", 0)
    after = {"after_property": after_property, "after_id": after_id}
    return {**dataclasses.asdict(selection), **after, "model_id": model_id}


def _arrays(chosen: list[photos.Revision]) -> dict[str, object]:
    return {
        "properties": [photo.property_id for photo in chosen],
        "ids": [photo.photo_id for photo in chosen],
        "revisions": [photo.revision for photo in chosen],
    }
