"""Deciding: a photo against its nearest neighbours, and what that makes of its property's flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import structlog

from core import database, errors, groups, observations

log = structlog.get_logger()

Vectors = npt.NDArray[np.float32]


class Classifier(Protocol):
    """Tells how likely pairs are duplicates."""

    def score(self, a: Vectors, b: Vectors) -> Vectors:
        """Probabilities of n pairs of fused embeddings, each (n or 1, dims)."""


class Decider(Protocol):
    """A model bundle, as far as matching needs it."""

    @property
    def classifier(self) -> Classifier:
        """Its pair classifier."""


class Bundles(Protocol):
    """Where matching gets bundles from: `core.registry.Registry`."""

    def get(self, connection: database.Connection, model_id: str) -> Decider:
        """The bundle of a model."""


def match(
    connection: database.Connection, property_id: str, photo_id: int, bundles: Bundles, neighbours: int
) -> int:
    """Compare a photo with its nearest neighbours in its property and rewrite the property's flags.

    By every live model that has embedded the photo, each among its own embeddings only. The property's lock makes two
    photos that arrive together wait for each other: embeddings are committed before matching starts, so the second of
    them sees both.

    Args:
        connection: alone in its transaction, which is committed where no flag can change.
        property_id: the property.
        photo_id: its photo; nothing happens when it has no embedding (removed or replaced meanwhile).
        bundles: of the models.
        neighbours: compare with at most so many photos, by each model.

    Returns:
        How many pairs are on record for review or as duplicates.

    Raises:
        TransientError: a model's bundle cannot be had yet.
        ConfigurationError: the active model's bundle cannot be read.
    """
    with connection.pipeline():
        database.execute(connection, "lock_to_match", property_id=property_id)
        locked = database.execute(connection, "lock_embedded", property_id=property_id, photo_ids=[photo_id])
        near = database.execute_binary(
            connection, "neighbours", property_id=property_id, photo_id=photo_id, limit=neighbours
        )
    pairs = _match(connection, property_id, locked.fetchall(), near.fetchall(), bundles)
    return pairs.get(photo_id, 0)


def match_together(
    connection: database.Connection,
    property_id: str,
    photo_ids: Sequence[int],
    bundles: Bundles,
    neighbours: int,
) -> dict[int, int] | None:
    """As `match`, of several photos of a property in one go, where each is a neighbour of all others anyway.

    Its embeddings are then read once, and its flags rewritten once. It may commit as well.

    Returns:
        As `match`, by photo; None, and nothing is done, if the property has more than `neighbours` other photos.

    Raises:
        TransientError, ConfigurationError: as `match`.
    """
    photos = {"property_id": property_id, "photo_ids": list(photo_ids)}
    with connection.pipeline():
        database.execute(connection, "lock_to_match", property_id=property_id)
        locked = database.execute(connection, "lock_embedded", **photos)
        every = database.execute_binary(connection, "everybody", **photos, limit=neighbours + 2)
    by_model = every.fetchall()
    if any(len(found["photo_ids"]) > neighbours + 1 for found in by_model):
        return None
    return _match(connection, property_id, locked.fetchall(), by_model, bundles)


def _match(
    connection: database.Connection,
    property_id: str,
    locked: list[database.Row],
    by_model: list[database.Row],
    bundles: Bundles,
) -> dict[int, int]:
    """`locked`: rows of the photos to be matched; `by_model`: those of ``neighbours`` or ``everybody``."""
    embedded = {photo_id for found in by_model for photo_id in found["photo_ids"]}
    wanted = [row["id"] for row in locked if row["id"] in embedded]
    if not wanted:
        return {}
    compared, unread = [], set()
    for found in by_model:
        model_id, ids = found["model_id"], set(found["photo_ids"])
        if ids.isdisjoint(wanted):
            continue
        try:
            decider = bundles.get(connection, model_id)
        except errors.ConfigurationError as error:
            # A candidate of a newer version must not keep photos from the active model; nor do they count as matched.
            if found["status"] == "active":
                raise
            log.warning("candidate_not_matched", model=model_id, error=str(error))
            unread |= ids
        else:
            compared.append(_compare(property_id, wanted, found, decider))
    whole = [photo_id for photo_id in wanted if photo_id not in unread]
    settled = any(found["status"] == "active" and found["settled"] for found in by_model)
    decides = not settled or any(one.kept or one.dropped for one in compared)
    # One round trip: what is read to regroup comes after what is written here.
    with connection.pipeline():
        for one in compared:
            one.write(connection)
        marked = database.execute(connection, "matched", property_id=property_id, photo_ids=whole)
        if decides:
            record = _Record.asked(connection, property_id)
        else:
            database.commit(connection)
    changed = decides and _regroup(connection, property_id, record)[1]
    done = marked.fetchall()
    for row in done:
        observations.tell(observations.PhotoMatched(row["age_seconds"]))
    if decides and (len(done) < len(wanted) or changed):
        # Flags, which a reader may have seen, wait for the disk; so does what no sweep would do again.
        database.execute(connection, "commit_waiting")
    return {
        photo_id: sum(photo_id in {pair["photo_a"], pair["photo_b"]} for one in compared for pair in one.kept)
        for photo_id in wanted
    }


@dataclasses.dataclass(frozen=True)
class _Compared:
    """What a model makes of photos and their neighbours: the pairs it keeps, and those on record that are none now."""

    kept: list[database.Row]
    dropped: list[database.Row]

    def write(self, connection: database.Connection) -> None:
        if self.dropped:
            # Of a photo that was embedded anew.
            database.execute_many(connection, "drop_pair", self.dropped)
        if self.kept:
            database.execute_many(connection, "store_pair", self.kept)


def _compare(property_id: str, wanted: Sequence[int], found: database.Row, decider: Decider) -> _Compared:
    """By one model: `found` is its row of ``neighbours`` or ``everybody``. Each pair once."""
    model_id, ids = found["model_id"], found["photo_ids"]
    on_record = {(photo_a, photo_b) for photo_a, photo_b in found["on_record"]}
    places = {photo_id: place for place, photo_id in enumerate(ids)}
    own = [photo_id for photo_id in wanted if photo_id in places]
    # Those to be matched first: each is compared with all that come after it.
    order = own + [photo_id for photo_id in ids if photo_id not in wanted]
    embeddings = database.halfvecs(found["embeddings"], len(ids))
    vectors = embeddings[[places[photo_id] for photo_id in order]]
    compared = _Compared([], [])
    for place, photo_id in enumerate(own):
        others = order[place + 1 :]
        if not others:
            break
        vector, rest = vectors[place : place + 1], vectors[place + 1 :]
        similarities = rest @ vector[0]
        scores = decider.classifier.score(vector, rest)
        observations.tell(observations.PairsScored(model_id, scores))
        for other, similarity, score in zip(others, similarities, scores, strict=True):
            photo_a, photo_b = groups.pair(photo_id, other)
            kept = score >= found["review_threshold"]
            if not kept and (photo_a, photo_b) not in on_record:
                continue
            pair = {
                "property_id": property_id,
                "photo_a": photo_a,
                "photo_b": photo_b,
                "model_id": model_id,
            }
            if kept:
                compared.kept.append(pair | {"similarity": float(similarity), "score": float(score)})
            else:
                compared.dropped.append(pair)
    return compared


def regroup(connection: database.Connection, property_id: str) -> str | None:
    """Bring a property's flags in line with its pairs and verdicts; what changes goes to the feed.

    Here, and nowhere else, is decided whose pairs: the property goes on showing the model that it has shown until the
    active one has embedded and matched all its photos, and then switches as a whole.

    The caller holds the property's lock, and so does whoever writes a verdict until it has committed: none of them
    is marked as applied before it was read.

    Returns:
        The id of the model that the property shows now; None while the database has no active one.
    """
    with connection.pipeline():
        record = _Record.asked(connection, property_id)
    model_id, _ = _regroup(connection, property_id, record)
    return model_id


@dataclasses.dataclass(frozen=True)
class _Record:
    """What a property's flags are worked out from."""

    shown: database.Cursor
    decisions: database.Cursor
    photos: database.Cursor

    @classmethod
    def asked(cls, connection: database.Connection, property_id: str) -> _Record:
        """Within the caller's pipeline: one inside it would be round trips of its own."""
        shown, decisions, photos = (
            database.execute(connection, name, property_id=property_id)
            for name in ("shown_model", "decisions", "decided_photos")
        )
        return cls(shown, decisions, photos)


