"""All photos of all properties at once: for the embedded stack and the benchmarks, whose databases are small."""

from __future__ import annotations

from core import database


def census(connection: database.Connection) -> tuple[set[tuple[str, str, str]], set[tuple[str, str, str]]]:
    """Every (property, key, ETag) on record that is not removed, and those of them that are decided for good."""
    rows = database.execute(connection, "census").fetchall()
    live = {(row["property_id"], row["key"], row["etag"]) for row in rows}
    return live, {(row["property_id"], row["key"], row["etag"]) for row in rows if row["settled"]}


def failures(connection: database.Connection) -> list[database.Row]:
    """Photos parked as failed, with `property_id`, `key`, `failure`, `failure_message`."""
    return database.execute(connection, "failures").fetchall()
