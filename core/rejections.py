"""Events that were not understood: which, why, and forgetting those that are settled."""

from __future__ import annotations

import dataclasses
import datetime

from core import database, errors


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A row of the table ``rejected_event``; `body` is the record, or the whole message that held it."""

    id: int
    received_at: datetime.datetime
    reason: str
    message: str
    body: str


def find(connection: database.Connection, reason: str | None, limit: int) -> list[database.Row]:
    """At most `limit` of them, the newest first, with `id`, `received_at`, `reason`, `message`."""
    return database.execute(connection, "rejections", reason=reason, limit=limit).fetchall()


def ids(connection: database.Connection, reason: str | None) -> list[int]:
    """Ids of all of them, or of those with a reason, the oldest first."""
    return [row["id"] for row in database.execute(connection, "rejection_ids", reason=reason)]


def read(connection: database.Connection, rejection_id: int) -> Rejection:
    """One of them, with its body.

    Raises:
        ConfigurationError: there is none of this id.
    """
    row = database.execute(connection, "rejection", id=rejection_id).fetchone()
    if row is None:
        raise errors.ConfigurationError(f"No rejected event {rejection_id}; `dedup rejected` lists them.")
    return Rejection(**row)


def drop(connection: database.Connection, rejection_id: int) -> None:
    """Forget one: it has been applied."""
    database.execute(connection, "drop_rejection", id=rejection_id)
