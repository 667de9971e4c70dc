"""Where the photos of a backfill come from: what is on record, or what a bucket holds."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from core import backfills, database, errors, events, listings, models, objects, photos, settings


@dataclasses.dataclass(frozen=True)
class Page:
    """Photos to embed, and the position that lies behind them. The counts are of what was settled on the way.

    `share`: how much of all that is to be looked at was looked at by then, where that is known (0 to 1).
    """

    position: str
    photos: list[photos.Revision]
    removed: int = 0
    skipped: int = 0
    share: float | None = None


class Source(Protocol):
    """Where the photos of a backfill come from."""

    @property
    def name(self) -> str:
        """Which backfill it is: of the same name, an unfinished one goes on."""

    @property
    def again(self) -> bool:
        """Whether an embedding that is there is computed anew."""

    @property
    def model_id(self) -> str | None:
        """Of which model an embedding is wanted; None: of any."""

    def total(self, position: str) -> int | None:
        """How many photos come after a position, where that can be known."""

    def pages(self, position: str, most: int, *, dry: bool) -> Iterator[Page]:
        """What comes after a position, at most so many photos a page; `dry`: nothing is changed, and pages say what
        would be.

        What a page changes is changed when it is asked for: photos become pending only when their turn has come, so
        that the sweep does not take them for left behind.
        """


@dataclasses.dataclass(frozen=True)
class Recorded:
    """Photos on record."""

    base: database.Database
    selection: backfills.Selection
    model_id: str | None

    @property
    def name(self) -> str:
        return json.dumps({**dataclasses.asdict(self.selection), "model": self.model_id}, default=str)

    @property
    def again(self) -> bool:
        return self.selection.again

    def total(self, position: str) -> int | None:
        with self.base.transaction() as connection:
            return backfills.count(connection, self.selection, self.model_id, position)

    def pages(self, position: str, most: int, *, dry: bool) -> Iterator[Page]:
        while True:
            with self.base.transaction() as connection:
                found = backfills.page(connection, self.selection, self.model_id, position, most)
                if not found:
                    return
                if self.selection.what == "failed" and not dry:
                    backfills.put_back(connection, found)
            position = backfills.position_of(found[-1])
            yield Page(position, found)


@dataclasses.dataclass(frozen=True)
class Bucket:
    """What a bucket holds below a prefix, by its own list or by the files of its inventory.

    Objects that never raised an event are put on record; photos whose object is gone are removed.
    """

    base: database.Database
    s3: Any
    bucket: str
    prefix: str
    pattern: events.KeyPattern
    inventory: tuple[pathlib.Path, ...] = ()
    columns: tuple[str, ...] = listings.INVENTORY_COLUMNS

    @property
    def name(self) -> str:
        files = [str(path.resolve()) for path in self.inventory]
        return json.dumps({"bucket": self.bucket, "prefix": self.prefix, "inventory": files})

    @property
    def again(self) -> bool:
        return False

    @property
    def model_id(self) -> str | None:
        return None

    def total(self, position: str) -> int | None:
        return None

    def pages(self, position: str, most: int, *, dry: bool) -> Iterator[Page]:
        kind, _, after = position.partition(":")
        if self.inventory:
            yield from self._by_inventory(kind, after, most, dry)
        else:
            yield from self._by_list(after, most, dry)

    def _by_list(self, after: str, most: int, dry: bool) -> Iterator[Page]:
        first = after == ""
        for found in listings.list_bucket(self.s3, self.bucket, self.prefix, after):
            if not found:
                break
            first = False
            last = found[-1].key
            # Between two keys that are listed one after the other, there is nothing. Before any photo of the page is
            # done, since a run that goes on within it looks at the rest only.
            yield Page("", [], self._remove(after, last, {item.key for item in found}.__contains__, dry))
            for chunk in self._unknown(found, most):
                new, skipped = self._take(chunk, dry)
                yield Page(f"key:{chunk[-1].key}", new, skipped=skipped)
            after = last
            yield Page(f"key:{after}", [])
        if first:
            self._check_not_empty()
        yield Page(
            f"key:{listings.LAST_KEY}", [], self._remove(after, listings.LAST_KEY, lambda _: False, dry)
        )

    def _by_inventory(self, kind: str, after: str, most: int, dry: bool) -> Iterator[Page]:
        all_lines = sum(1 for _ in self._lines())
        lines = self._lines()
        seen: list[int] = []
        number = 0
        # In no particular order: what is gone is known only at the end.
        while found := list(itertools.islice(lines, listings.PAGE_OBJECTS)):
            seen += [_digest(item.key) for item in found]
            number += len(found)
            if kind != "gone" and number > int(after or 0):
                for chunk in self._unknown(found, most):
                    new, skipped = self._take(chunk, dry)
                    yield Page("", new, skipped=skipped)
                yield Page(f"line:{number}", [], share=number / all_lines)
        if not number:
            self._check_not_empty()
        digests = np.unique(np.array(seen, dtype=np.uint64))
        removed = self._remove(
            after if kind == "gone" else "", listings.LAST_KEY, lambda key: _holds(digests, key), dry
        )
        yield Page(f"gone:{listings.LAST_KEY}", [], removed)

    def _lines(self) -> Iterator[listings.Listed]:
        return listings.read_inventory(self.inventory, self.columns, self.bucket, self.prefix)

    def _unknown(self, found: Sequence[listings.Listed], most: int) -> Iterator[list[listings.Listed]]:
        """What is to be embedded of one page, at most so many at a time."""
        with self.base.transaction() as connection:
            unknown = iter(listings.unknown(connection, self.bucket, found))
        while chunk := list(itertools.islice(unknown, most)):
            yield chunk

    def _take(self, unknown: Sequence[listings.Listed], dry: bool) -> tuple[list[photos.Revision], int]:
        """Put objects on record; returns what is to be embedded, and how many keys are no photo's."""
        new: list[photos.Revision] = []
        skipped = 0
        for item in unknown:
            try:
                event = listings.event(self.bucket, item, self.pattern)
            except errors.PermanentError:
                skipped += 1
                continue
            if dry:
                new.append(photos.Revision(event.property_id, 0, 0))
                continue
            with self.base.transaction() as connection:
                applied = photos.apply_event(connection, event)
            if applied.outcome is photos.Outcome.PENDING:
                new.append(applied.photo)
        return new, skipped

    def _remove(self, after: str, last: str, is_there: Callable[[str], bool], dry: bool) -> int:
        """Remove photos whose keys lie in a part of the bucket and whose objects are gone; returns how many."""
        removed = 0
        while True:
            with self.base.transaction() as connection:
                found = listings.on_record(
                    connection, self.bucket, self.prefix, after, last, listings.PAGE_OBJECTS
                )
            if not found:
                return removed
            for key, photo in found.items():
                # It may have been uploaded since; only the store's own word takes a photo out.
                if is_there(key) or not listings.is_gone(self.s3, self.bucket, key):
                    continue
                removed += 1
                if not dry:
                    with self.base.transaction() as connection:
                        photos.fail(connection, photo, "object_gone", "")
            after = next(reversed(found))

    def _check_not_empty(self) -> None:
        with self.base.transaction() as connection:
            known = listings.on_record(connection, self.bucket, self.prefix, "", listings.LAST_KEY, 1)
        if known:
            raise errors.ConfigurationError(
                f"s3://{self.bucket}/{self.prefix} holds nothing, but photos of it are on record. Is it the right "
                "store and bucket? If all of them were deleted, their events remove them (`dedup rejected`, sweep)."
            )


