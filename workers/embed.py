"""The embed worker: fetch, decode, micro-batch, embed, store; then ask for a match."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from typing import Any

import structlog
import torch

from core import (
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
from workers import batching, logs, processes, tasks
from workers.app import app, policy, publish_match

log = structlog.get_logger()


@dataclasses.dataclass(frozen=True)
class Worker:
    """What one embed process holds, made once, in the process that uses it (torch does not survive a fork)."""

    config: settings.Settings
    database: database.Database
    s3: Any
    bundle: bundle.Bundle
    batcher: batching.Batcher

    def embed(self, bucket: str, key: str) -> photos.Embedded:
        """Bytes to embedding, for one photo.

        Raises:
            PermanentError: this photo can never be embedded.
            TransientError: it may work later.
        """
        found = objects.fetch(self.s3, bucket, key, self.config.max_photo_bytes)
        picture = images.decode(
            found.data, size=self.bundle.input_size, max_pixels=self.config.max_photo_pixels
        )
        return photos.Embedded(
            embedding=self.batcher.embed(picture.pixels),
            etag=found.etag,
            width=picture.width,
            height=picture.height,
            bytes=len(found.data),
            sha256=hashlib.sha256(found.data).hexdigest(),
        )


_worker: Worker


def prepare(config: settings.Settings) -> Worker:
    """Load the backbone and its bundle, check that they and the database belong together.

    Raises:
        ConfigurationError: says what does not fit and the remedy.
    """
    global _worker  # noqa: PLW0603 - Celery's tasks are module functions; the process has one worker
    device = embedding.choose_device(config.device)
    backbone = embedding.Backbone(weights.load(config.backbone_weights), device)
    model_bundle = (
        bundle.load(config.bundle) if config.bundle else bundle.for_backbone(backbone.weights_sha256)
    )
    bundle.check_backbone(model_bundle, backbone)
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
            functools.partial(_forward, embedder), config.embed_batch_size, config.embed_batch_wait_seconds
        ),
    )
    tasks.PhotoTask.database = base
    tasks.PhotoTask.most_postponements = config.sweep_rounds
    log.info("embed_worker_ready", device=device, model=model_bundle.id, weights=backbone.weights_name)
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
def embed_photo(self: tasks.PhotoTask, property_id: str, photo_id: int, revision: int) -> None:
    """Embed one revision of a photo and ask for its match."""
    photo = photos.Revision(property_id, photo_id, revision)
    with logs.bound(task_id=self.request.id, **dataclasses.asdict(photo)):
        with _worker.database.transaction() as connection:
            attempt = photos.begin_attempt(connection, photo, _worker.bundle.id)
        if attempt is None:
            log.info("embed_outdated")
            return
        if attempt.embedded:
            publish_match(property_id, photo_id)
            return
        try:
            if attempt.number > 1 + _worker.config.task_max_retries:
                raise errors.PermanentError(
                    "gave_up", f"Its worker was lost or failed {attempt.number - 1} times on it."
                )
            embedded = _worker.embed(attempt.bucket, attempt.key)
        except errors.PermanentError as error:
            with _worker.database.transaction() as connection:
                photos.fail(connection, photo, error.reason, str(error))
            log.warning("photo_failed", reason=error.reason, error=str(error))
            return
        except errors.TransientError:
            with _worker.database.transaction() as connection:
                photos.excuse(connection, photo)
            raise
        with _worker.database.transaction() as connection:
            kept = photos.store(connection, photo, _worker.bundle.id, embedded)
        if kept:
            publish_match(property_id, photo_id)
        log.info("photo_embedded", kept=kept)
