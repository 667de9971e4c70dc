"""The embed worker: fetch, decode, micro-batch, embed, store; then ask for a match."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import os
from typing import Any

import structlog
import torch

from core import (
    budgets,
    bundle,
    database,
    embedding,
    errors,
    fusing,
    images,
    models,
    objects,
    photos,
    settings,
    weights,
)
from workers import batching, isolation, logs, processes, tasks
from workers.app import EMBED_BULK, MATCH, MATCH_BULK, app, policy, publish_embed, publish_match

log = structlog.get_logger()

BULK_TASKS = 2
"""Tasks of many photos at a time in a process: while one waits for its last photos, the next one begins."""


@dataclasses.dataclass(frozen=True)
class Worker:
    """What one embed process holds, made once, in the process that uses it (torch does not survive a fork)."""

    config: settings.Settings
    database: database.Database
    s3: Any
    bundle: bundle.Bundle
    batcher: batching.Batcher
    gate: isolation.Gate
    threads: concurrent.futures.Executor
    match_queue: str

    def embed(self, photo: photos.Revision, *, again: bool = False) -> bool:
        """One attempt at a photo; whether it has its embedding now and is to be matched.

        A photo that can never be embedded is parked with its reason. One whose process was lost with it is tried
        alone. With `again`, an embedding that is there is computed anew.

        Raises:
            TransientError: it may work later.
        """
        with self.gate.claim(photo) as free:
            if not free:
                log.info("embed_in_hand")
                return False
            with self.gate.together():
                attempt = self._begin(photo, alone=False, again=again)
                if attempt is None or attempt.embedded or not attempt.lost:
                    return self._finish(photo, attempt)
            with self.gate.alone():
                return self._finish(photo, self._begin(photo, alone=True, again=again))

    def _begin(self, photo: photos.Revision, *, alone: bool, again: bool) -> photos.Attempt | None:
        with self.database.transaction() as connection:
            return photos.begin_attempt(connection, photo, self.bundle.id, alone=alone, again=again)

    def _finish(self, photo: photos.Revision, attempt: photos.Attempt | None) -> bool:
        if attempt is None:
            log.info("embed_outdated")
            return False
        if attempt.embedded:
            return True
        try:
            if attempt.lost >= self.config.embed_max_losses:
                raise errors.PermanentError(
                    "killed_worker",
                    f"Its worker was lost {attempt.lost} times while it was in hand, all but the first time alone.",
                )
            embedded = self._compute(attempt.bucket, attempt.key)
            with self.database.transaction() as connection:
                kept = photos.store(connection, photo, self.bundle.id, embedded)
        except errors.PermanentError as error:
            with self.database.transaction() as connection:
                photos.fail(connection, photo, error.reason, str(error))
            log.warning("photo_failed", reason=error.reason, error=str(error))
            return False
        except errors.TransientError:
            with self.database.transaction() as connection:
                photos.excuse(connection, photo)
            raise
        log.info("photo_embedded", kept=kept)
        return kept

    def _compute(self, bucket: str, key: str) -> photos.Embedded:
        found = objects.fetch(self.s3, bucket, key, self.config.max_photo_bytes)
        picture = images.decode(
            found.data, size=self.bundle.input_size, max_pixels=self.config.max_photo_pixels
        )
        etag, size, sha256 = found.etag, len(found.data), hashlib.sha256(found.data).hexdigest()
        # The bytes need not wait for the batch, too.
        del found
        return photos.Embedded(
            embedding=self.batcher.embed(picture.pixels),
            etag=etag,
            width=picture.width,
            height=picture.height,
            bytes=size,
            sha256=sha256,
        )


_worker: Worker


def prepare(config: settings.Settings, *, bulk: bool = False) -> Worker:
    """Load the backbone and its bundle, check that they and the database belong together.

    With `bulk` for backfills, whose matches keep behind those of live uploads, too.

    Raises:
        ConfigurationError: says what does not fit and the remedy.
    """
    global _worker  # noqa: PLW0603 - Celery's tasks are module functions; the process has one worker
    device = embedding.choose_device(config.device)
    budgets.limit_arenas()
    streams = embedding.share_cores(config.embed_streams, device)
    backbone = embedding.Backbone(
        weights.load(config.backbone_weights), device, config.forward, config.precision
    )
    model_bundle = (
        bundle.load(config.bundle) if config.bundle else bundle.for_backbone(backbone.weights_sha256)
    )
    bundle.check_backbone(model_bundle, backbone)
    batch_size = config.embed_batch_size or backbone.batch_size
    backbone.warm_up(model_bundle.input_size, batch_size)
    embedder = embedding.Embedder(backbone, model_bundle.fusion)
    base = database.Database(config.database_url, config.database_pool_size)
    with base.transaction() as connection:
        models.register(connection, model_bundle)
    _worker = Worker(
        config=config,
        database=base,
        s3=objects.client(config),
        bundle=model_bundle,
        batcher=batching.Batcher(
            functools.partial(_forward, embedder), batch_size, config.embed_batch_wait_seconds, streams
        ),
        gate=isolation.Gate(),
        threads=concurrent.futures.ThreadPoolExecutor(config.embed_concurrency, "photos"),
        match_queue=MATCH_BULK if bulk else MATCH,
    )
    tasks.prepare(config, base)
    log.info(
        "embed_worker_ready",
        device=device,
        model=model_bundle.id,
        weights=backbone.weights_name,
        forward=backbone.form,
        precision=backbone.precision,
        streams=streams,
        batch_size=batch_size,
    )
    return _worker


def _forward(embedder: embedding.Embedder, pixels: images.Pixels) -> fusing.Vectors:
    """The forward pass. What fails in it is the device's fault: the pixels were checked."""
    try:
        return embedder.embed(pixels)
    except torch.OutOfMemoryError as error:
        raise errors.TransientError(f"No memory on the device for {len(pixels)} photos.") from error
    except torch.AcceleratorError as error:
        # After a device-side fault every further call fails; only a new process gets the device back.
        log.critical("device_lost", error=str(error))
        os._exit(processes.EXIT_AWAY)


