"""A photo's life on record: what each event and each attempt makes of its row."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pgvector

from core import database, errors, events, matching, observations


class Outcome(enum.Enum):
    """What an event came to."""

    PENDING = "pending"
    REMOVED = "removed"
    IGNORED = "ignored"


@dataclasses.dataclass(frozen=True)
class Revision:
    """One content of one photo: what an embed task is about."""

    property_id: str
    photo_id: int
    revision: int


@dataclasses.dataclass(frozen=True)
class Applied:
    """An event's outcome, and the revision that it left."""

    outcome: Outcome
    photo: Revision


@dataclasses.dataclass(frozen=True)
class Embedded:
    """What embedding a photo found out. `embeddings` are (dims,) float32 of norm 1, by model; sizes are the original's.

    `etag` is that of the bytes that were read.
    """

    embeddings: Mapping[str, npt.NDArray[np.float32]]
    etag: str
    width: int
    height: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Stored:
    """What became of embeddings: whether they were kept, and which live models the photo lacks after that.

    `age_seconds`: since the photo's upload, by the database's clock.
    """

    kept: bool
    lacking: tuple[str, ...] = ()
    age_seconds: float = dataclasses.field(default=0.0, compare=False)


@dataclasses.dataclass(frozen=True)
class Written:
    """The answers to `write`, perhaps not there yet."""

    marked: database.Cursor
    lacking: database.Cursor


def apply_event(connection: database.Connection, event: events.Event) -> Applied:
    """Bring a photo's row up to an event. Twice, late or out of order: the row ends the same.

    A new picture under a known key starts a new revision; what hung on the old one (embeddings, pairs,
    flags, people's verdicts) goes in the same transaction. An event without ETag only says to look again: what
    people said stays until the bytes are seen to differ. A photo on record in another property (the key pattern was
    changed) leaves it. To be run alone in its transaction: locks are taken first, the property's as matching does.
    """
    left = _leave_others(connection, event)
    for row in left:
        if not events.is_newer(event.sequencer, event.occurred_at, row["sequencer"], row["occurred_at"]):
            # A late event: what is on record of the object since then goes along.
            known = {key: row[key] for key in ("etag", "sequencer", "occurred_at")}
            event = dataclasses.replace(event, kind=events.Kind.CREATED, size=row["bytes"], **known)
    applied = _apply(connection, event, moved=bool(left))
    for row in left:
        database.execute(
            connection,
            "carry_verdicts",
            old_property_id=row["property_id"],
            old_photo_id=row["id"],
            property_id=event.property_id,
            photo_id=applied.photo.photo_id,
        )
    return applied


def _leave_others(connection: database.Connection, event: events.Event) -> list[database.Row]:
    """Take the locks that an event needs, and its photo out of every other property; returns its rows there."""
    place = {"bucket": event.bucket, "key": event.key}
    # Two events of one object under two key patterns: the second must see the first one's row.
    database.execute(connection, "lock_place", **place)
    others = database.execute(connection, "elsewhere", **place, property_id=event.property_id).fetchall()
    # In one order everywhere, so that two moves between the same properties do not wait for each other.
    for property_id in sorted({event.property_id, *(row["property_id"] for row in others)}):
        database.execute(connection, "lock_property", property_id=property_id)
    if others:
        # What is written there may have changed before the locks were had.
        others = database.execute(connection, "elsewhere", **place, property_id=event.property_id).fetchall()
    for row in others:
        remove(connection, Revision(row["property_id"], row["id"], row["revision"]), reason="moved")
    return others


