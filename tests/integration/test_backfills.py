"""A backfill that is stopped, or whose tasks come again, embeds no photo twice that was done."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import queue
import threading
from collections.abc import Iterator, Sequence

import pytest

from core import attempts, backfills, database, errors, events, listings, photos, settings
from tests.integration import ledger
from workers import backfill, embed, sources, tasks

PHOTOS = 40
WINDOW = 8
Message = tuple[list[photos.Revision], str | None]


@dataclasses.dataclass
class Queue:
    """The queue of backfills, and a worker who takes what is in it; `embedded` is in the order in which it was done."""

    base: database.Database
    messages: queue.Queue[Message | None] = dataclasses.field(default_factory=queue.Queue)
    sent: list[Message] = dataclasses.field(default_factory=list)
    embedded: list[photos.Revision] = dataclasses.field(default_factory=list)
    unreadable: set[photos.Revision] = dataclasses.field(default_factory=set)
    """Photos whose object may not be read: their tasks use up all retries."""

    def publish(
        self, revisions: Sequence[photos.Revision], *, model_id: str | None, again: str | None
    ) -> None:
        """Take a task in."""
        self.sent.append((list(revisions), again))
        self.messages.put(self.sent[-1])

    def work(self) -> None:
        """Do each task, as the embed worker does, until there is a None."""
        while (message := self.messages.get()) is not None:
            for photo in message[0]:
                with self.base.transaction() as connection:
                    attempt = attempts.begin_attempt(
                        connection, photo, known=[ledger.Bundle.id], again=message[1]
                    )
                if photo in self.unreadable:
                    self.give_up(photo)
                elif attempt and not attempt.embedded:
                    ledger.embed(self.base, photo, ledger.vector(1))
                    self.embedded.append(photo)
            self.messages.task_done()

    def give_up(self, photo: photos.Revision) -> None:
        """What Celery calls once the retries of a photo's own task are used up."""
        error = errors.TransientError("403 AccessDenied")
        with self.base.transaction() as connection:
            attempts.excuse(connection, photo)
        embed.embed_photo.on_failure(error, "task", (), dataclasses.asdict(photo), None)


@pytest.fixture(scope="module", autouse=True)
def _model(base: database.Database) -> None:
    ledger.activate_model(base)


@pytest.fixture
def bulk(base: database.Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    """The queue, with a worker on it."""
    found = Queue(base)
    monkeypatch.setattr(backfill, "publish_embed_many", found.publish)
    # Where nothing is done, the test is to end soon, and fail.
    monkeypatch.setattr(backfill, "_QUIET_SECONDS", 20.0)
    tasks.prepare(settings.Settings(), base)
    worker = threading.Thread(target=found.work)
    worker.start()
    yield found
    found.messages.put(None)
    worker.join()


def run(
    base: database.Database,
    property_id: str,
    stop_after: int | None = None,
    what: backfills.What = "all",
) -> backfill.Progress:
    """Embed a property's photos anew; KeyboardInterrupt when so many are published, done or not."""

    def report(progress: backfill.Progress) -> None:
        if stop_after is not None and progress.published >= stop_after:
            raise KeyboardInterrupt

    source = sources.recorded(base, backfills.Selection(what, property_id))
    return backfill.run(settings.Settings(backfill_window=WINDOW), base, source, report)


def test_stopped_again_and_again(base: database.Database, bulk: Queue) -> None:
    property_id = ledger.new_property()
    every = [ledger.add(base, property_id, f"{number:02d}", 1) for number in range(PHOTOS)]
    for stop_after in (5, 20):
        with pytest.raises(KeyboardInterrupt):
            run(base, property_id, stop_after)
        # What was published is done while nobody counts it.
        bulk.messages.join()
        assert len(bulk.embedded) < PHOTOS
    assert run(base, property_id).done == PHOTOS
    assert sorted(bulk.embedded, key=lambda photo: photo.photo_id) == every, "each of them once"
    assert sum(len(chunk) for chunk, _ in bulk.sent) <= PHOTOS + 2 * WINDOW, "a window is published again"
    # The next one of the same name is another one.
    assert run(base, property_id).done == PHOTOS
    assert set(collections.Counter(bulk.embedded).values()) == {2}


def test_tasks_that_come_again(base: database.Database, bulk: Queue) -> None:
    property_id = ledger.new_property()
    every = [ledger.add(base, property_id, f"{number:02d}", 1) for number in range(PHOTOS)]
    run(base, property_id)
    for message in list(bulk.sent):
        bulk.messages.put(message)
    assert run(base, property_id).done == PHOTOS
    assert collections.Counter(bulk.embedded) == dict.fromkeys(every, 2), "once for each backfill"


def test_one_unreadable_object_does_not_stop_it(base: database.Database, bulk: Queue) -> None:
    property_id = ledger.new_property()
    every = [ledger.add(base, property_id, f"{number:02d}", 1) for number in range(PHOTOS)]
    bulk.unreadable.add(every[3])
    for _ in range(2):
        progress = run(base, property_id)
        assert (progress.done, progress.postponed) == (PHOTOS, 1)
    assert set(collections.Counter(bulk.embedded)) == {*every} - bulk.unreadable
    assert ledger.row(base, every[3])["status"] == "embedded", "it keeps what it had"
    bulk.unreadable.clear()
    assert run(base, property_id).postponed == 0
    assert every[3] in bulk.embedded


def test_what_an_outage_postponed_is_waited_for(base: database.Database, bulk: Queue) -> None:
    property_id = ledger.new_property()
    photo = ledger.apply(base, ledger.event(property_id, "a")).photo
    bulk.give_up(photo)
    assert ledger.row(base, photo)["postponed"] == 1
    progress = run(base, property_id, what="missing")
    assert ledger.row(base, photo)["status"] == "embedded"
    assert (progress.done, progress.postponed) == (1, 0)


def test_an_inventory_tells_how_much_is_left(
    base: database.Database, bulk: Queue, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "PAGE_OBJECTS", 10)
    prefix = f"properties/{ledger.new_property()}/"
    inventory = tmp_path / "inventory.csv"
    lines = (f"photos,{prefix}photos/{number},9,2026-05-01T10:00:00Z,e1\n" for number in range(PHOTOS))
    inventory.write_text("".join(lines))
    pattern = events.key_pattern(settings.Settings.model_fields["key_pattern"].default, {"photos"})
    source = sources.Bucket(base, None, "photos", prefix, pattern, (inventory,))
    totals: list[int | None] = []
    done = backfill.run(
        settings.Settings(backfill_window=WINDOW), base, source, lambda now: totals.append(now.total)
    )
    assert set(totals) == {None, PHOTOS}
    assert (done.done, done.total) == (PHOTOS, PHOTOS)
