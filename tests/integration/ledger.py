"""A property's photos on record, for the tests: what happens to them, and what is then to be read."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from psycopg import sql

from core import database, events, groups, matching, photos

START = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
DIMS = 8
_properties = (f"property-{number}" for number in itertools.count())


class Cosine:
    """Stands in for the trained network: the score is the cosine, so that a test can set it by its vectors."""

    def score(self, a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        scores: np.ndarray[Any, Any] = np.clip((a * b).sum(axis=1), 0, 1).astype(np.float32)
        return scores


class Bundle:
    id = "0123456789abcdef"
    classifier = Cosine()


class Bundles:
    """Gives every model the same classifier."""

    def get(self, connection: database.Connection, model_id: str) -> Bundle:
        return Bundle()


BUNDLES = Bundles()


def new_property() -> str:
    """A property that no test has used."""
    return next(_properties)


def empty(base: database.Database) -> None:
    """Delete every photo and every model, with what hangs on them."""
    with base.transaction() as connection:
        for table in ("duplicate_flag", "pair", "photo_embedding", "property_model", "photo", "model"):
            connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))


def activate_model(base: database.Database) -> None:
    with base.transaction() as connection:
        connection.execute(
            "INSERT INTO model (id, digest, name, dims, duplicate_threshold, review_threshold, untrained, card, status)"
            " VALUES (%s, 'd', 'cosine', 8, 0.9, 0.5, false, '{}', 'active')",
            (Bundle.id,),
        )


def event(
    property_id: str,
    name: str,
    *,
    at: float = 0,
    etag: str = "e1",
    sequencer: str = "",
    kind: events.Kind = events.Kind.CREATED,
) -> events.Event:
    return events.Event(
        kind=kind,
        bucket="photos",
        key=f"properties/{property_id}/photos/{name}",
        property_id=property_id,
        etag="" if kind is events.Kind.REMOVED else etag,
        size=100,
        sequencer=sequencer,
        occurred_at=START + datetime.timedelta(seconds=at),
    )


def apply(base: database.Database, change: events.Event) -> photos.Applied:
    with base.transaction() as connection:
        return photos.apply_event(connection, change)


def vector(*values: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    full = np.zeros(DIMS, dtype=np.float32)
    full[: len(values)] = values
    return full / np.float32(np.linalg.norm(full))


def embed(
    base: database.Database,
    photo: photos.Revision,
    embedding: np.ndarray[Any, Any],
    *,
    etag: str = "e1",
    sha256: str = "s",
    model_ids: Sequence[str] = (Bundle.id,),
) -> bool:
    with base.transaction() as connection:
        embeddings = dict.fromkeys(model_ids, embedding)
        found = photos.Embedded(embeddings, etag=etag, width=4, height=3, bytes=100, sha256=sha256)
        return photos.store(connection, photo, found).kept


def match(base: database.Database, photo: photos.Revision, neighbours: int = 50) -> int:
    with base.transaction() as connection:
        return matching.match(connection, photo.property_id, photo.photo_id, BUNDLES, neighbours)


def add(
    base: database.Database, property_id: str, name: str, *values: float, at: float = 0
) -> photos.Revision:
    photo = apply(base, event(property_id, name, at=at)).photo
    assert embed(base, photo, vector(*values))
    match(base, photo)
    return photo


def rows(base: database.Database, statement: str, *parameters: object) -> list[database.Row]:
    with base.transaction() as connection:
        return connection.execute(statement.encode(), parameters).fetchall()


def flags(base: database.Database, property_id: str) -> dict[str, str]:
    with base.transaction() as connection:
        return {
            row["photo"].rpartition("/")[2]: row["duplicate_of"].rpartition("/")[2]
            for row in matching.flags(connection, property_id)
        }


def row(base: database.Database, photo: photos.Revision) -> database.Row:
    (found,) = rows(
        base, "SELECT * FROM photo WHERE property_id = %s AND id = %s", photo.property_id, photo.photo_id
    )
    return found


def feed(base: database.Database, property_id: str) -> list[tuple[str, str | None]]:
    return [
        (
            change["key"].rpartition("/")[2],
            change["duplicate_of_key"] and change["duplicate_of_key"].rpartition("/")[2],
        )
        for change in rows(
            base,
            "SELECT * FROM listing_flag_feed WHERE property_id = %s ORDER BY transaction_id, id",
            property_id,
        )
    ]


def verdict(base: database.Database, one: photos.Revision, other: photos.Revision, duplicate: bool) -> None:
    rows(
        base,
        "INSERT INTO verdict (property_id, photo_a, photo_b, duplicate, decided_by)"
        " VALUES (%s, %s, %s, %s, 'ann') RETURNING 1",
        one.property_id,
        *groups.pair(one.photo_id, other.photo_id),
        duplicate,
    )
