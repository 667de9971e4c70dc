"""What the tasks of a photo have in common: what happens when one ends for good without success."""

from __future__ import annotations

from typing import Any

import celery
import structlog

from core import database, errors, photos

log = structlog.get_logger()


class PhotoTask(celery.Task):
    """Base of the photo tasks. One that gave up leaves its photo to the sweep, or parks it with the reason.

    Only embed tasks, which name a revision, speak for their photo; a photo that was not matched is swept anyway.
    """

    abstract = True
    database: database.Database
    most_postponements: int

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called by Celery after the last attempt."""
        del args, einfo
        log.error("task_gave_up", task=self.name, task_id=task_id, error=str(exc), **kwargs)
        if "revision" not in kwargs:
            return
        photo = photos.Revision(**kwargs)
        message = f"{type(exc).__name__}: {exc}"
        try:
            with self.database.transaction() as connection:
                if not isinstance(exc, errors.TransientError | errors.ConfigurationError):
                    photos.fail(connection, photo, "error", message)
                # An outage, or a database that lacks a migration, is not the photo's fault: the sweep tries
                # again, for as long as outages last.
                elif photos.postpone(connection, photo) > self.most_postponements:
                    photos.fail(connection, photo, "gave_up", message)
        except errors.TransientError as error:
            # The photo stays pending: the database that cannot be told now is the one that remembers it.
            log.error("failure_not_recorded", task_id=task_id, error=str(error), **kwargs)
