"""What the store tells: S3 event records out of raw notifications, however they were wrapped.

Sources: Amazon S3 user guide, *Event message structure* and *Event ordering and duplicate events*;
Amazon SNS, *HTTP/SQS notification JSON format*; Amazon EventBridge, *S3 event message structure*.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

from core import errors

MAX_PROPERTY_ID_BYTES = 200
"""A longer id would not fit the embedding's row (8,160 bytes with STORAGE PLAIN)."""


MAX_KEY_BYTES = 1024
"""S3's own limit."""


class Kind(enum.Enum):
    """What happened to the object."""

    CREATED = "created"
    REMOVED = "removed"


@dataclasses.dataclass(frozen=True)
class Event:
    """One thing that happened to one object, already assigned to its property.

    `sequencer` is upper-case hex, `etag` may be empty, each where the store gives none; `occurred_at` is UTC.
    """

    kind: Kind
    bucket: str
    key: str
    property_id: str
    etag: str
    size: int | None
    sequencer: str
    occurred_at: datetime.datetime


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A record that was not understood: it goes on record with its reason."""

    reason: str
    message: str
    body: str


@dataclasses.dataclass(frozen=True)
class Notification:
    """What one message of the event queue held, in its order."""

    events: tuple[Event, ...]
    rejections: tuple[Rejection, ...]


@dataclasses.dataclass(frozen=True)
class KeyPattern:
    """Which property an object belongs to, by its bucket and key."""

    pattern: re.Pattern[str]
    buckets: frozenset[str]

    def property_of(self, bucket: str, key: str) -> str:
        """The property of an object.

        Raises:
            PermanentError: ``unknown_bucket``, ``no_property``, ``bad_key``.
        """
        if bucket not in self.buckets:
            raise errors.PermanentError(
                "unknown_bucket",
                f"Bucket {bucket!r} is not in DEDUP_BUCKETS={','.join(sorted(self.buckets))}.",
            )
        if "\x00" in key or not _is_unicode(key) or len(key.encode()) > MAX_KEY_BYTES:
            raise errors.PermanentError(
                "bad_key",
                f"Key {key[:80]!r} holds NUL or half a character, or is longer than {MAX_KEY_BYTES} bytes.",
            )
        found = self.pattern.fullmatch(key)
        if not found or not found["property"]:
            raise errors.PermanentError(
                "no_property", f"Key {key!r} does not match DEDUP_KEY_PATTERN={self.pattern.pattern}."
            )
        property_id = found["property"]
        if len(property_id.encode()) > MAX_PROPERTY_ID_BYTES:
            raise errors.PermanentError(
                "bad_key", f"Property id {property_id[:40]!r}… is longer than {MAX_PROPERTY_ID_BYTES} bytes."
            )
        return property_id


def key_pattern(text: str, buckets: Iterable[str]) -> KeyPattern:
    """The pattern of DEDUP_KEY_PATTERN. A dot stands for any character: S3's keys may hold line breaks, too."""
    return KeyPattern(re.compile(text, re.DOTALL), frozenset(buckets))


def parse(body: bytes | str, pattern: KeyPattern) -> Notification:
    """Read one message of the event queue. Never raises: what is not understood becomes a rejection.

    Understood: S3 records (several a message), ``s3:TestEvent`` (nothing to do), both also inside an
    SNS envelope, and EventBridge's "Object Created" / "Object Deleted".
    """
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    try:
        message = json.loads(text)
        records = _records(message)
    except (ValueError, OverflowError, RecursionError) as error:
        return Notification((), (Rejection("not_understood", str(error), text),))
    events: list[Event] = []
    rejections: list[Rejection] = []
    for record in records:
        try:
            events.append(_event(record, pattern))
        except errors.PermanentError as error:
            rejections.append(Rejection(error.reason, str(error), json.dumps(record)))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            rejections.append(
                Rejection("not_understood", f"{type(error).__name__}: {error}", json.dumps(record))
            )
    return Notification(tuple(events), tuple(rejections))


def is_newer(
    sequencer: str, occurred_at: datetime.datetime, than: str, than_at: datetime.datetime | None
) -> bool:
    """Whether an event happened after the one that was last applied to the same key.

    S3's rule: pad the shorter sequencer on the right with zeros and compare as strings. Where one of the
    two has none, the event times decide, and of equal times the one that arrived last counts as newer.
    """
    if sequencer and than:
        width = max(len(sequencer), len(than))
        return sequencer.ljust(width, "0") > than.ljust(width, "0")
    return than_at is None or occurred_at >= than_at


