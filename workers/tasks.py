"""What the tasks of a photo have in common: what happens when one ends for good without success."""

from __future__ import annotations

from typing import Any

import celery
import structlog

from core import database, errors, photos

log = structlog.get_logger()


class PhotoTask(celery.Task):
    """Base of the photo tasks. One that gave up parks its photo with the reason, where there is a revision."""

    abstract = True
    database: database.Database

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called by Celery after the last attempt."""
        del args, einfo
        log.error("task_gave_up", task=self.name, task_id=task_id, error=str(exc), **kwargs)
        if "revision" not in kwargs:
            return
        reason = "gave_up" if isinstance(exc, errors.TransientError) else "error"
        message = f"{type(exc).__name__}: {exc}"
        try:
            with self.database.transaction() as connection:
                photos.fail(connection, photos.Revision(**kwargs), reason, message)
        except errors.TransientError as error:
            # The photo stays pending: the database that cannot be told now is the one that remembers it.
            log.error("failure_not_recorded", task_id=task_id, error=str(error), **kwargs)
