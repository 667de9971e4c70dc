"""The match worker: a photo against its neighbours, and its property's flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import structlog

from core import bundle, database, errors, matching, models, settings
from workers import health, tasks
from workers.app import app, policy

log = structlog.get_logger()


@dataclasses.dataclass(frozen=True)
class Worker:
    """What one match process holds, made once."""

    config: settings.Settings
    database: database.Database
    bundles: Mapping[str, bundle.Bundle]


_worker: Worker


def prepare(config: settings.Settings) -> Worker:
    """Load the bundles at hand: the shipped ones and DEDUP_BUNDLE. Needs no backbone weights.

    Raises:
        ConfigurationError: the database's active model is none of them.
    """
    global _worker  # noqa: PLW0603 - Celery's tasks are module functions; the process has one worker
    at_hand = [*bundle.shipped().values()] + ([bundle.load(config.bundle)] if config.bundle else [])
    bundles = {item.id: item for item in at_hand}
    base = database.Database(
        config.database_url, config.database_pool_size, statement_seconds=config.database_timeout_seconds
    )
    with base.transaction() as connection:
        model = models.active(connection)
    if model is not None and model.id not in bundles:
        raise errors.ConfigurationError(
            f"The database's active model is {model.name} ({model.id}), which is not among the shipped bundles; "
            "set DEDUP_BUNDLE to its folder."
        )
    _worker = Worker(config=config, database=base, bundles=bundles)
    tasks.prepare(config, base)
    log.info("match_worker_ready", model=model.id if model else None)
    return _worker


@app.task(base=tasks.PhotoTask, bind=True, name="dedup.match", **policy())
def match_photo(self: tasks.PhotoTask, property_id: str, photo_id: int) -> None:
    """Match one photo within its property and rewrite the property's flags."""
    with health.process.working():
        with _worker.database.transaction() as connection:
            pairs = matching.match(
                connection, property_id, photo_id, _worker.bundles, _worker.config.match_neighbours
            )
        log.info("photo_matched", pairs=pairs)
