"""What the tables must hold in the end: told from the operations alone, one after the other, in plain Python.

It shares no code with what it judges but the backbone and the classifier, by which the contents were scored before
(`contents.Truth`). The rules are those of docs/architecture.md.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tests.soak import contents, stars

SCORE_TOLERANCE = 0.01
"""Of a score on record: embeddings are stored in half precision and computed in batches of any size."""

LEAST_COSINE = 0.9999
"""Between the embedding on record and the one of the content that the photo must have."""

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Put:
    """A content was stored under a key, as a new photo or in the place of another."""

    at: datetime.datetime
    property_id: str
    key: str
    content: contents.Content


@dataclasses.dataclass(frozen=True)
class Delete:
    """The object of a key was deleted."""

    at: datetime.datetime
    property_id: str
    key: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A person's word on two photos of one property, both on record with their present contents."""

    property_id: str
    pair: stars.Pair
    duplicate: bool


Operation = Put | Delete | Verdict


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photo as it must end. `content` None: removed."""

    property_id: str
    uploaded_at: datetime.datetime
    content: contents.Content | None

    @property
    def state(self) -> str:
        """Its status on record and, where it failed, after a colon the reason."""
        if self.content is None:
            return "removed"
        return f"failed:{self.content.failure}" if self.content.failure else "embedded"


@dataclasses.dataclass(frozen=True)
class Tables:
    """What is on record, as rows; photos are named by their keys (`key`, `key_a`, `key_b`, `duplicate_of_key`).

    `feed` is in its own order.
    """

    photos: Sequence[Row]
    embeddings: Sequence[Row]
    pairs: Sequence[Row]
    verdicts: Sequence[Row]
    flags: Sequence[Row]
    feed: Sequence[Row]


def final_photos(operations: Iterable[Operation]) -> dict[str, Photo]:
    """Every photo that ever was, by key, as the last operation on it left it."""
    result: dict[str, Photo] = {}
    for operation in operations:
        if isinstance(operation, Put):
            result[operation.key] = Photo(operation.property_id, operation.at, operation.content)
        elif isinstance(operation, Delete):
            result[operation.key] = dataclasses.replace(result[operation.key], content=None)
    return result


def final_verdicts(operations: Iterable[Operation]) -> dict[stars.Pair, bool]:
    """The verdicts that still stand: one falls when a picture of its pair is replaced by another, not when it is
    removed or comes back.
    """
    result: dict[stars.Pair, bool] = {}
    last: dict[str, str] = {}
    for operation in operations:
        if isinstance(operation, Verdict):
            result[operation.pair] = operation.duplicate
        elif isinstance(operation, Put):
            if last.get(operation.key) != operation.content.etag:
                result = {pair: word for pair, word in result.items() if operation.key not in pair}
            last[operation.key] = operation.content.etag
    return result


def differences(operations: Sequence[Operation], truth: contents.Truth, tables: Tables) -> list[str]:
    """Every difference between the tables and what the operations must have led to, in words."""
    photos = final_photos(operations)
    verdicts = final_verdicts(operations)
    return [
        *_photos(photos, tables.photos),
        *_embeddings(photos, truth, tables),
        *_pairs(photos, truth, tables.pairs),
        *_verdicts(verdicts, tables.verdicts),
        *_flags(photos, verdicts, truth, tables),
        *_feed(tables),
    ]


def _photos(photos: Mapping[str, Photo], rows: Iterable[Row]) -> Iterable[str]:
    found: dict[str, Row] = {}
    for row in rows:
        if row["key"] in found:
            yield f"photo {row['key']} has two rows"
        found[row["key"]] = row
    yield from _sets("photo", photos.keys(), found.keys())
    for key in photos.keys() & found.keys():
        photo, row = photos[key], found[key]
        # Why a photo was removed depends on who saw it first, the event or a worker.
        state = ":".join(filter(None, (row["status"], row["failure"] if row["status"] == "failed" else None)))
        expected = {"property_id": photo.property_id, "state": photo.state}
        seen = {"property_id": row["property_id"], "state": state}
        if photo.content is not None:
            expected |= {"etag": photo.content.etag, "uploaded_at": str(photo.uploaded_at)}
            seen |= {"etag": row["etag"], "uploaded_at": str(row["uploaded_at"])}
            if photo.content.failure is None:
                expected |= {"sha256": photo.content.sha256, "matched": "True"}
                seen |= {"sha256": row["sha256"], "matched": str(row["matched_at"] is not None)}
        for name, value in expected.items():
            if seen[name] != value:
                yield f"photo {key}: {name} is {seen[name]}, must be {value}"


def _embeddings(photos: Mapping[str, Photo], truth: contents.Truth, tables: Tables) -> Iterable[str]:
    revisions = {row["key"]: row["revision"] for row in tables.photos}
    good = _good(photos)
    yield from _sets("embedding", good.keys(), [row["key"] for row in tables.embeddings])
    for row in tables.embeddings:
        key = row["key"]
        if key not in good:
            continue
        if row["revision"] != revisions.get(key):
            yield f"embedding {key}: revision {row['revision']}, the photo's is {revisions.get(key)}"
        vector = np.asarray(row["embedding"], dtype=np.float32)
        cosine = float(vector @ truth.vectors[good[key]] / np.linalg.norm(vector))
        if cosine < LEAST_COSINE:
            yield f"embedding {key}: is not of its content (cosine {cosine:.4f})"


def _pairs(photos: Mapping[str, Photo], truth: contents.Truth, rows: Sequence[Row]) -> Iterable[str]:
    expected = _expected_scores(photos, truth, truth.review)
    yield from _sets("pair", expected.keys(), [_pair(row) for row in rows])
    for row in rows:
        wanted = expected.get(_pair(row))
        if wanted is not None and abs(row["score"] - wanted) > SCORE_TOLERANCE:
            yield f"pair {_pair(row)}: score {row['score']:.4f}, must be {wanted:.4f}"


def _verdicts(verdicts: Mapping[stars.Pair, bool], rows: Sequence[Row]) -> Iterable[str]:
    found = {_pair(row): row for row in rows}
    yield from _sets("verdict", verdicts.keys(), found.keys())
    for pair in verdicts.keys() & found.keys():
        if found[pair]["duplicate"] != verdicts[pair]:
            yield f"verdict {pair}: is {found[pair]['duplicate']}, must be {verdicts[pair]}"
        if found[pair]["applied_at"] is None:
            yield f"verdict {pair}: still waits to be applied"


def _flags(
    photos: Mapping[str, Photo], verdicts: Mapping[stars.Pair, bool], truth: contents.Truth, tables: Tables
) -> Iterable[str]:
    duplicates = _expected_scores(photos, truth, truth.duplicate)
    # The scores on record were checked against the expected ones; between two canonical photos that are as alike,
    # and for the score of the flag itself, their last digits decide.
    on_record = {_pair(row): row["score"] for row in tables.pairs}
    scores = {pair: on_record.get(pair, score) for pair, score in duplicates.items()}
    order: dict[str, list[str]] = collections.defaultdict(list)
    for key, photo in sorted(photos.items(), key=lambda item: (item[1].uploaded_at, item[0])):
        if photo.content is not None:
            order[photo.property_id].append(key)
    expected: dict[str, stars.Flag] = {}
    for keys in order.values():
        expected |= stars.flags(keys, scores, verdicts)
    found = {row["key"]: _flag(row) for row in tables.flags}
    yield from _sets("flag", expected.keys(), found.keys())
    for key in expected.keys() & found.keys():
        if found[key] != expected[key]:
            yield f"flag {key}: is {found[key]}, must be {expected[key]}"


def _feed(tables: Tables) -> Iterable[str]:
    replayed: dict[str, stars.Flag] = {}
    for row in tables.feed:
        if row["duplicate_of_key"] is None:
            if replayed.pop(row["key"], None) is None:
                yield f"feed: takes back a flag of {row['key']} that it never gave"
        elif replayed.get(row["key"]) == _flag(row):
            yield f"feed: tells the flag of {row['key']} twice"
        else:
            replayed[row["key"]] = _flag(row)
    if replayed != {row["key"]: _flag(row) for row in tables.flags}:
        yield f"feed: replayed from zero it gives {len(replayed)} flags, not the {len(tables.flags)} on record"


def _good(photos: Mapping[str, Photo]) -> dict[str, str]:
    """ETags of the photos that must be embedded, by key."""
    return {
        key: photo.content.etag
        for key, photo in photos.items()
        if photo.content is not None and photo.content.failure is None
    }


def _expected_scores(
    photos: Mapping[str, Photo], truth: contents.Truth, threshold: float
) -> dict[stars.Pair, float]:
    by_property: dict[str, list[str]] = collections.defaultdict(list)
    good = _good(photos)
    for key in sorted(good):
        by_property[photos[key].property_id].append(key)
    result = {}
    for keys in by_property.values():
        for number, one in enumerate(keys):
            for other in keys[number + 1 :]:
                score = truth.scores[good[one], good[other]]
                if score >= threshold:
                    result[one, other] = score
    return result


def _sets(what: str, expected: Iterable[Any], found: Iterable[Any]) -> Iterable[str]:
    wanted, there = collections.Counter(expected), collections.Counter(found)
    yield from (f"{what} {name}: is missing" for name in (wanted - there))
    yield from (f"{what} {name}: must not be there" for name in (there - wanted))


def _pair(row: Row) -> stars.Pair:
    return stars.ordered(row["key_a"], row["key_b"])


def _flag(row: Row) -> stars.Flag:
    return stars.Flag(row["duplicate_of_key"], row["decided_by"], row["score"])
