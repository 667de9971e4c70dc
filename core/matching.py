"""Deciding: a photo against its nearest neighbours, and what that makes of its property's flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from core import database, errors, groups, models

if TYPE_CHECKING:
    # The ingest process regroups too, and must not need torch for it.
    from core import bundle


def match(
    connection: database.Connection,
    property_id: str,
    photo_id: int,
    bundles: Mapping[str, bundle.Bundle],
    neighbours: int,
) -> int:
    """Compare a photo with its nearest neighbours in its property and rewrite the property's flags.

    The property's lock makes two photos that arrive together wait for each other: embeddings are
    committed before matching starts, so the second of them sees both.

    Args:
        connection: alone in its transaction.
        property_id: the property.
        photo_id: its photo; nothing happens when it has no embedding (removed or replaced meanwhile).
        bundles: those at hand, by id; the active model's must be among them.
        neighbours: compare with at most so many photos.

    Returns:
        How many pairs are on record for review or as duplicates.

    Raises:
        TransientError: a model was activated whose bundle is not at hand.
    """
    database.execute(connection, "lock_property", property_id=property_id)
    model = models.active(connection)
    if model is None or model.id not in bundles:
        raise errors.TransientError(
            f"The active model is {model.id if model else 'none'}; this worker has {', '.join(bundles)}."
        )
    pair_classifier = bundles[model.id].classifier
    photo = {"property_id": property_id, "photo_id": photo_id}
    own = database.execute(connection, "embedding", **photo, model_id=model.id).fetchone()
    if own is None:
        return 0
    found = database.execute(
        connection, "neighbours", **photo, model_id=model.id, embedding=own["embedding"], limit=neighbours
    ).fetchall()
    kept = 0
    if found:
        vector = own["embedding"].to_numpy().astype(np.float32)[None]
        others = np.stack([row["embedding"].to_numpy() for row in found]).astype(np.float32)
        similarities = others @ vector[0]
        for row, similarity, score in zip(
            found, similarities, pair_classifier.score(vector, others), strict=True
        ):
            if score < model.review_threshold:
                continue
            photo_a, photo_b = groups.pair(photo_id, row["photo_id"])
            database.execute(
                connection,
                "store_pair",
                property_id=property_id,
                photo_a=photo_a,
                photo_b=photo_b,
                model_id=model.id,
                similarity=float(similarity),
                score=float(score),
            )
            kept += 1
    database.execute(connection, "matched", **photo)
    regroup(connection, property_id)
    return kept


def regroup(connection: database.Connection, property_id: str) -> None:
    """Bring a property's flags in line with its pairs and verdicts; what changes goes to the feed.

    The caller holds the property's lock, and so does whoever writes a verdict until it has committed: none of them
    is marked as applied before it was read.
    """
    model = models.active(connection)
    if model is None:
        return
    scores = {
        (row["photo_a"], row["photo_b"]): row["score"]
        for row in database.execute(connection, "duplicate_pairs", property_id=property_id, model_id=model.id)
    }
    verdict_rows = database.execute(connection, "verdicts", property_id=property_id).fetchall()
    verdicts = {(row["photo_a"], row["photo_b"]): row["duplicate"] for row in verdict_rows}
    ids = sorted({photo for pair in (*scores, *verdicts) for photo in pair})
    order = [
        row["id"] for row in database.execute(connection, "photos_in_order", property_id=property_id, ids=ids)
    ]
    wanted = groups.flags(order, scores, verdicts)
    before = {
        row["photo_id"]: (
            groups.Flag(row["photo_id"], row["duplicate_of"], row["score"], row["decided_by"] == "person"),
            row["model_id"],
        )
        for row in database.execute(connection, "flags", property_id=property_id)
    }
    changed = False
    for photo_id in sorted(before.keys() - wanted.keys()):
        changed = True
        gone = {"property_id": property_id, "photo_id": photo_id}
        database.execute(connection, "drop_flag", **gone)
        database.execute(connection, "append_change", **gone, duplicate_of=None, score=None, decided_by=None)
    for photo_id, flag in sorted(wanted.items()):
        if before.get(photo_id) == (flag, model.id):
            continue
        changed = True
        row = {
            "property_id": property_id,
            "photo_id": photo_id,
            "duplicate_of": flag.duplicate_of,
            "score": flag.score,
            "decided_by": "person" if flag.by_person else "model",
        }
        database.execute(connection, "store_flag", **row, model_id=model.id)
        database.execute(connection, "append_change", **row)
    if any(row["applied_at"] is None for row in verdict_rows):
        database.execute(connection, "verdicts_applied", property_id=property_id)
    if changed:
        # Commits that notify wait for each other in the whole cluster: only where there is something to tell.
        database.execute(connection, "notify_feed")


def flags(connection: database.Connection, property_id: str | None = None) -> list[database.Row]:
    """Flags on record, with `property_id`, `photo`, `duplicate_of` (keys), `score`, `decided_by`, `since`.

    Of one property, or of all (for the embedded stack).
    """
    if property_id is None:
        return database.execute(connection, "all_flags").fetchall()
    return database.execute(connection, "property_flags", property_id=property_id).fetchall()
