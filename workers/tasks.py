"""What the tasks of a photo have in common: what happens when one ends for good without success."""

from __future__ import annotations

from typing import Any

import celery
import structlog
from celery.worker import request

from core import database, errors, photos, settings
from workers import dead_letters

log = structlog.get_logger()


class Request(request.Request):
    """A message that a worker received; tells its task how often it was given out, where the broker says so."""

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(message, *args, **kwargs)
        counted = (message.delivery_info or {}).get("pgmq_message") or {}
        self.request_dict["deliveries"] = counted.get("read_ct", 0)


class PhotoTask(celery.Task):
    """Base of the photo tasks. One that gave up leaves its photo to the sweep, or parks it with the reason.

    Only embed tasks, which name a revision, speak for their photo; a photo that was not matched is swept anyway.
    """

    abstract = True
    Request = "workers.tasks:Request"
    database: database.Database
    most_postponements: int
    most_deliveries: int

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Called by Celery before the task's body. RabbitMQ and SQS count deliveries themselves; pgmq does not."""
        del args
        if getattr(self.request, "deliveries", 0) > self.most_deliveries:
            dead_letters.park(self.name, kwargs, task_id, self.request.delivery_info["routing_key"])
            log.error("task_parked", task=self.name, task_id=task_id, deliveries=self.request.deliveries)
            raise celery.exceptions.Reject("delivered too often", requeue=False)

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called by Celery after the last attempt."""
        del args, einfo
        ids = {name: kwargs[name] for name in ("property_id", "photo_id", "revision") if name in kwargs}
        log.error("task_gave_up", task=self.name, task_id=task_id, error=str(exc), **ids)
        if "revision" not in ids:
            return
        photo = photos.Revision(**ids)
        message = f"{type(exc).__name__}: {exc}"
        try:
            with self.database.transaction() as connection:
                if not isinstance(exc, errors.TransientError | errors.ConfigurationError):
                    photos.fail(connection, photo, "error", message)
                # An outage, or a database that lacks a migration, is not the photo's fault: the sweep tries
                # again, for as long as outages last.
                elif photos.postpone(connection, photo, kwargs.get("postponed", 0)) > self.most_postponements:
                    photos.fail(connection, photo, "gave_up", message)
        except errors.TransientError as error:
            # The photo stays pending: the database that cannot be told now is the one that remembers it.
            log.error("failure_not_recorded", task_id=task_id, error=str(error), **ids)


def prepare(config: settings.Settings, base: database.Database) -> None:
    """Give the photo tasks of this process what they need."""
    PhotoTask.database = base
    PhotoTask.most_postponements = config.sweep_rounds
    PhotoTask.most_deliveries = config.task_delivery_limit
