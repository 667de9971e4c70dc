"""What the tasks of a photo have in common: what happens when one ends for good without success."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import celery
import structlog
from celery.worker import request, state
from kombu.transport import native_delayed_delivery, virtual

from core import attempts, database, errors, photos, settings
from workers import dead_letters, health, logs, metrics, processes, traces
from workers.app import PUBLISHED_HEADER, TASK_QUEUES

_DELAYED_EXCHANGE = native_delayed_delivery.level_name(native_delayed_delivery.MAX_LEVEL)

_BY_LENGTH = sorted(TASK_QUEUES, key=len, reverse=True)

log = structlog.get_logger()


class Request(request.Request):
    """A message that a worker received; tells its task how often it was given out, where the broker says so."""

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(message, *args, **kwargs)
        health.process.took()
        counted = (message.delivery_info or {}).get("pgmq_message") or {}
        self.request_dict["deliveries"] = counted.get("read_ct", 0)

    def acknowledge(self) -> None:
        """Called by Celery when the task is done."""
        try:
            super().acknowledge()
        finally:
            let_go(self._message)

    def reject(self, requeue: bool = False) -> None:
        """Called by Celery when the message is given back or given up."""
        try:
            super().reject(requeue=requeue)
        finally:
            let_go(self._message)


def let_go(message: Any) -> None:
    """Free a message's place among those in hand, also when telling the broker has failed.

    Celery only logs that failure. Where the connection mends itself beneath it (pgmq, SQS), the place would stay taken:
    a worker that has lost as many acknowledgements as it has places would wait for ever. The message comes back after
    its visibility timeout and finds its work done.
    """
    places = getattr(message.channel, "qos", None)
    if isinstance(places, virtual.QoS):
        # Not there any more: it was acknowledged, as nearly always.
        with contextlib.suppress(KeyError):
            places.get(message.delivery_tag)
            places.ack(message.delivery_tag)


class PhotoTask(celery.Task):
    """Base of the photo tasks. One that gave up leaves its photo to the sweep, or parks it with the reason.

    Embed tasks name a revision, match tasks only a photo. Those of many photos speak for none: each photo's fate is its
    own.
    """

    abstract = True
    Request = "workers.tasks:Request"
    database: database.Database
    most_postponements: int
    most_deliveries: int

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Called by Celery for the task's body. A process that is unfit gives its task back, and ends."""
        name = self.name.removeprefix("dedup.")
        try:
            with traces.span(
                name, self.request.headers, correlation_id=logs.correlation_id() or "", **_ids(kwargs)
            ):
                return self.run(*args, **kwargs)
        except processes.UnfitProcessError as error:
            log.critical("process_unfit", error=str(error))
            health.process.failed(self.name, str(error))
            # Celery's own way to end: what is in hand comes to its end, nothing further is taken.
            state.should_stop = error.exit_code
            raise celery.exceptions.Reject(str(error), requeue=True) from error

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Called by Celery before the task's body. RabbitMQ and SQS count deliveries themselves; pgmq does not."""
        del args
        # Until the next task of this thread, so that what Celery itself says of this one carries them, too.
        logs.rebind(
            task=self.name,
            task_id=task_id,
            correlation_id=self.request.root_id or task_id,
            queue=self.queue_of_request(),
            **_ids(kwargs),
        )
        published_at = (self.request.headers or {}).get(PUBLISHED_HEADER)
        if published_at is not None:
            metrics.waited(self.queue_of_request(), published_at)
        if getattr(self.request, "deliveries", 0) > self.most_deliveries:
            dead_letters.park(self.name, kwargs, task_id, self.request.delivery_info["routing_key"])
            metrics.TASKS_PARKED.inc()
            log.error("task_parked", deliveries=self.request.deliveries)
            raise celery.exceptions.Reject("delivered too often", requeue=False)

    def queue_of_request(self) -> str:
        """The queue that the task in hand came by; a retry's routing key holds its delay before it."""
        key = (self.request.delivery_info or {}).get("routing_key") or ""
        return next((name for name in _BY_LENGTH if key == name or key.endswith(f".{name}")), "")

    def signature_from_request(
        self,
        request: Any = None,
        args: Any = None,
        kwargs: Any = None,
        queue: str | None = None,
        **options: Any,
    ) -> Any:
        """Called by Celery for the message of a retry.

        Celery gives it the time of day from which on it may run, by this machine's clock, and whoever gets it waits
        for that time by its own. Here it waits in the broker, which is told how long.
        """
        seconds = max(1, int(options.pop("countdown", None) or 0))
        options.pop("eta", None)
        again = super().signature_from_request(request, args, kwargs, queue, **options)
        headers = again.options.get("headers")
        if headers and PUBLISHED_HEADER in headers:
            again.options["headers"] = {**headers, PUBLISHED_HEADER: time.time() + seconds}
        if self.app.conf.worker_detect_quorum_queues:
            came_by = again.options.pop("queue", None) or again.options["routing_key"]
            again.options["exchange"] = _DELAYED_EXCHANGE
            again.options["routing_key"] = native_delayed_delivery.calculate_routing_key(seconds, came_by)
        else:
            again.options["DelaySeconds"] = seconds
        return again

    def on_retry(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called by Celery when the message of a retry is out."""
        del task_id, args, kwargs, einfo
        health.process.failed(self.name, str(exc))
        metrics.TASK_RETRIES.labels(self.name).inc()
        log.warning("task_retried", retries=self.request.retries + 1, error=str(exc))

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Called by Celery when the body came to its end; a photo that it parked is none of its faults."""
        del retval, task_id, args, kwargs
        health.process.succeeded(self.name)

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called by Celery after the last attempt."""
        del task_id, args, einfo
        ids = _ids(kwargs)
        health.process.failed(self.name, str(exc))
        metrics.TASK_FAILURES.labels(self.name).inc()
        log.error("task_gave_up", error=str(exc))
        if "revision" not in ids:
            if "photo_id" in ids:
                self.match_gave_up(ids["property_id"], ids["photo_id"], kwargs.get("postponed", 0), exc)
            return
        photo = photos.Revision(**ids)
        message = f"{type(exc).__name__}: {exc}"
        try:
            with self.database.transaction() as connection:
                if not isinstance(exc, errors.TransientError | errors.ConfigurationError):
                    photos.fail(connection, photo, "error", message)
                # An outage, or a database that lacks a migration, is not the photo's fault: the sweep tries
                # again, for as long as outages last.
                elif (
                    attempts.postpone(connection, photo, kwargs.get("postponed", 0)) > self.most_postponements
                ):
                    photos.fail(connection, photo, "gave_up", message)
        except errors.TransientError as error:
            # The photo stays pending: the database that cannot be told now is the one that remembers it.
            log.error("failure_not_recorded", error=str(error))

    def match_gave_up(self, property_id: str, photo_id: int, postponed: int, error: Exception) -> None:
        """Leave a photo to the sweep after its match failed, or park it with the reason.

        Counted are matches that failed and not rounds of the sweep: where none is tried, as while workers are away or
        far behind, no photo is to blame. Nor at once, whatever the error: its embedding is good.
        """
        try:
            with self.database.transaction() as connection:
                failed = attempts.match_failed(connection, property_id, photo_id, postponed)
            if failed is None or failed[1] <= self.most_postponements:
                return
            # In a transaction of its own: the property's lock is taken before any row's.
            with self.database.transaction() as connection:
                parked = photos.park_unmatched(connection, failed[0], f"{type(error).__name__}: {error}")
        except errors.DedupError as problem:
            log.error("failure_not_recorded", error=str(problem))
        else:
            if parked:
                log.warning("photo_failed", reason="unmatched", error=str(error))


def _ids(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: arguments[name] for name in ("property_id", "photo_id", "revision") if name in arguments}


def prepare(config: settings.Settings, base: database.Database) -> None:
    """Give the photo tasks of this process what they need."""
    PhotoTask.database = base
    PhotoTask.most_postponements = config.sweep_rounds
    PhotoTask.most_deliveries = config.task_delivery_limit
