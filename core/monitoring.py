"""How the database stands, for monitoring: what is cheap to ask however many photos there are.

What waits or failed is few and has partial indexes; it is counted by those, and no further than to `COUNTED`. All
photos are counted one by one only where they are few; of many the planner's estimate is told, which ANALYZE keeps.
Each measure is asked for by itself, so that one that takes too long does not take the others with it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import psycopg

from core import database

COUNTED = 10_000
"""Counts of what waits, failed or was rejected end here: more is no other news, and each may be a read of the disk."""

EXACT = 200_000
"""Up to so many rows, by the planner's estimate, all photos are counted one by one: some 50 ms."""

LONG_SECONDS = 300.0
"""A photo to which nothing has happened for so long waits long."""

STATUSES = ("pending", "embedded", "failed", "removed")


@dataclasses.dataclass(frozen=True)
class Waiting:
    """Photos that wait for one thing (to be embedded, or to be matched).

    `long`: those of them that have waited for more than `LONG_SECONDS`.
    `postponed`: those of them whose tasks have given up at least once, for a fault outside the photo.
    `oldest_seconds`: since anything last happened to the one that waits longest (its event, the sweep); 0 for none.
    """

    photos: int = 0
    long: int = 0
    postponed: int = 0
    oldest_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Unfinished:
    """Photos that wait, the oldest `COUNTED` of all together."""

    to_embed: Waiting
    to_match: Waiting


@dataclasses.dataclass(frozen=True)
class Total:
    """`photos`: by status, without those that cannot be told cheaply; `exact`: not an estimate."""

    photos: dict[str, int]
    exact: bool


def unfinished(connection: database.Connection) -> Unfinished:
    """What waits."""
    rows = database.execute(connection, "monitor_unfinished", limit=COUNTED, long_seconds=LONG_SECONDS)
    found = {
        row["status"]: Waiting(row["photos"], row["long"], row["postponed"], row["oldest_seconds"])
        for row in rows
    }
    return Unfinished(found.get("pending", Waiting()), found.get("embedded", Waiting()))


def failed(connection: database.Connection) -> dict[str, int]:
    """Photos that are parked as failed, by reason; together no more than `COUNTED`."""
    rows = database.execute(connection, "monitor_failed", limit=COUNTED)
    return {row["reason"]: row["photos"] for row in rows}


def rejected(connection: database.Connection) -> int:
    """Events that were not understood, no more than `COUNTED`."""
    row = database.execute(connection, "monitor_rejected", limit=COUNTED).fetchone()
    return row["rejected"] if row else 0


def total(connection: database.Connection, waiting: Unfinished, failures: dict[str, int]) -> Total:
    """All photos, given what `unfinished` and `failed` found."""
    photos: dict[str, int] = {}
    if waiting.to_embed.photos + waiting.to_match.photos < COUNTED:
        photos["pending"] = waiting.to_embed.photos
    if sum(failures.values()) < COUNTED:
        photos["failed"] = sum(failures.values())
    for status in STATUSES:
        if status not in photos and (rows := _estimate(connection, status)) is not None:
            photos[status] = rows
    exact = len(photos) == len(STATUSES) and sum(photos.values()) <= EXACT
    if exact:
        photos = dict.fromkeys(STATUSES, 0) | {
            row["status"]: row["photos"] for row in database.execute(connection, "monitor_photos")
        }
    return Total(photos, exact)


def _estimate(connection: database.Connection, status: str) -> int | None:
    """The planner's, from the last ANALYZE and the table's size now; None where the planner sees no rows itself."""
    statement = b"EXPLAIN (FORMAT JSON) " + database.query("monitor_status")
    # The value in the statement itself: of a parameter the planner may only know the average.
    row = psycopg.ClientCursor[Any](connection).execute(statement, {"status": status}).fetchone()
    assert row is not None  # noqa: S101 - EXPLAIN returns a row
    plan: dict[str, Any] = row["QUERY PLAN"][0]["Plan"]
    # Of a table that is distributed over other servers (Citus) it gives a constant.
    return None if plan["Node Type"] == "Custom Scan" else int(plan["Plan Rows"])
