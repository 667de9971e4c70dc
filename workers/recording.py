"""What an embed process puts on record and asks for: in one go for all photos that are ready at the same time.

What fails or is left out together is done photo by photo, on the photo's own thread: whose fault it was shows then.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from core import attempts, database, observations, photo_batches, photos
from workers import embedders, gathering, logs, traces
from workers.app import Match, publish_matches

log = structlog.get_logger()

_Beginning = tuple[photos.Revision, photo_batches.Beginning]
_Embedded = tuple[photos.Revision, photos.Embedded]


class Recorder:
    """Writes for all threads of a process; thread-safe, to be made once."""

    def __init__(
        self, base: database.Database, models: embedders.Embedders, match_queue: str, in_flight: int
    ) -> None:
        """`models`: those that the process embeds by; `match_queue`: where matches are asked for.

        `in_flight`: photos at a time.
        """
        self._base = base
        self._models = models
        self._match_queue = match_queue
        # Where all that there are wait, no others are waited for.
        most = min(gathering.MOST, in_flight)
        self._begins = gathering.Gatherer(self._begin_together, most)
        self._stores = gathering.Gatherer(self._store_together, most)
        self._matches = gathering.Gatherer(self._publish_together, most)

    def begin(self, photo: photos.Revision, *, alone: bool, again: str | None) -> attempts.Attempt | None:
        """As `attempts.begin_attempt`, after this process has learned all models that the photo lacks.

        Raises:
            TransientError: the database is away.
            UnfitProcessError: this process lacks the active model's weights.
        """
        while True:
            known, unfit = self._models.known, self._models.unfit
            attempt = None
            if not alone:
                attempt = self._begins.do((photo, photo_batches.Beginning(known, unfit, again)))
            if attempt is None:
                with self._base.transaction() as connection:
                    attempt = attempts.begin_attempt(
                        connection, photo, known=known, unfit=unfit, alone=alone, again=again
                    )
                    if attempt is not None:
                        self._models.check_active(attempt.active)
            if attempt is None or known.issuperset(attempt.lacking):
                return attempt
            self._models.learn(attempt.lacking)

    def store(self, photo: photos.Revision, embedded: photos.Embedded) -> photos.Stored:
        """As `photos.store`, committed.

        Raises:
            TransientError: the database is away.
        """
        stored = self._stores.do((photo, embedded))
        if stored is None:
            with self._base.transaction() as connection:
                return photos.store(connection, photo, embedded)
        # Here, not by the thread that stored it: this one knows whether the photo is of a backfill.
        observations.tell(observations.PhotoEmbedded(stored.age_seconds))
        return stored

    def publish_match(self, photo: photos.Revision) -> None:
        """Ask for the match of a photo whose embedding has been committed.

        Raises:
            TransientError: the broker is away.
        """
        traceparent = traces.headers().get("traceparent")
        self._matches.do(Match(photo.property_id, photo.photo_id, logs.correlation_id(), traceparent))

    def _begin_together(self, wanted: Sequence[_Beginning]) -> Sequence[attempts.Attempt | None]:
        try:
            with self._base.transaction() as connection:
                begun = photo_batches.begin_attempts(connection, dict(wanted))
                for attempt in begun.values():
                    self._models.check_active(attempt.active)
        except Exception as error:  # noqa: BLE001 - raised again for the photo whose fault it was
            log.info("not_begun_together", photos=len(wanted), error=str(error))
            begun = {}
        return [begun.get(photo) for photo, _ in wanted]

    def _store_together(self, wanted: Sequence[_Embedded]) -> Sequence[photos.Stored | None]:
        try:
            with self._base.transaction() as connection:
                stored = photo_batches.store(connection, dict(wanted))
        except Exception as error:  # noqa: BLE001 - raised again for the photo whose fault it was
            log.info("not_stored_together", photos=len(wanted), error=str(error))
            stored = {}
        return [stored.get(photo) for photo, _ in wanted]

    def _publish_together(self, wanted: Sequence[Match]) -> Sequence[None]:
        publish_matches(wanted, self._match_queue)
        return [None] * len(wanted)
