"""People's word on pairs of photos: recorded, and seen through until the flags follow it."""

from __future__ import annotations

import psycopg

from core import database, errors, matching

CHANNEL = "dedup_verdict"
"""Notified when a verdict was recorded; only a hint, the verdict's row itself says whether it still waits."""

_REFUSED = (
    psycopg.errors.InvalidParameterValue,
    psycopg.errors.NullValueNotAllowed,
    psycopg.errors.NoDataFound,
    psycopg.errors.TooManyRows,
)


def record(
    connection: database.Connection,
    property_id: str,
    key_a: str,
    key_b: str,
    duplicate: bool,
    decided_by: str,
    *,
    bucket_a: str | None = None,
    bucket_b: str | None = None,
) -> None:
    """Record a verdict by the listing system's own function, and let the flags follow in the same transaction.

    Args:
        connection: alone in its transaction; the property's lock is taken.
        property_id: the property.
        key_a: object key of one photo.
        key_b: of the other, in any order.
        duplicate: what the person said.
        decided_by: the person's name.
        bucket_a: needed where several buckets hold the key.
        bucket_b: the same for the other photo.

    Raises:
        ConfigurationError: there is no such photo in the property or more than one, or a value is empty; nothing
            was recorded.
    """
    try:
        database.execute(
            connection,
            "record_verdict",
            property_id=property_id,
            key_a=key_a,
            key_b=key_b,
            duplicate=duplicate,
            decided_by=decided_by,
            bucket_a=bucket_a,
            bucket_b=bucket_b,
        )
    except _REFUSED as error:
        text = " ".join(filter(None, (error.diag.message_primary, error.diag.message_hint)))
        raise errors.ConfigurationError(f"Verdict: {text}") from error
    matching.regroup(connection, property_id)


def waiting(connection: database.Connection, limit: int) -> list[str]:
    """At most `limit` properties with verdicts that their flags do not follow yet. Reads all properties."""
    rows = database.execute(connection, "verdicts_waiting", limit=limit).fetchall()
    return [row["property_id"] for row in rows]


def apply(connection: database.Connection, property_id: str) -> None:
    """Let a property's flags follow its verdicts. Alone in its transaction, since it takes the property's lock."""
    database.execute(connection, "lock_property", property_id=property_id)
    matching.regroup(connection, property_id)
