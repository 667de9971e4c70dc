"""What a portal does to its photos: the operations of a soak, one after the other."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.acceptance import system as acceptance
from tests.soak import contents, oracle, post, stars

LONGEST_MOMENT_SECONDS = 3.0
"""How long a photo is gone, or another one, before it comes back."""

_PHOTOS_PER_PROPERTY = 14
_NEWEST = 20
_ALBUM = 12


@dataclasses.dataclass
class _Live:
    """A photo as the store has it. `seen` holds the ETag of each content that it ever had."""

    key: str
    number: int
    content: contents.Content | None
    sequencer: str
    seen: set[str]
    judged: bool = False
    away: bool = False


class Portal:
    """Uploads, overwrites, deletes, moves and verdicts, one after the other; it remembers each of them.

    A key on which a verdict was given never gets a content again that it had before its last one: whether the verdict
    outlives two changes that cancel each other out depends on when their events come.
    """

    def __init__(
        self,
        system: acceptance.System,
        bucket: str,
        good: Sequence[contents.Content],
        properties: int,
        rng: random.Random,
        events: post.Post,
        counts: post.Counts,
    ) -> None:
        self.operations: list[oracle.Operation] = []
        self._system = system
        self._bucket = bucket
        self._good = good
        self._poison = contents.poison()
        self._rng = rng
        self._events = events
        self._counts = counts
        self._photos: dict[str, dict[str, _Live]] = {
            f"house-{number:03d}": {} for number in range(properties)
        }
        self._returns: list[tuple[float, str, _Live, contents.Content]] = []
        self._created = 0
        self._sequence = itertools.count(0x17E5_0000_0000)
        self._last = datetime.datetime.now(datetime.UTC)

    def act(self, now: float) -> None:
        """Do one thing; its event goes to the post."""
        self._counts.operations += 1
        kind = self._rng.choices(
            (
                self._create,
                self._overwrite,
                self._same_again,
                self._delete,
                self._gone_for_a_moment,
                self._other_for_a_moment,
                self._move,
                self._judge,
            ),
            (20, 12, 5, 12, 6, 6, 8, 20),
        )[0]
        kind(now)

    def photos(self) -> int:
        """How many keys there ever were."""
        return self._created

    def properties(self) -> int:
        """How many properties ever had a photo."""
        return sum(bool(photos) for photos in self._photos.values())

    def _create(self, now: float) -> None:
        roomy = [
            name
            for name, photos in self._photos.items()
            if sum(photo.content is not None for photo in photos.values()) < _PHOTOS_PER_PROPERTY
        ]
        if roomy:
            # An album at a time, as agents upload them: its photos meet in batches, and are matched side by side.
            property_id = self._rng.choice(roomy)
            for _ in range(self._rng.choice((1, 3, _ALBUM))):
                self._new(property_id, self._any_content(), now)

    def _overwrite(self, now: float) -> None:
        for property_id, photo in self._some(lambda photo: photo.content is not None):
            content = self._any_content()
            if content.etag not in photo.seen:
                self._put(property_id, photo, content, now)

    def _same_again(self, now: float) -> None:
        for property_id, photo in self._some(lambda photo: photo.content is not None):
            assert photo.content is not None
            self._put(property_id, photo, photo.content, now)

    def _delete(self, now: float) -> None:
        for property_id, photo in self._some(lambda photo: photo.content is not None):
            self._remove(property_id, photo, now)

    def _gone_for_a_moment(self, now: float) -> None:
        """Delete a new photo and soon put it back: a worker may look between, and the events come in any order."""
        for property_id, photo in self._some_new():
            content = photo.content
            assert content is not None
            self._remove(property_id, photo, now)
            self._put_later(property_id, photo, content, now)

    def _other_for_a_moment(self, now: float) -> None:
        """Overwrite a new photo and soon put its first picture back."""
        for property_id, photo in self._some_new():
            content, other = photo.content, self._any_content()
            assert content is not None
            if not photo.judged and other.etag not in photo.seen:
                self._put(property_id, photo, other, now)
                self._put_later(property_id, photo, content, now)

    def _put_later(self, property_id: str, photo: _Live, content: contents.Content, now: float) -> None:
        photo.away = True
        self._returns.append(
            (now + self._rng.uniform(0, LONGEST_MOMENT_SECONDS), property_id, photo, content)
        )

    def finish(self, now: float) -> None:
        """Put back what is away, where its moment is over."""
        due = [item for item in self._returns if item[0] <= now]
        self._returns = [item for item in self._returns if item[0] > now]
        for _, property_id, photo, content in due:
            photo.away = False
            self._put(property_id, photo, content, now)

    def busy(self) -> bool:
        """Whether a photo is away for a moment."""
        return bool(self._returns)

    def _move(self, now: float) -> None:
        """A photo goes to another property: copied there, deleted here."""
        for property_id, photo in self._some(lambda photo: photo.content is not None):
            target = self._rng.choice(sorted(self._photos))
            assert photo.content is not None
            if target != property_id and len(self._photos[target]) < 2 * _PHOTOS_PER_PROPERTY:
                self._new(target, photo.content, now)
                self._remove(property_id, photo, now)

    def _judge(self, now: float) -> None:
        """A person decides on two photos, both of which are on record as they are in the store."""
        del now
        property_id = self._rng.choice(sorted(self._photos))
        rows = self._system.ask(
            "SELECT key, etag, sequencer FROM photo WHERE property_id = %(property_id)s AND status = 'embedded'"
            " ORDER BY key",
            property_id=property_id,
        )
        present = self._photos[property_id]
        settled = [
            row["key"]
            for row in rows
            if (live := present[row["key"]]).content is not None
            and (row["etag"], row["sequencer"]) == (live.content.etag, live.sequencer)
        ]
        if len(settled) < 2:
            return
        one, other = self._rng.sample(settled, 2)
        verdict = oracle.Verdict(property_id, stars.ordered(one, other), self._rng.random() < 0.4)
        self._system.ask(
            "SELECT record_verdict(%(property_id)s, %(key_a)s, %(key_b)s, %(duplicate)s, 'ann')",
            property_id=property_id,
            key_a=one,
            key_b=other,
            duplicate=verdict.duplicate,
        )
        present[one].judged = present[other].judged = True
        self.operations.append(verdict)

    def _some_new(self) -> Iterator[tuple[str, _Live]]:
        """One of the newest photos, which probably still wait to be embedded, or none."""
        return self._some(lambda photo: photo.content is not None and photo.number >= self._created - _NEWEST)

    def _some(self, fits: Callable[[_Live], bool]) -> Iterator[tuple[str, _Live]]:
        """One photo that fits and is not away for a moment, or none."""
        found = [
            (property_id, photo)
            for property_id, photos in self._photos.items()
            for photo in photos.values()
            if not photo.away and fits(photo)
        ]
        if found:
            yield self._rng.choice(found)

    def _any_content(self) -> contents.Content:
        return self._rng.choice(self._poison if self._rng.random() < 0.06 else self._good)

    def _new(self, property_id: str, content: contents.Content, now: float) -> None:
        key = acceptance.key_of(property_id, f"{self._created:05d} é+.jpg")
        photo = self._photos[property_id][key] = _Live(key, self._created, None, "", set())
        self._created += 1
        self._put(property_id, photo, content, now)

    def _put(self, property_id: str, photo: _Live, content: contents.Content, now: float) -> None:
        at = self._moment()
        answer = self._system.s3.put_object(Bucket=self._bucket, Key=photo.key, Body=content.data)
        etag = str(answer["ETag"]).strip('"')
        if etag != content.etag:
            raise AssertionError(f"the store gave {photo.key} the ETag {etag}, not {content.etag}")
        photo.content = content
        photo.seen.add(etag)
        self.operations.append(oracle.Put(at, property_id, photo.key, content))
        self._tell("ObjectCreated:Put", photo, etag, at, now)

    def _remove(self, property_id: str, photo: _Live, now: float) -> None:
        at = self._moment()
        self._system.s3.delete_object(Bucket=self._bucket, Key=photo.key)
        photo.content = None
        self.operations.append(oracle.Delete(at, property_id, photo.key))
        self._tell("ObjectRemoved:Delete", photo, "", at, now)

    def _tell(self, event: str, photo: _Live, etag: str, at: datetime.datetime, now: float) -> None:
        # Of varying width, as S3's are: the shorter one of two counts as padded with zeros on the right.
        tail = self._rng.choice(("", "", "0", "7F"))
        photo.sequencer = f"{next(self._sequence):012X}{tail}"
        record: Any = acceptance.record(
            event, photo.key, bucket=self._bucket, etag=etag, sequencer=photo.sequencer, at=at
        )
        self._events.write(record, now)

    def _moment(self) -> datetime.datetime:
        """Now, and later than ever before."""
        self._last = max(datetime.datetime.now(datetime.UTC), self._last + datetime.timedelta(microseconds=1))
        return self._last
