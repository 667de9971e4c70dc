"""How the database stands, for monitoring: what is cheap to ask however many photos there are.

What waits or failed is few and has partial indexes; it is counted by those, and no further than to `COUNTED`. All
photos are counted one by one only where they are few; of many the planner's estimate is told, which ANALYZE keeps.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import psycopg

from core import database, models

COUNTED = 100_000
"""Counts of what waits, failed or was rejected end here: more is no other news."""

EXACT = 200_000
"""Up to so many rows, by the planner's estimate, all photos are counted one by one: some 50 ms."""

STATUSES = ("pending", "embedded", "failed", "removed")


@dataclasses.dataclass(frozen=True)
class Waiting:
    """Photos that wait for one thing (to be embedded, or to be matched).

    `oldest_seconds`: since anything last happened to the one that waits longest (its event, the sweep); 0 for none.
    `postponed`: those of them whose tasks have given up at least once, for a fault outside the photo.
    """

    photos: int = 0
    postponed: int = 0
    oldest_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Standing:
    """What `look` finds. `photos`: by status, without those that cannot be told cheaply; `exact`: not an estimate."""

    photos: dict[str, int]
    exact: bool
    to_embed: Waiting
    to_match: Waiting
    failed: dict[str, int]
    rejected: int
    models: list[models.Model]


def look(connection: database.Connection) -> Standing:
    """How the database stands. `pending` and `failed` of `photos` end at `COUNTED`, unless `exact`."""
    waiting = {
        row["status"]: Waiting(row["photos"], row["postponed"], row["oldest_seconds"])
        for row in database.execute(connection, "monitor_unfinished", limit=COUNTED)
    }
    failed = {
        row["reason"]: row["photos"] for row in database.execute(connection, "monitor_failed", limit=COUNTED)
    }
    to_embed = waiting.get("pending", Waiting())
    photos = {
        "pending": to_embed.photos,
        "failed": sum(failed.values()),
        **{
            status: rows
            for status in ("embedded", "removed")
            if (rows := _estimate(connection, status)) is not None
        },
    }
    exact = len(photos) == len(STATUSES) and sum(photos.values()) <= EXACT
    if exact:
        photos = dict.fromkeys(STATUSES, 0) | {
            row["status"]: row["photos"] for row in database.execute(connection, "monitor_photos")
        }
    rejected = database.execute(connection, "monitor_rejected", limit=COUNTED).fetchone()
    return Standing(
        photos=photos,
        exact=exact,
        to_embed=to_embed,
        to_match=waiting.get("embedded", Waiting()),
        failed=failed,
        rejected=rejected["rejected"] if rejected else 0,
        models=models.every(connection),
    )


def _estimate(connection: database.Connection, status: str) -> int | None:
    """The planner's, from the last ANALYZE and the table's size now; None where the planner sees no rows itself."""
    statement = b"EXPLAIN (FORMAT JSON) " + database.query("monitor_status")
    # The value in the statement itself: of a parameter the planner may only know the average.
    row = psycopg.ClientCursor[Any](connection).execute(statement, {"status": status}).fetchone()
    assert row is not None  # noqa: S101 - EXPLAIN returns a row
    plan: dict[str, Any] = row["QUERY PLAN"][0]["Plan"]
    # Of a table that is distributed over other servers (Citus) it gives a constant.
    return None if plan["Node Type"] == "Custom Scan" else int(plan["Plan Rows"])
