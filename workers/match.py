"""The match worker: a photo against its neighbours, and its property's flags."""

from __future__ import annotations

import dataclasses

import structlog

from core import bundle, database, matching, models, registry, settings
from workers import health, metrics, tasks
from workers.app import app, policy

log = structlog.get_logger()


@dataclasses.dataclass(frozen=True)
class Worker:
    """What one match process holds, made once."""

    config: settings.Settings
    database: database.Database
    bundles: registry.Registry


_worker: Worker


def prepare(config: settings.Settings) -> Worker:
    """Look which model is active. Needs no backbone weights, and no bundle but those of the database.

    Raises:
        ConfigurationError: DEDUP_BUNDLE is no live model of the database.
    """
    global _worker  # noqa: PLW0603 - Celery's tasks are module functions; the process has one worker
    base = database.Database(
        config.database_url, config.database_pool_size, statement_seconds=config.database_timeout_seconds
    )
    named = bundle.load(config.bundle) if config.bundle else None
    with base.transaction() as connection:
        if named is not None:
            models.check_named(connection, named)
        models.fill_in(connection, {named.id: named} if named else {}, bundle.shipped_by_id)
        model = models.active(connection)
    _worker = Worker(config=config, database=base, bundles=registry.Registry())
    tasks.prepare(config, base)
    log.info("match_worker_ready", model=model.id if model else None)
    return _worker


@app.task(base=tasks.PhotoTask, bind=True, name="dedup.match", **policy())
def match_photo(self: tasks.PhotoTask, property_id: str, photo_id: int) -> None:
    """Match one photo within its property and rewrite the property's flags."""
    with health.process.working():
        with metrics.stage("match"), _worker.database.transaction() as connection:
            pairs = matching.match(
                connection, property_id, photo_id, _worker.bundles, _worker.config.match_neighbours
            )
        log.info("photo_matched", pairs=pairs)
