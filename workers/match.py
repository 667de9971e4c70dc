"""The match worker: a photo against its neighbours, and its property's flags."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
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
    budgets.single_thread_blas()
    base = database.Database(
        config.database_url,
        config.database_pool_size,
        statement_seconds=config.database_timeout_seconds,
        generic_plans=True,
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
    """Match photos that were embedded together, those of a property in one go; each one's fate is its own.

    From the first one on that may work later, each goes on as a task of its own: what keeps one waiting, such as a
    database that is away, must not keep this task longer than a broker waits for it. So does each when the task comes
    again: one of them may have taken the process with it.
    """
    wanted = [Match(*photo) for photo in photos]
    if self.request.delivery_info.get("redelivered") or getattr(self.request, "deliveries", 0) > 1:
        _publish_singly(self, wanted)
        return
    left = collections.deque(sorted(wanted, key=_property))
    try:
        for property_id, of_one in itertools.groupby(tuple(left), _property):
            together = list(of_one)
            done = len(together) > 1 and _match_together(property_id, together)
            for one in together:
                if not done:
                    _match_one_of_many(self, one)
                left.popleft()
    except errors.TransientError as error:
        health.process.failed(MATCH_TASK, str(error))
        metrics.TASK_RETRIES.labels(MATCH_TASK).inc()
        with logs.bound(**_ids(left[0])):
            log.info("matches_put_off", photos=len(left), error=str(error))
        _publish_singly(self, list(left))


def _property(one: Match) -> str:
    return one.property_id


def _match_together(property_id: str, together: Sequence[Match]) -> bool:
    """Whether it was done; otherwise photo by photo: whose fault it was shows then."""
    # Of those without one of their own: each span would belong to the one before it.
    carrier = traces.headers()
    try:
        with contextlib.ExitStack() as around:
            around.enter_context(logs.bound(property_id=property_id))
            for one in together:
                around.enter_context(traces.span("match", one.carrier() or carrier, **_ids(one)))
            around.enter_context(health.process.working())
            around.enter_context(metrics.stage("match"))
            with _worker.database.transaction() as connection:
                pairs = matching.match_together(
                    connection,
                    property_id,
                    [one.photo_id for one in together],
                    _worker.bundles,
                    _worker.config.match_neighbours,
                )
    except errors.TransientError:
        raise
    except Exception as error:  # noqa: BLE001 - raised again for the photo whose fault it was
        log.info("not_matched_together", property_id=property_id, photos=len(together), error=str(error))
        return False
    if pairs is None:
        return False
    for one in together:
        health.process.succeeded(MATCH_TASK)
        with logs.bound(**_ids(one)):
            log.info("photo_matched", pairs=pairs.get(one.photo_id, 0))
    return True


def _match_one_of_many(task: tasks.PhotoTask, one: Match) -> None:
    with logs.bound(**_ids(one)), traces.span("match", one.carrier(), **_ids(one)):
        try:
            _match(one.property_id, one.photo_id)
            health.process.succeeded(MATCH_TASK)
        except errors.TransientError:
            raise
        except Exception as error:
            health.process.failed(MATCH_TASK, str(error))
            metrics.TASK_FAILURES.labels(MATCH_TASK).inc()
            log.exception("match_failed")
            task.match_gave_up(one.property_id, one.photo_id, 0, error)


def _ids(one: Match) -> dict[str, str | int]:
    """What its log lines and its span are named by."""
    known = {"correlation_id": one.correlation_id} if one.correlation_id is not None else {}
    return {"property_id": one.property_id, "photo_id": one.photo_id, **known}


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
