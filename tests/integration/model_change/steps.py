"""What is done with two models in these tests: an active one, and a candidate of other thresholds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from core import database, groups, model_changes, models, photos
from tests.integration import ledger
from workers import switching

OLD, NEW = ledger.Bundle.id, "fedcba9876543210"


def store(
    base: database.Database,
    photo: photos.Revision,
    *,
    old: Sequence[float] | None = None,
    new: Sequence[float] | None = None,
    etag: str = "e1",
    sha256: str = "s",
) -> photos.Stored:
    """Store embeddings by either model, or both."""
    with base.transaction() as connection:
        embeddings = {id: ledger.vector(*values) for id, values in ((OLD, old), (NEW, new)) if values}
        found = photos.Embedded(embeddings, etag=etag, width=4, height=3, bytes=100, sha256=sha256)
        return photos.store(connection, photo, found)


def add(
    base: database.Database,
    place: str,
    name: str,
    at: float,
    old: Sequence[float] | None = None,
    new: Sequence[float] | None = None,
) -> photos.Revision:
    photo = ledger.apply(base, ledger.event(place, name, at=at)).photo
    assert store(base, photo, old=old, new=new).kept
    ledger.match(base, photo)
    return photo


def model(base: database.Database, model_id: str) -> models.Model:
    with base.transaction() as connection:
        return models.find(connection, model_id)


def activate(base: database.Database, model_id: str) -> None:
    with base.transaction() as connection:
        model_changes.activate(connection, model(base, model_id))


def retire(base: database.Database, model_id: str) -> None:
    with base.transaction() as connection:
        model_changes.retire(connection, model(base, model_id))


def shown(base: database.Database, place: str) -> str | None:
    found = ledger.rows(base, "SELECT model_id FROM property_model WHERE property_id = %s", place)
    return found[0]["model_id"] if found else None


def switch(base: database.Database) -> int:
    return sum(switched for _, switched in switching.Switcher(base).round())


def of_flags(base: database.Database, place: str) -> set[str]:
    return {
        row["model_id"]
        for row in ledger.rows(base, "SELECT model_id FROM duplicate_flag WHERE property_id = %s", place)
    }


def fill(base: database.Database, places: Sequence[str], rng: random.Random) -> None:
    """Photos of random likeness by either model, some pairs judged by people, in random order of arrival."""
    for place in places:
        made = []
        for number in rng.sample(range(9), 9):
            angles = rng.uniform(0, 1.6), rng.uniform(0, 1.6)
            old, new = ((float(np.cos(angle)), float(np.sin(angle))) for angle in angles)
            made.append(add(base, place, f"{number}", number, old=old, new=new))
        for _ in range(2):
            one, other = rng.sample(made, 2)
            ids = groups.pair(one.photo_id, other.photo_id)
            if not ledger.rows(
                base,
                "SELECT FROM verdict WHERE property_id = %s AND (photo_a, photo_b) = (%s, %s)",
                place,
                *ids,
            ):
                ledger.verdict(base, one, other, rng.random() < 0.5)
        ledger.match(base, made[0])


def purge(base: database.Database, model_id: str, limit: int = 2) -> dict[str, int]:
    deleted = {}
    whats: tuple[Any, ...] = ("embeddings", "pairs")
    for what in whats:
        after: tuple[str, int] | None = ("", 0)
        deleted[what] = 0
        while after is not None:
            with base.transaction() as connection:
                count, after = model_changes.purge(connection, model_id, what, after, limit)
            deleted[what] += count
    return deleted