def _regroup(connection: database.Connection, property_id: str, record: _Record) -> tuple[str | None, bool]:
    """As `regroup`; also whether there was anything to write."""
    if (shown := record.shown.fetchone()) is None:
        # It shows none yet, and in this moment another model became active: the second look sees it.
        with connection.pipeline():
            record = _Record.asked(connection, property_id)
        if (shown := record.shown.fetchone()) is None:
            return None, False
    model_id = str(shown["model_id"])
    decisions, photo_rows = record.decisions.fetchall(), record.photos.fetchall()
    said = [row for row in decisions if row["duplicate"] is not None]
    wanted = groups.flags(
        order=[row["id"] for row in photo_rows if row["status"] != "removed"],
        scores={
            (row["photo_a"], row["photo_b"]): row["score"] for row in decisions if row["score"] is not None
        },
        verdicts={(row["photo_a"], row["photo_b"]): row["duplicate"] for row in said},
    )
    before = {
        row["id"]: (
            groups.Flag(row["id"], row["duplicate_of"], row["score"], row["decided_by"] == "person"),
            row["model_id"],
        )
        for row in photo_rows
        if row["duplicate_of"] is not None
    }
    writes: list[tuple[str, database.Row]] = []
    added, changed = 0, 0
    removed = sorted(before.keys() - wanted.keys())
    for photo_id in removed:
        writes.append(("drop_flag", {"photo_id": photo_id}))
        gone = {"photo_id": photo_id, "duplicate_of": None, "score": None, "decided_by": None}
        writes.append(("append_change", gone))
    for photo_id, flag in sorted(wanted.items()):
        if before.get(photo_id) == (flag, model_id):
            continue
        row = {
            "photo_id": photo_id,
            "duplicate_of": flag.duplicate_of,
            "score": flag.score,
            "decided_by": "person" if flag.by_person else "model",
        }
        writes.append(("store_flag", row | {"model_id": model_id}))
        if photo_id not in before or before[photo_id][0] != flag:
            added, changed = added + (photo_id not in before), changed + (photo_id in before)
            writes.append(("append_change", row))
    if any(row["applied_at"] is None for row in said):
        writes.append(("verdicts_applied", {}))
    if added or removed or changed:
        observations.tell(observations.FlagsChanged(added, len(removed), changed))
        # Commits that notify wait for each other in the whole cluster: only where there is something to tell.
        writes.append(("notify_feed", {}))
    if writes:
        with connection.pipeline():
            for name, row in writes:
                database.execute(connection, name, property_id=property_id, **row)
    return model_id, bool(writes)


def follow(connection: database.Connection, property_id: str) -> str | None:
    """`regroup` by itself: takes the property's lock. To be run alone in its transaction."""
    database.execute(connection, "lock_property", property_id=property_id)
    return regroup(connection, property_id)


def flags(connection: database.Connection, property_id: str | None = None) -> list[database.Row]:
    """Flags on record, with `property_id`, `photo`, `duplicate_of` (keys), `score`, `decided_by`, `since`.

    Of one property, or of all (for the embedded stack).
    """
    if property_id is None:
        return database.execute(connection, "all_flags").fetchall()
    return database.execute(connection, "property_flags", property_id=property_id).fetchall()