def recorded(
    base: database.Database, selection: backfills.Selection, model_name: str | None = None
) -> Recorded:
    """Photos on record, measured by a model, of its id or name; by the active one where none is named.

    Raises:
        ConfigurationError: there is no such model, or it is retired.
    """
    with base.transaction() as connection:
        model = models.find(connection, model_name) if model_name else models.active(connection)
    if model is not None and model.status == "retired":
        raise errors.ConfigurationError(
            f"Model {model.name} ({model.id}) is retired; `dedup model add` its bundle first."
        )
    return Recorded(base, selection, model.id if model else None)


def bucket(
    config: settings.Settings,
    base: database.Database,
    name: str,
    prefix: str,
    inventory: Sequence[pathlib.Path],
    columns: Sequence[str],
) -> Bucket:
    """A bucket's objects.

    Raises:
        ConfigurationError: its events are not taken either.
    """
    if name not in config.buckets:
        raise errors.ConfigurationError(
            f"Bucket {name} is not in DEDUP_BUCKETS={','.join(config.buckets)}; add it there."
        )
    pattern = events.key_pattern(config.key_pattern, config.buckets)
    return Bucket(base, objects.client(config), name, prefix, pattern, tuple(inventory), tuple(columns))


def _digest(key: str) -> int:
    # 64 bits of ten million keys: one in a million backfills takes one photo that is gone for one that is there.
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def _holds(digests: np.ndarray[Any, np.dtype[np.uint64]], key: str) -> bool:
    wanted = np.uint64(_digest(key))
    place = int(np.searchsorted(digests, wanted))
    return place < len(digests) and bool(digests[place] == wanted)