@app.task(base=tasks.PhotoTask, bind=True, name="dedup.embed", **policy())
def embed_photo(
    self: tasks.PhotoTask, property_id: str, photo_id: int, revision: int, again: bool = False
) -> None:
    """Embed one revision of a photo and ask for its match."""
    photo = photos.Revision(property_id, photo_id, revision)
    with logs.bound(task_id=self.request.id, **dataclasses.asdict(photo)):
        if _worker.embed(photo, again=again):
            publish_match(property_id, photo_id, _worker.match_queue)


@app.task(base=tasks.PhotoTask, bind=True, name="dedup.embed_many", **policy())
def embed_many(
    self: tasks.PhotoTask, revisions: list[tuple[str, int, int]], model_id: str | None, again: bool
) -> None:
    """Embed many photos; each one's fate is its own. `model_id` None: the model of the worker that takes it."""
    if model_id not in {None, _worker.bundle.id}:
        raise errors.TransientError(f"This worker has the model {_worker.bundle.id}, not {model_id}.")
    with logs.bound(task_id=self.request.id):
        one = functools.partial(_embed_one_of_many, again=again, task_id=self.request.id)
        for _ in _worker.threads.map(one, [photos.Revision(*revision) for revision in revisions]):
            pass


def _embed_one_of_many(photo: photos.Revision, again: bool, task_id: str) -> None:
    with logs.bound(task_id=task_id, **dataclasses.asdict(photo)):
        try:
            if _worker.embed(photo, again=again):
                publish_match(photo.property_id, photo.photo_id, _worker.match_queue)
        except errors.TransientError as error:
            # From here on by a task of its own, whose growing waits the others need not share.
            log.info("photo_put_off", error=str(error))
            publish_embed(photo, EMBED_BULK, again=again)
        except errors.ConfigurationError:
            raise
        except Exception as error:
            log.exception("photo_broke_the_worker")
            with _worker.database.transaction() as connection:
                photos.fail(connection, photo, "error", f"{type(error).__name__}: {error}")
