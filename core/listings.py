"""What a bucket holds, by listing it or by its inventory, against what is on record of it.

Source: Amazon S3 user guide, *Amazon S3 Inventory* (CSV without a header, keys URL-encoded).
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import gzip
import io
import pathlib
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import botocore.exceptions

from core import database, errors, events, photos

INVENTORY_COLUMNS = ("Bucket", "Key", "Size", "LastModifiedDate", "ETag")
PAGE_OBJECTS = 1000
LAST_KEY = "\U0010ffff"
"""Comes after every key."""


@dataclasses.dataclass(frozen=True)
class Listed:
    """An object as a listing tells of it."""

    key: str
    etag: str
    size: int
    modified_at: datetime.datetime


def list_bucket(s3: Any, bucket: str, prefix: str, after: str) -> Iterator[list[Listed]]:
    """The objects of a bucket in pages, in the order of their keys' bytes, beginning after a key.

    Raises:
        ConfigurationError: the store refuses.
        TransientError: it does not answer.
    """
    try:
        pages = s3.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=prefix, StartAfter=after, PaginationConfig={"PageSize": PAGE_OBJECTS}
        )
        for page in pages:
            yield [
                Listed(item["Key"], item["ETag"].strip('"'), item["Size"], item["LastModified"])
                for item in page.get("Contents", [])
            ]
    except botocore.exceptions.ClientError as error:
        raise errors.ConfigurationError(
            f"Bucket {bucket} cannot be listed ({error}); it takes s3:ListBucket."
        ) from error
    except botocore.exceptions.BotoCoreError as error:
        raise errors.TransientError(f"Bucket {bucket} cannot be listed now: {error}") from error


def read_inventory(
    files: Sequence[pathlib.Path], columns: Sequence[str], bucket: str, prefix: str
) -> Iterator[Listed]:
    """The current objects of a bucket out of its inventory's CSV files, plain or compressed, in their order.

    Raises:
        ConfigurationError: a file cannot be read, or a line does not fit the columns.
    """
    for path in files:
        try:
            with path.open("rb") as raw:
                packed = raw.read(2) == b"\x1f\x8b"
                raw.seek(0)
                plain = gzip.open(raw) if packed else raw  # noqa: SIM115 - closed with the text below it
                with io.TextIOWrapper(plain, "utf-8", newline="") as text:
                    for number, line in enumerate(csv.reader(text), 1):
                        if len(line) != len(columns):
                            raise errors.ConfigurationError(
                                f"{path}, line {number}: {len(line)} columns, expected {len(columns)} "
                                f"({', '.join(columns)}); name them with --columns, as in the manifest's fileSchema."
                            )
                        listed = _inventory_line(
                            dict(zip(columns, line, strict=True)), f"{path}, line {number}"
                        )
                        if listed and listed[0] == bucket and listed[1].key.startswith(prefix):
                            yield listed[1]
        except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
            raise errors.ConfigurationError(f"{path} cannot be read as an inventory: {error}") from error


def unknown(connection: database.Connection, bucket: str, found: Sequence[Listed]) -> list[Listed]:
    """Those of the objects that are not on record with these contents."""
    known = {
        row["key"]: row["etag"]
        for row in database.execute(
            connection, "known_objects", bucket=bucket, keys=[item.key for item in found]
        )
        if row["status"] != "removed"
    }
    return [item for item in found if known.get(item.key) != item.etag]


def event(bucket: str, item: Listed, pattern: events.KeyPattern) -> events.Event:
    """The event that the object's upload should have raised.

    Raises:
        PermanentError: its key is not a photo's.
    """
    return events.Event(
        kind=events.Kind.CREATED,
        bucket=bucket,
        key=item.key,
        property_id=pattern.property_of(bucket, item.key),
        etag=item.etag,
        size=item.size,
        sequencer="",
        occurred_at=item.modified_at,
    )


def on_record(
    connection: database.Connection, bucket: str, prefix: str, after: str, last: str, limit: int
) -> dict[str, photos.Revision]:
    """By key, at most `limit` photos on record whose keys lie after one and up to another, in order."""
    found = database.execute(
        connection, "photos_of_bucket", bucket=bucket, prefix=prefix, after=after, last=last, limit=limit
    )
    return {row.pop("key"): photos.Revision(**row) for row in found}


def is_gone(s3: Any, bucket: str, key: str) -> bool:
    """Whether the store says for certain that there is no such object.

    Raises:
        TransientError: it does not say.
    """
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except botocore.exceptions.ClientError as error:
        if error.response.get("Error", {}).get("Code") in {"404", "NoSuchKey", "NotFound"}:
            return True
        raise errors.TransientError(f"s3://{bucket}/{key} cannot be looked at now: {error}") from error
    except botocore.exceptions.BotoCoreError as error:
        raise errors.TransientError(f"s3://{bucket}/{key} cannot be looked at now: {error}") from error
    return False


def _inventory_line(line: Mapping[str, str], place: str) -> tuple[str, Listed] | None:
    """Bucket and object of a line; None for what is not current."""
    if line.get("IsLatest", "true").lower() == "false" or line.get("IsDeleteMarker", "").lower() == "true":
        return None
    try:
        moment = datetime.datetime.fromisoformat(line["LastModifiedDate"])
        key = urllib.parse.unquote_plus(line["Key"], errors="strict")
        item = Listed(key, line["ETag"].strip('"'), int(line["Size"] or 0), moment)
        return line["Bucket"], item
    except (KeyError, ValueError) as error:
        raise errors.ConfigurationError(
            f"{place}: {type(error).__name__}: {error}; needed are the columns {', '.join(INVENTORY_COLUMNS)}."
        ) from error