def record(event: Event) -> dict[str, Any]:
    """An event as the S3 record that `parse` reads it from."""
    created = event.kind is Kind.CREATED
    s3_object: dict[str, Any] = {"key": urllib.parse.quote_plus(event.key), "eTag": event.etag}
    if event.sequencer:
        s3_object["sequencer"] = event.sequencer
    if event.size is not None:
        s3_object["size"] = event.size
    return {
        "eventName": "ObjectCreated:Put" if created else "ObjectRemoved:Delete",
        "eventTime": event.occurred_at.isoformat(),
        "s3": {"bucket": {"name": event.bucket}, "object": s3_object},
    }


def _records(message: Any) -> list[Any]:
    if not isinstance(message, dict):
        raise ValueError(f"a JSON object was expected, found {type(message).__name__}")
    if isinstance(message.get("Records"), list):
        return list(message["Records"])
    if "eventName" in message and "s3" in message:
        # A record by itself, as it stands in rejected_event.
        return [message]
    if message.get("Event") == "s3:TestEvent":
        return []
    if message.get("Type") == "Notification" and isinstance(message.get("Message"), str):
        return _records(json.loads(message["Message"]))
    if message.get("source") == "aws.s3" and isinstance(message.get("detail"), dict):
        return [_from_event_bridge(message)]
    raise ValueError(
        f"neither S3 records nor an SNS or EventBridge envelope; its keys are {sorted(message)[:8]}"
    )


def _from_event_bridge(message: Mapping[str, Any]) -> dict[str, Any]:
    detail = message["detail"]
    s3_object = dict(detail.get("object") or {})
    permanently = detail.get("deletion-type") == "Permanently Deleted"
    kinds = {
        "Object Created": "ObjectCreated:EventBridge",
        "Object Deleted": "ObjectRemoved:Delete" if permanently else "ObjectRemoved:DeleteMarkerCreated",
    }
    if isinstance(s3_object.get("key"), str):
        # EventBridge does not URL-encode keys; S3's own records do.
        s3_object["key"] = urllib.parse.quote_plus(s3_object["key"])
    return {
        "eventName": kinds.get(str(message.get("detail-type")), str(message.get("detail-type"))),
        "eventTime": message.get("time"),
        "s3": {
            "bucket": detail.get("bucket"),
            "object": {**s3_object, "eTag": s3_object.get("etag"), "versionId": s3_object.get("version-id")},
        },
    }


def _event(record: Any, pattern: KeyPattern) -> Event:
    name = str(record["eventName"]).removeprefix("s3:")
    if name.startswith("ObjectCreated:"):
        kind = Kind.CREATED
    elif name.startswith("ObjectRemoved:"):
        kind = Kind.REMOVED
    else:
        raise errors.PermanentError("other_event", f"{name} is neither ObjectCreated:* nor ObjectRemoved:*.")
    s3 = record["s3"]
    if name == "ObjectRemoved:Delete" and s3["object"].get("versionId"):
        # One version of several was deleted: another may have become current, so look at the key again.
        kind = Kind.CREATED
    bucket = str(s3["bucket"]["name"])
    key = urllib.parse.unquote_plus(str(s3["object"]["key"]), errors="strict")
    sequencer = str(s3["object"].get("sequencer") or "").upper()
    if sequencer and not re.fullmatch(r"[0-9A-F]{1,64}", sequencer):
        raise ValueError(f"sequencer {sequencer[:80]!r} is not hexadecimal")
    size = s3["object"].get("size")
    if size is not None and not 0 <= int(size) < 2**63:
        raise ValueError(f"size {size} is out of range")
    return Event(
        kind=kind,
        bucket=bucket,
        key=key,
        property_id=pattern.property_of(bucket, key),
        etag="" if name.startswith("ObjectRemoved:") else _etag(s3["object"].get("eTag")),
        size=None if size is None else int(size),
        sequencer=sequencer,
        occurred_at=_time(record.get("eventTime")),
    )


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _etag(value: Any) -> str:
    etag = str(value or "").strip('"')
    if "\x00" in etag or len(etag) > 200 or not _is_unicode(etag):
        raise ValueError(f"eTag {etag[:80]!r} cannot be one")
    return etag


def _time(value: Any) -> datetime.datetime:
    if not value:
        return datetime.datetime.now(datetime.UTC)
    moment = datetime.datetime.fromisoformat(str(value))
    return moment.replace(tzinfo=datetime.UTC) if moment.tzinfo is None else moment.astimezone(datetime.UTC)
