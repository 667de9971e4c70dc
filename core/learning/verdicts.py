"""A pair set of people's verdicts: an installation's own labels, with the photos as they are in its store.

In the format of `pairs.read`: ``pairs.csv``, ``images/``, and ``left_out.csv`` with the photos that could not be used.
"""

from __future__ import annotations

import collections
import concurrent.futures
import csv
import dataclasses
import hashlib
import logging
import pathlib
import re
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

from core import database, errors, images, objects
from core.learning import pairs

KIND = "verdict"
LEFT_OUT = "left_out.csv"
_VAL_EACH = 5
_FETCHES = 8
_SMALLEST_PIXELS = 32

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Photo:
    """A photo with a verdict, as it is on record; `etag` and `sha256` are empty where they are not known."""

    property_id: str
    id: int
    bucket: str
    key: str
    etag: str
    sha256: str
    removed: bool

    @property
    def name(self) -> str:
        """File name in the set. Properties have any characters; so do keys, but their ending helps a person."""
        ending = re.fullmatch(r".*(\.[A-Za-z0-9]{1,5})", self.key, re.DOTALL)
        return f"{_digest(self.property_id)[:12]}-{self.id}{ending[1].lower() if ending else ''}"


def split_of(property_id: str) -> str:
    """The split of a property: one in five is val, always the same ones."""
    return "val" if int(_digest(property_id), 16) % _VAL_EACH == 0 else "train"


def write(
    base: database.Database,
    s3: Any,
    output: pathlib.Path,
    *,
    max_photo_bytes: int,
    max_photo_pixels: int,
    progress: Callable[[int, int], None] | None = None,
) -> pairs.PairSet:
    """Fetch every photo that a person gave a verdict on and write the verdicts as labelled pairs.

    A photo is left out with its verdicts, and counted, when it is gone, cannot be decoded, or is not the one that
    was judged any more. Pairs of identical files stay: they are what the installation sees.

    Args:
        base: the database of the verdicts; no transaction stays open while photos are fetched.
        s3: a client of `objects.client`.
        output: an empty or absent folder.
        max_photo_bytes: larger photos are left out.
        max_photo_pixels: the same for width × height.
        progress: told of photos done and of all of them.

    Raises:
        ConfigurationError: the folder holds something, or there are no verdicts of one of both kinds.
        TransientError: the database or the store is away.
    """
    if output.exists() and any(output.iterdir()):
        raise errors.ConfigurationError(f"{output} is not empty; give a new folder.")
    with base.transaction() as connection:
        rows = database.execute(connection, "verdicts_with_photos").fetchall()
    verdicts = [(_photo(row, "a"), _photo(row, "b"), bool(row["duplicate"])) for row in rows]
    _check([duplicate for _, _, duplicate in verdicts], "on record")
    folder = output / "images"
    folder.mkdir(parents=True)
    photos = list(dict.fromkeys(photo for a, b, _ in verdicts for photo in (a, b)))
    left_out: dict[_Photo, errors.PermanentError] = {}

    def keep(photo: _Photo) -> errors.PermanentError | None:
        try:
            data = _fetch(s3, photo, max_photo_bytes, max_photo_pixels)
        except errors.PermanentError as error:
            return error
        (folder / photo.name).write_bytes(data)
        return None

    with concurrent.futures.ThreadPoolExecutor(_FETCHES) as pool:
        try:
            for done, (photo, error) in enumerate(zip(photos, pool.map(keep, photos), strict=True), 1):
                if error is not None:
                    left_out[photo] = error
                if progress is not None:
                    progress(done, len(photos))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    _tell(output, left_out)
    kept = [verdict for verdict in verdicts if not left_out.keys() & {verdict[0], verdict[1]}]
    _check([duplicate for _, _, duplicate in kept], f"on photos that can be used (see {output / LEFT_OUT})")
    with (output / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(pairs.COLUMNS)
        for a, b, duplicate in kept:
            # The format's readers strip its values.
            owner = urllib.parse.quote(a.property_id, safe="")
            writer.writerow([a.name, b.name, int(duplicate), split_of(a.property_id), owner, owner, KIND])
    return pairs.read(output)


def _photo(row: database.Row, side: str) -> _Photo:
    return _Photo(
        property_id=row["property_id"],
        id=row[f"{side}_id"],
        bucket=row[f"{side}_bucket"],
        key=row[f"{side}_key"],
        etag=row[f"{side}_etag"],
        sha256=row[f"{side}_sha256"] or "",
        removed=row[f"{side}_removed"],
    )


def _fetch(s3: Any, photo: _Photo, max_bytes: int, max_pixels: int) -> bytes:
    place = f"s3://{photo.bucket}/{photo.key}"
    if photo.removed:
        raise errors.PermanentError("removed", f"{place} was removed.")
    found = objects.fetch(s3, photo.bucket, photo.key, max_bytes)
    # Training decodes it again, at the size that it needs.
    images.decode(found.data, size=_SMALLEST_PIXELS, max_pixels=max_pixels)
    sha256 = hashlib.sha256(found.data).hexdigest()
    # Photos that were never embedded have only the ETag of their event.
    if photo.sha256 not in {"", sha256} or (not photo.sha256 and photo.etag not in {"", found.etag}):
        raise errors.PermanentError("replaced", f"{place} is not the picture that was judged.")
    return found.data


def _check(labels: Sequence[bool], which: str) -> None:
    duplicates = sum(labels)
    if not 0 < duplicates < len(labels):
        raise errors.ConfigurationError(
            f"Training needs verdicts of both kinds; {which} are {duplicates} duplicate and "
            f"{len(labels) - duplicates} different. Record more with `dedup verdict` or record_verdict()."
        )


def _tell(output: pathlib.Path, left_out: dict[_Photo, errors.PermanentError]) -> None:
    with (output / LEFT_OUT).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("property", "bucket", "key", "reason", "message"))
        for photo, error in left_out.items():
            writer.writerow((photo.property_id, photo.bucket, photo.key, error.reason, error))
    if left_out:
        reasons = collections.Counter(error.reason for error in left_out.values())
        counted = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        log.warning(
            "%d photos with verdicts were left out: %s (%s)", len(left_out), counted, output / LEFT_OUT
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
