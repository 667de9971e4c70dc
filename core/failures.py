"""Photos that were parked as failed: which, why, and putting them back."""

from __future__ import annotations

import dataclasses
import datetime

from core import database, photos


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which failed photos: of one reason and of one property, or (None) of all."""

    reason: str | None = None
    property_id: str | None = None


@dataclasses.dataclass(frozen=True)
class Failure:
    """A failed photo. `message` is for people, `attempts` counts those that took their process with them."""

    property_id: str
    photo_id: int
    key: str
    reason: str
    message: str | None
    attempts: int
    failed_at: datetime.datetime


def find(connection: database.Connection, choice: Choice, limit: int) -> list[Failure]:
    """At most `limit` failed photos, those that failed last first."""
    found = database.execute(connection, "failed_photos", **dataclasses.asdict(choice), limit=limit)
    return [Failure(**row) for row in found]


def count(connection: database.Connection, choice: Choice) -> dict[str, int]:
    """How many photos failed, by reason, the most frequent first."""
    found = database.execute(connection, "failure_counts", **dataclasses.asdict(choice))
    return {row["reason"]: row["photos"] for row in found}


def put_back(
    connection: database.Connection, choice: Choice, after: photos.Revision | None, limit: int
) -> list[photos.Revision]:
    """Make at most `limit` failed photos pending again, as if never tried; returns what is to be published.

    In the order of property and id, beginning after the photo `after`: what fails again at once is not met twice.
    """
    found = database.execute(
        connection,
        "put_back",
        **dataclasses.asdict(choice),
        after_property=after.property_id if after else "",
        after_id=after.photo_id if after else 0,
        limit=limit,
    )
    return sorted(
        (photos.Revision(**row) for row in found), key=lambda photo: (photo.property_id, photo.photo_id)
    )
