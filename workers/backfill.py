"""Backfills: photos in bulk, behind live uploads, from what is on record or from what a bucket holds.

A window of photos at a time is published to the queue of backfills, and what lies behind it is remembered in the
database: stopped at any moment, the next run goes on there. It publishes again what was not done or not known to be
done, and the workers leave out what was done since the backfill began: so no photo is embedded again but those that
were in a worker's hands.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import time
from collections.abc import Callable

from core import backfills, database, errors, settings
from workers import sources
from workers.app import PHOTOS_A_TASK, publish_embed_many

_PHOTOS_OF_ESTIMATE = 500
_POLL_SECONDS = 0.25
_QUIET_SECONDS = 600.0
"""With nothing done for so long, nobody works on it."""

Report = Callable[["Progress"], None]


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a backfill is. `total` None: unknown, and of an inventory estimated from the part that was read;
    `removed` counts rows whose object is gone.

    `postponed`: of those done by this run, the ones that gave up for a fault outside them, such as an object that may
    not be read.
    """

    done: int
    total: int | None
    published: int
    removed: int
    skipped: int
    postponed: int = 0


def estimate(source: sources.Source) -> Progress:
    """What a backfill would do, from its beginning; nothing is changed."""
    embed = removed = skipped = 0
    for page in source.pages("", _PHOTOS_OF_ESTIMATE, dry=True):
        embed, removed, skipped = embed + len(page.photos), removed + page.removed, skipped + page.skipped
    return Progress(0, embed, 0, removed, skipped)


@dataclasses.dataclass
class _Published:
    page: sources.Page
    unsettled: int
    postponed: int = 0


def run(
    config: settings.Settings,
    base: database.Database,
    source: sources.Source,
    report: Report,
    *,
    rate: float | None = None,
    restart: bool = False,
) -> Progress:
    """Do a backfill, or what is left of it; returns when every photo is embedded, failed or the sweep's.

    Args:
        config: its window bounds what is published and not done yet.
        base: the database.
        source: which photos.
        report: called with the progress whenever it changes.
        rate: most photos a second.
        restart: forget where an unfinished one stopped.

    Raises:
        TransientError: the broker or the database is away, or nobody works on it.
    """
    with base.transaction() as connection:
        if restart:
            backfills.forget(connection, source.name)
        backfill = backfills.start(connection, source.name)
    total = source.total(backfill.position)
    if total is not None:
        total += backfill.settled
        with base.transaction() as connection:
            backfills.set_total(connection, backfill, total)
    again_since = backfill.started_at if source.again else None
    state = _State(base, source, backfill, total, again_since or backfill.resumed_at, report)
    pace = _Pace(rate)
    for page in source.pages(backfill.position, min(PHOTOS_A_TASK, config.backfill_window), dry=False):
        if page.photos:
            room = config.backfill_window - len(page.photos)
            if state.outstanding() > room:
                state.wait(below=room + 1)
            pace.wait(len(page.photos))
            with base.transaction() as connection:
                backfills.take_from_sweep(connection, page.photos)
            publish_embed_many(
                page.photos,
                model_id=source.model_id,
                again=again_since.isoformat() if again_since else None,
            )
        state.add(page)
    state.wait(below=1)
    with base.transaction() as connection:
        backfills.finish(connection, backfill)
    return state.progress


class _State:
    """What is published and not done, and the position before which all is done."""

    def __init__(
        self,
        base: database.Database,
        source: sources.Source,
        backfill: backfills.Backfill,
        total: int | None,
        published_since: datetime.datetime,
        report: Report,
    ) -> None:
        self._base = base
        self._model_id = source.model_id
        self._backfill = backfill
        self._published_since = published_since
        self._again = source.again
        self._report = report
        self._published: collections.deque[_Published] = collections.deque()
        self.progress = Progress(backfill.settled, total, backfill.settled, 0, 0)
        self._looked = 0.0
        # Done, but with no position behind them to go on from.
        self._behind = 0

    def outstanding(self) -> int:
        """How many photos are published and not done, as far as is known."""
        return sum(item.unsettled for item in self._published)

    def add(self, page: sources.Page) -> None:
        """Remember what was published, and count what the page settled by itself."""
        self._published.append(_Published(page, len(page.photos)))
        self._tell(
            published=self.progress.published + len(page.photos),
            removed=self.progress.removed + page.removed,
            skipped=self.progress.skipped + page.skipped,
        )
        if page.share:
            self._tell(total=round(self.progress.published / page.share))
        if not page.photos:
            self._advance()
        elif time.monotonic() - self._looked > 1.0:
            self._look()

    def wait(self, below: int) -> None:
        """Wait until fewer than so many photos are published and not done."""
        quiet_since, before = time.monotonic(), self.progress.done
        self._look()
        while self.outstanding() >= below:
            if self.progress.done != before:
                quiet_since, before = time.monotonic(), self.progress.done
            elif time.monotonic() - quiet_since > _QUIET_SECONDS:
                raise errors.TransientError(
                    f"Nothing was done for {_QUIET_SECONDS:.0f} s; does a `dedup worker embed --bulk` run? "
                    "The same command goes on where this one stopped."
                )
            time.sleep(_POLL_SECONDS)
            self._look()

    def _look(self) -> None:
        with self._base.transaction() as connection:
            for item in self._published:
                if item.unsettled:
                    standing = backfills.standing(
                        connection, item.page.photos, self._model_id, self._published_since, again=self._again
                    )
                    item.unsettled, item.postponed = standing.unsettled, standing.postponed
        self._looked = time.monotonic()
        self._advance()
        self._tell(done=self.progress.published - self.outstanding())

    def _advance(self) -> None:
        position, settled, postponed = "", 0, 0
        while self._published and not self._published[0].unsettled:
            item = self._published.popleft()
            page, postponed = item.page, postponed + item.postponed
            self._behind += len(page.photos)
            if page.position:
                position, settled, self._behind = page.position, settled + self._behind, 0
        if position:
            with self._base.transaction() as connection:
                backfills.advance(connection, self._backfill, position, settled)
        if postponed:
            self._tell(postponed=self.progress.postponed + postponed)

    def _tell(self, **changed: int) -> None:
        self.progress = dataclasses.replace(self.progress, **changed)
        self._report(self.progress)


class _Pace:
    """At most so many photos a second."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._next = time.monotonic()

    def wait(self, count: int) -> None:
        if self._rate:
            now = time.monotonic()
            time.sleep(max(0.0, self._next - now))
            self._next = max(self._next, now) + count / self._rate
