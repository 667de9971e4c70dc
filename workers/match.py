"""The match worker: a photo against its neighbours, and its property's flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import structlog

from core import budgets, bundle, database, errors, matching, models, registry, settings
from workers import health, logs, metrics, tasks, traces
from workers.app import MATCH, MATCH_BULK, MATCH_TASK, Match, app, policy, publish_matches

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
    budgets.keep_freed()
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
def match_photo(self: tasks.PhotoTask, property_id: str, photo_id: int, postponed: int = 0) -> None:
    """Match one photo within its property and rewrite the property's flags. `postponed` is told when it gives up."""
    del postponed
    _match(property_id, photo_id)


@app.task(base=tasks.PhotoTask, bind=True, name="dedup.match_many", **policy())
def match_many(self: tasks.PhotoTask, photos: list[tuple[str, int, str | None]]) -> None:
    """Match photos that were embedded together, one after the other; each one's fate is its own.

    From the first one on that may work later, each goes on as a task of its own: what keeps one waiting, such as a
    database that is away, must not keep this task longer than a broker waits for it. So does each when the task comes
    again: one of them may have taken the process with it.
    """
    wanted = [Match(*photo) for photo in photos]
    if self.request.delivery_info.get("redelivered") or getattr(self.request, "deliveries", 0) > 1:
        _publish_singly(self, wanted)
        return
    for place, one in enumerate(wanted):
        own: dict[str, str | int] = {"property_id": one.property_id, "photo_id": one.photo_id}
        if one.correlation_id is not None:
            own["correlation_id"] = one.correlation_id
        with logs.bound(**own), traces.span("match", one.carrier(), **own):
            try:
                _match(one.property_id, one.photo_id)
                health.process.succeeded(MATCH_TASK)
            except errors.TransientError as error:
                health.process.failed(MATCH_TASK, str(error))
                metrics.TASK_RETRIES.labels(MATCH_TASK).inc()
                log.info("matches_put_off", photos=len(wanted) - place, error=str(error))
                _publish_singly(self, wanted[place:])
                return
            except Exception as error:
                health.process.failed(MATCH_TASK, str(error))
                metrics.TASK_FAILURES.labels(MATCH_TASK).inc()
                log.exception("match_failed")
                self.match_gave_up(one.property_id, one.photo_id, 0, error)


def _publish_singly(task: tasks.PhotoTask, wanted: Sequence[Match]) -> None:
    # After a retry on RabbitMQ the queue's name stands behind the seconds of the wait.
    bulk = task.request.delivery_info["routing_key"].endswith(MATCH_BULK)
    for one in wanted:
        publish_matches([one], MATCH_BULK if bulk else MATCH)


def _match(property_id: str, photo_id: int) -> None:
    with health.process.working():
        with metrics.stage("match"), _worker.database.transaction() as connection:
            pairs = matching.match(
                connection, property_id, photo_id, _worker.bundles, _worker.config.match_neighbours
            )
        log.info("photo_matched", pairs=pairs)