def _apply(connection: database.Connection, event: events.Event, *, moved: bool) -> Applied:
    place = {"property_id": event.property_id, "bucket": event.bucket, "key": event.key}
    order = {"sequencer": event.sequencer, "occurred_at": event.occurred_at}
    created = event.kind is events.Kind.CREATED
    status = "pending" if created else "removed"
    # A removal that overtook its creation leaves a row too: the late creation must find its sequencer.
    new = database.execute(
        connection, "insert_photo", **place, **order, etag=event.etag, status=status, bytes=event.size
    ).fetchone()
    if new:
        return Applied(Outcome(status), Revision(event.property_id, new["id"], new["revision"]))

    row = database.execute(connection, "photo_by_key", **place).fetchone()
    if row is None:
        raise errors.TransientError(f"{event.key} vanished while its event was applied.")
    photo = Revision(event.property_id, row["id"], row["revision"])
    ids = {"property_id": event.property_id, "photo_id": row["id"]}
    # A photo that still waits is published again: the message of its first event may have been lost.
    still = Applied(Outcome.PENDING if row["status"] == "pending" else Outcome.IGNORED, photo)
    # What once left this property comes back with the very event that it had then.
    back = moved and row["status"] == "removed" and row["failure"] == "moved"
    newer = events.is_newer(event.sequencer, event.occurred_at, row["sequencer"], row["occurred_at"])
    if not (newer or back):
        return still
    if not created:
        database.execute(connection, "touch_photo", **ids, **order, uploaded_at=row["uploaded_at"])
        remove(connection, photo, reason=None)
        return Applied(Outcome.REMOVED, photo)
    anonymous = event.etag == ""
    uploaded_at = row["uploaded_at"] if anonymous else event.occurred_at
    same_content = event.etag == row["etag"] and (not anonymous or event.occurred_at == row["occurred_at"])
    if same_content and row["status"] in {"pending", "embedded"}:
        if (event.sequencer, event.occurred_at) == (row["sequencer"], row["occurred_at"]):
            return still
        database.execute(connection, "touch_photo", **ids, **order, uploaded_at=uploaded_at)
        # Between the two events the object may have been another, or gone, with an event that comes too late to
        # count: what a worker read then must not be kept.
        renewed_photo = _renew(connection, photo)
        matching.regroup(connection, event.property_id)
        return dataclasses.replace(still, photo=renewed_photo)
    # Without both ETags the bytes tell, once they are read. Otherwise the old ones are forgotten: a verdict given
    # until then is on the new picture.
    undecided = anonymous or (row["etag"] == "" and row["sha256"] is not None)
    if not (same_content or undecided):
        database.execute(connection, "drop_verdicts", **ids)
    renewed = {
        "etag": event.etag,
        "uploaded_at": uploaded_at,
        "bytes": event.size,
        "keep_sha256": same_content or undecided,
    }
    database.execute(connection, "new_revision", **ids, **order, **renewed)
    _forget(connection, event.property_id, row["id"])
    return Applied(Outcome.PENDING, dataclasses.replace(photo, revision=photo.revision + 1))


def _renew(connection: database.Connection, photo: Revision) -> Revision:
    """Begin a new revision of the same content; what is embedded stays."""
    database.execute(connection, "renew_photo", **dataclasses.asdict(photo))
    database.execute(connection, "renew_embeddings", **dataclasses.asdict(photo))
    return dataclasses.replace(photo, revision=photo.revision + 1)


def reject(connection: database.Connection, rejection: events.Rejection) -> None:
    """Put a record that was not understood on record."""
    # Postgres stores no NUL in text.
    parts = {key: value.replace("\x00", "\\u0000") for key, value in dataclasses.asdict(rejection).items()}
    database.execute(connection, "insert_rejection", **parts)


def store(connection: database.Connection, photo: Revision, embedded: Embedded) -> Stored:
    """Keep a photo's embeddings; not when it was removed or replaced while they were computed.

    One of a model that was retired meanwhile is left out. The photo counts as not matched until all are matched.
    """
    ids = dataclasses.asdict(photo)
    seen = database.execute(connection, "seen_content", **ids).fetchone()
    if seen is None:
        return Stored(kept=False)
    if seen["sha256"] not in {None, embedded.sha256}:
        # Other bytes than those that people judged and that other models embedded, though no ETag had said so.
        for gone in ("drop_verdicts", "drop_embeddings", "drop_pairs"):
            database.execute(connection, gone, property_id=photo.property_id, photo_id=photo.photo_id)
    stored = written(write(connection, photo, embedded, seen["etag"]))
    observations.tell(observations.PhotoEmbedded(stored.age_seconds))
    return stored


def write(connection: database.Connection, photo: Revision, embedded: Embedded, etag: str) -> Written:
    """What `store` writes, its answer not waited for; `written` reads it. `etag` is the one on record."""
    ids = dataclasses.asdict(photo)
    marked = database.execute(
        connection,
        "embedded",
        **ids,
        # Bytes newer than the event on record: without an ETag, their own event is not taken for known.
        etag=etag if etag in {"", embedded.etag} else "",
        width=embedded.width,
        height=embedded.height,
        bytes=embedded.bytes,
        sha256=embedded.sha256,
    )
    # In one order everywhere: the models' rows are locked one after the other.
    for model_id, embedding in sorted(embedded.embeddings.items()):
        vector = pgvector.HalfVector(embedding)
        database.execute(connection, "store_embedding", **ids, model_id=model_id, embedding=vector)
    lacking = database.execute(
        connection, "lacking_models", property_id=photo.property_id, photo_id=photo.photo_id
    )
    return Written(marked, lacking)


