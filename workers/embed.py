"""The embed worker: fetch, decode, micro-batch, embed, store; then ask for a match."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import math
from typing import Any

import structlog

from core import attempts, database, embedding, errors, images, objects, photos, settings
from workers import (
    collectors,
    embedders,
    health,
    isolation,
    logs,
    metrics,
    recording,
    stopping,
    tasks,
    traces,
)
from workers.app import (
    EMBED_BULK,
    EMBED_TASK,
    MATCH,
    MATCH_BULK,
    PHOTOS_A_TASK,
    app,
    policy,
    publish_embed,
)

log = structlog.get_logger()


def bulk_tasks(in_flight: int) -> int:
    """How many tasks of many photos a process has in hand, so that so many photos are in flight.

    One more than hold them: while one waits for its last photos, the next one begins.
    """
    return math.ceil(in_flight / PHOTOS_A_TASK) + 1


@dataclasses.dataclass(frozen=True)
class Worker:
    """What one embed process holds, made once, in the process that uses it (torch does not survive a fork)."""

    config: settings.Settings
    database: database.Database
    s3: Any
    models: embedders.Embedders
    gate: isolation.Gate
    threads: concurrent.futures.Executor
    recorder: recording.Recorder
    in_flight: int

    def embed(self, photo: photos.Revision, *, again: str | None = None) -> bool:
        """One attempt at a photo, by all live models that it lacks; whether it is embedded now and is to be matched.

        A photo that can never be embedded is parked with its reason. One whose process was lost with it is tried
        alone. With `again`, a time in ISO 8601, an embedding from before it is computed anew.

        Raises:
            TransientError: it may work later.
            ConfigurationError: this process lacks the active model's weights.
        """
        with self.gate.claim(photo) as free:
            if not free:
                log.info("embed_in_hand")
                return False
            with self.gate.together():
                attempt = self.recorder.begin(photo, alone=False, again=again)
                if attempt is None or attempt.embedded or not attempt.lost:
                    return self._finish(photo, attempt)
            with self.gate.alone():
                return self._finish(photo, self.recorder.begin(photo, alone=True, again=again))

    def give_back(self) -> None:
        """Take back the attempts that are under way: the process ends by order and not because of a photo.

        Except those that have lasted long: the order may be for one of them, which hangs, and would hang for ever in
        one process after the other. What only waits for its turn was not counted by this process.
        """
        # Half: a process counts as stuck from when it took the photo, which may have waited to be alone.
        for photo in self.gate.begun_within(self.config.health_stuck_seconds / 2):
            with self.database.transaction() as connection:
                attempts.excuse(connection, photo)

    def _finish(self, photo: photos.Revision, attempt: attempts.Attempt | None) -> bool:
        if attempt is None:
            log.info("embed_outdated")
            return False
        if attempt.embedded:
            return True
        if attempt.lost:
            metrics.PHOTOS_LOST.inc()
            log.warning("photo_lost_its_worker", times=attempt.lost)
        try:
            if attempt.lost >= self.config.embed_max_losses:
                raise errors.PermanentError(
                    "killed_worker",
                    f"Its worker was lost {attempt.lost} times while it was in hand, all but the first time alone.",
                )
            with self.gate.begun(photo):
                kept = self._embed(photo, attempt)
        except errors.PermanentError as error:
            with self.database.transaction() as connection:
                photos.fail(connection, photo, error.reason, str(error))
            log.warning("photo_failed", reason=error.reason, error=str(error))
            return False
        except errors.TransientError:
            with self.database.transaction() as connection:
                attempts.excuse(connection, photo)
            raise
        log.info("photo_embedded", kept=kept)
        return kept

    def _embed(self, photo: photos.Revision, attempt: attempts.Attempt) -> bool:
        with contextlib.ExitStack() as held:
            with traces.stage("fetch"):
                found = held.enter_context(
                    objects.fetched(
                        self.s3,
                        attempt.bucket,
                        attempt.key,
                        self.config.max_photo_bytes,
                        self.config.s3_fetch_timeout_seconds,
                    )
                )
            return self._embed_fetched(photo, attempt, found)

    def _embed_fetched(
        self, photo: photos.Revision, attempt: attempts.Attempt, found: objects.Object
    ) -> bool:
        sha256 = hashlib.sha256(found.data).hexdigest()
        sizes: tuple[int, int] = (0, 0)

        def decode(size: int) -> images.Pixels:
            nonlocal sizes
            with traces.stage("decode"):
                picture = images.decode(found.data, size=size, max_pixels=self.config.max_photo_pixels)
            sizes = (picture.width, picture.height)
            return picture.pixels

        # Other bytes than before: what is on record by other models is not of them either.
        wanted = frozenset(attempt.lacking) if sha256 == attempt.sha256 else self.models.known & attempt.live
        tried: frozenset[str] = frozenset()
        kept = False
        while wanted:
            try:
                embeddings = self.models.embed(decode, wanted, attempt.active)
            except errors.PermanentError:
                # What it has by now is to be matched.
                if kept:
                    break
                raise
            width, height = sizes
            with traces.stage("write"):
                stored = self.recorder.store(
                    photo, photos.Embedded(embeddings, found.etag, width, height, len(found.data), sha256)
                )
            kept, tried = stored.kept, tried | wanted
            # A model that was put on record since the attempt began: its backfill may not look at this photo again.
            self.models.learn(stored.lacking)
            wanted = (frozenset(stored.lacking) & self.models.known) - tried
        return kept


_worker: Worker


def _since(again: str | bool | None) -> str | None:
    """`again` of a task; before backfills had a time, messages said whether."""
    if isinstance(again, bool):
        return "infinity" if again else None
    return again


def prepare(config: settings.Settings, *, bulk: bool = False) -> Worker:
    """Load the database's models and their backbones, check that settings and database belong together.

    With `bulk` for backfills, whose matches keep behind those of live uploads, too.

    Raises:
        ConfigurationError: says what does not fit and the remedy.
    """
    global _worker  # noqa: PLW0603 - Celery's tasks are module functions; the process has one worker
    base = database.Database(
        config.database_url, config.database_pool_size, statement_seconds=config.database_timeout_seconds
    )
    in_flight = embedding.photos_in_flight(
        config.embed_concurrency, embedding.choose_device(config.device), config.embed_batch_size
    )
    objects.share_memory(in_flight)
    models = embedders.prepare(config, base)
    _worker = Worker(
        config=config,
        database=base,
        s3=objects.client(config, in_flight),
        models=models,
        gate=isolation.Gate(),
        threads=concurrent.futures.ThreadPoolExecutor(in_flight, "photos"),
        recorder=recording.Recorder(base, models, MATCH_BULK if bulk else MATCH, in_flight),
        in_flight=in_flight,
    )
    tasks.prepare(config, base)
    stopping.process.gives_back(_worker.give_back)
    collectors.register_device(_worker.models.device)
    log.info("embed_worker_ready", in_flight=in_flight)
    return _worker


@app.task(base=tasks.PhotoTask, bind=True, name="dedup.embed", **policy())
def embed_photo(
    self: tasks.PhotoTask,
    property_id: str,
    photo_id: int,
    revision: int,
    again: str | bool | None = None,
    postponed: int = 0,
) -> None:
    """Embed one revision of a photo and ask for its match. What is `postponed` is told when it gives up."""
    del postponed
    photo = photos.Revision(property_id, photo_id, revision)
    with health.process.working():
        if _worker.embed(photo, again=_since(again)):
            _worker.recorder.publish_match(photo)


@app.task(base=tasks.PhotoTask, bind=True, name="dedup.embed_many", **policy())
def embed_many(
    self: tasks.PhotoTask,
    revisions: list[tuple[str, int, int]],
    model_id: str | None,
    again: str | bool | None,
) -> None:
    """Embed many photos; each one's fate is its own. `model_id`: the worker that takes it must have this model."""
    if model_id is not None:
        _worker.models.learn([model_id])
    if model_id in _worker.models.unfit:
        raise errors.TransientError(
            f"This worker lacks the backbone weights of model {model_id}; see DEDUP_BACKBONE_WEIGHTS."
        )
    ids = {"task_id": self.request.id, "correlation_id": logs.correlation_id(), "queue": EMBED_BULK}
    one = functools.partial(_embed_one_of_many, again=_since(again), ids=ids, carrier=traces.headers())
    for _ in _worker.threads.map(one, [photos.Revision(*revision) for revision in revisions]):
        pass


def _embed_one_of_many(
    photo: photos.Revision, again: str | None, ids: dict[str, str | None], carrier: dict[str, str]
) -> None:
    own = dataclasses.asdict(photo)
    with logs.bound(**ids, **own), traces.span("embed", carrier, **own), health.process.working():
        try:
            if _worker.embed(photo, again=again):
                _worker.recorder.publish_match(photo)
            health.process.succeeded(EMBED_TASK)
        except errors.TransientError as error:
            health.process.failed(EMBED_TASK, str(error))
            # From here on by a task of its own, whose growing waits the others need not share.
            log.info("photo_put_off", error=str(error))
            publish_embed(photo, EMBED_BULK, again=again)
        except errors.ConfigurationError:
            raise
        except Exception as error:
            health.process.failed(EMBED_TASK, str(error))
            log.exception("photo_broke_the_worker")
            with _worker.database.transaction() as connection:
                photos.fail(connection, photo, "error", f"{type(error).__name__}: {error}")
