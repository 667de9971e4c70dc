"""Where training pairs come from besides labelled sets: a portal's own photos, in a folder or in its bucket."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import structlog

from core import errors, events, images, objects
from core.learning import features, pairs, whitening
from core.learning.selfmade import pairsets

MOST_PHOTOS = 8_000
"""Photos looked at; of larger collections, that many of whole properties, chosen by their hash."""

_GLANCE_PIXELS = 32
_log = structlog.get_logger()

Progress = Callable[[int, int], None]


def self_made(
    photos: Sequence[pairsets.Photo],
    seen: features.Features,
    output: pathlib.Path,
    *,
    seed: int,
    count: int = pairsets.COUNT,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[pairs.PairSet]:
    """Pair sets made of unlabelled photos; see `selfmade.pairsets.write`, whose errors it raises.

    Photos that cannot be decoded are left out with a warning.
    """
    chosen = sample((photo.property_id, str(photo.path)) for photo in photos)
    readable = [
        pairsets.Photo(owner, pathlib.Path(path))
        for owner, path in chosen
        if _can_be_decoded(pathlib.Path(path))
    ]
    paths = [photo.path for photo in readable]

    def tell(stage: str) -> Progress | None:
        return None if progress is None else lambda done, total: progress(stage, done, total)

    if not readable:
        raise errors.ConfigurationError(
            f"None of {len(photos)} photos can be decoded; give photos in a supported format."
        )
    levels, drawings = whitening.drawings_among(seen, paths, tell("features of your photos"))
    made = tell("making pairs")
    return pairsets.write(readable, levels, drawings, output, seed=seed, count=count, progress=made)


def sample(photos: Iterable[tuple[str, str]], most: int = MOST_PHOTOS) -> list[tuple[str, str]]:
    """At most so many of the photos, given as property and file or key, of whole properties; always the same ones."""
    by_property: dict[str, list[str]] = {}
    for property_id, name in photos:
        by_property.setdefault(property_id, []).append(name)
    chosen: list[tuple[str, str]] = []
    for property_id in sorted(by_property, key=_digest):
        if chosen and len(chosen) + len(by_property[property_id]) > most:
            break
        chosen += [(property_id, name) for name in sorted(by_property[property_id])[:most]]
    return sorted(chosen)


def from_bucket(
    s3: Any,
    bucket: str,
    prefix: str,
    pattern: events.KeyPattern,
    output: pathlib.Path,
    *,
    max_photo_bytes: int,
    most: int = MOST_PHOTOS,
    progress: Progress | None = None,
) -> list[pairsets.Photo]:
    """Fetch photos of a bucket; of more than `most`, those of whole properties chosen by their hash.

    Objects whose key names no property, and photos that are gone or too large, are left out with a warning.

    Raises:
        ConfigurationError: no object has a property.
        TransientError: the store is away.
    """
    wanted = sample(_listed(s3, bucket, prefix, pattern), most)
    if not wanted:
        raise errors.ConfigurationError(
            f"No object of bucket {bucket} with prefix {prefix!r} matches DEDUP_KEY_PATTERN={pattern.pattern.pattern}; "
            "check the bucket, the prefix and the pattern."
        )
    output.mkdir(parents=True, exist_ok=True)
    fetched = []
    for number, (property_id, key) in enumerate(wanted, 1):
        path = output / _digest(key)[:32]
        try:
            path.write_bytes(objects.fetch(s3, bucket, key, max_photo_bytes).data)
        except errors.PermanentError as error:
            _log.warning("photo_left_out", bucket=bucket, key=key, error=str(error))
        else:
            fetched.append(pairsets.Photo(property_id, path))
        if progress is not None:
            progress(number, len(wanted))
    return fetched


def _listed(s3: Any, bucket: str, prefix: str, pattern: events.KeyPattern) -> Iterator[tuple[str, str]]:
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            try:
                yield pattern.property_of(bucket, item["Key"]), item["Key"]
            except errors.PermanentError:
                continue


def _can_be_decoded(path: pathlib.Path) -> bool:
    try:
        images.decode(path.read_bytes(), size=_GLANCE_PIXELS, max_pixels=features.MAX_PIXELS)
    except (OSError, errors.PermanentError) as error:
        _log.warning("photo_left_out", path=str(path), error=str(error))
        return False
    return True


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