def written(answers: Written) -> Stored:
    """What `write` came to."""
    marked = answers.marked.fetchone()
    age = marked["age_seconds"] if marked is not None else 0.0
    return Stored(kept=True, lacking=tuple(row["id"] for row in answers.lacking), age_seconds=age)


def fail(connection: database.Connection, photo: Revision, reason: str, message: str) -> None:
    """Park a pending photo with its reason. An object that is gone is a removal whose event is late or lost."""
    database.execute(connection, "lock_property", property_id=photo.property_id)
    if reason == "object_gone":
        remove(connection, photo, reason)
        return
    ids = dataclasses.asdict(photo)
    # Postgres stores no NUL in text.
    text = message.replace("\x00", "\\u0000")
    if database.execute(connection, "failed", **ids, reason=reason, message=text).fetchone():
        _forget(connection, photo.property_id, photo.photo_id)
        observations.tell(observations.PhotoFailed(reason))
    else:
        # Embedded anew, and not for the better: what it had stays, and who waits for it sees that it was tried.
        database.execute(connection, "looked_at", **ids, reason=reason)


def park_lacking(
    connection: database.Connection, photo: Revision, model_id: str, tried_until: datetime.datetime
) -> bool:
    """Park an embedded photo as failed that lacks an embedding of a model; whether it did.

    To be run alone in its transaction. Not one to which something happened after `tried_until`, when a backfill of the
    model was finished: nobody may have tried that one.
    """
    database.execute(connection, "lock_property", property_id=photo.property_id)
    ids = dataclasses.asdict(photo)
    message = f"It could not be embedded by model {model_id}."
    if not database.execute(
        connection, "park_lacking", **ids, model_id=model_id, message=message, tried_until=tried_until
    ).fetchone():
        return False
    _forget(connection, photo.property_id, photo.photo_id)
    observations.tell(observations.PhotoFailed("lacks_model"))
    return True


def park_unmatched(connection: database.Connection, photo: Revision, message: str) -> bool:
    """Park an embedded photo as failed whose match always fails; whether it did.

    To be run alone in its transaction. It leaves its property's groups, as whatever is parked; put back, it is embedded
    and matched anew.
    """
    database.execute(connection, "lock_property", property_id=photo.property_id)
    text = message.replace("\x00", "\\u0000")
    parked = database.execute(connection, "park_unmatched", **dataclasses.asdict(photo), message=text)
    if not parked.fetchone():
        return False
    _forget(connection, photo.property_id, photo.photo_id)
    observations.tell(observations.PhotoFailed("unmatched"))
    return True


def remove(connection: database.Connection, photo: Revision, reason: str | None) -> None:
    """Take a photo out and repair its group in the same transaction; its row stays, with its sequencer.

    The caller holds the property's lock.
    """
    if database.execute(connection, "remove_photo", **dataclasses.asdict(photo), reason=reason).fetchone():
        _forget(connection, photo.property_id, photo.photo_id)


def _forget(connection: database.Connection, property_id: str, photo_id: int) -> None:
    ids = {"property_id": property_id, "photo_id": photo_id}
    database.execute(connection, "drop_embeddings", **ids)
    database.execute(connection, "drop_pairs", **ids)
    matching.regroup(connection, property_id)


@dataclasses.dataclass(frozen=True)
class Overdue:
    """A photo that waits to be embedded or matched, and how often in a row its task gave up."""

    photo: Revision
    postponed: int


def overdue(
    connection: database.Connection, older_than_seconds: float, limit: int
) -> tuple[list[Overdue], list[Overdue]]:
    """Photos that nothing has happened to for too long: those to embed, and those embedded but not matched.

    At most `limit` of them, the oldest; each is given out once in `older_than_seconds`, whoever asks.
    """
    rows = database.execute(
        connection, "overdue", older_than_seconds=older_than_seconds, limit=limit
    ).fetchall()
    embed: list[Overdue] = []
    match: list[Overdue] = []
    for row in sorted(rows, key=lambda row: row["waits_since"]):
        photo = Revision(row["property_id"], row["id"], row["revision"])
        (embed if row["status"] == "pending" else match).append(Overdue(photo, row["postponed"]))
    return embed, match
