"""A folder of photos as a bucket: what is in it is uploaded, what left it is deleted, then awaited."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from core import census, database, errors
from workers import embedded

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif"}
)
_QUIET_SECONDS = 180.0
"""With nothing happening for so long, something is broken; a worker's first start needs a part of it."""

Report = Callable[[int, int], None]
Content = tuple[str, str, str]
"""Property, key and ETag of an uploaded file."""


@dataclasses.dataclass(frozen=True)
class Upload:
    """One picture file: `name` is its path within the property's folder."""

    property_id: str
    name: str
    path: pathlib.Path

    @property
    def key(self) -> str:
        """Its object key, by the default key pattern."""
        return f"properties/{self.property_id}/photos/{self.name}"


def photo_name(key: str) -> str:
    """The name of a photo within its property, out of a key made by `Upload.key`."""
    return key.split("/", 3)[3]


def find(folder: pathlib.Path) -> list[Upload]:
    """The pictures of a folder: each sub-folder is a property, pictures beside them belong to one of its name.

    Raises:
        ConfigurationError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise errors.ConfigurationError(f"{folder} is not a folder.")
    found = list(_walk(folder.resolve()))
    if not found:
        raise errors.ConfigurationError(
            f"No pictures in {folder} ({', '.join(sorted(SUFFIXES))}); a sub-folder is a property."
        )
    keys = collections.Counter(item.key for item in found)
    twice = [key for key, count in keys.items() if count > 1]
    if twice:
        raise errors.ConfigurationError(
            f"{folder} holds pictures beside a sub-folder of its own name, and both give {twice[0]}; rename one."
        )
    return found


def upload(s3: Any, bucket: str, uploads: list[Upload], report: Report) -> set[Content]:
    """Make the bucket hold exactly these files, and return what it then holds.

    What is there already, unchanged, is not sent again.
    """
    there = {
        item["Key"]: item["ETag"].strip('"')
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        for item in page.get("Contents", [])
    }
    for key in there.keys() - {item.key for item in uploads}:
        s3.delete_object(Bucket=bucket, Key=key)
    contents: set[Content] = set()
    for number, item in enumerate(uploads, 1):
        data = item.path.read_bytes()
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if there.get(item.key) != etag:
            s3.put_object(Bucket=bucket, Key=item.key, Body=data)
        contents.add((item.property_id, item.key, etag))
        report(number, len(uploads))
    return contents


def wait(stack: embedded.Stack, base: database.Database, expected: set[Content], report: Report) -> None:
    """Wait until just these contents are on record and decided: embedded and matched, or failed with a reason.

    Raises:
        TransientError: nothing happened for minutes.
    """
    done_before, changed = -1, time.monotonic()
    while True:
        stack.check()
        with base.transaction() as connection:
            live, settled = census.census(connection)
        done = len(settled & expected)
        report(done, len(expected))
        if done == len(expected) and live == expected:
            return
        if done != done_before:
            done_before, changed = done, time.monotonic()
        elif time.monotonic() - changed > _QUIET_SECONDS:
            raise errors.TransientError(
                f"Nothing happened for {_QUIET_SECONDS:.0f} s with {done} of {len(expected)} photos done; "
                f"see {stack.log_file('embed')}."
            )
        time.sleep(0.1)


def _walk(folder: pathlib.Path) -> Iterator[Upload]:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.suffix.lower() in SUFFIXES and path.is_file() and not hidden:
            if len(inside.parts) == 1:
                yield Upload(folder.name, inside.name, path)
            else:
                yield Upload(inside.parts[0], "/".join(inside.parts[1:]), path)
