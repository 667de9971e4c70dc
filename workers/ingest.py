"""Ingest: raw notifications of the store become photo rows and embed tasks, then are acknowledged."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import kombu
import kombu.mixins
import structlog

from core import database, errors, events, photos, settings
from workers import collectors, event_queue, health, logs, metrics, probes, stopping, traces
from workers.app import connection, publish_embed

log = structlog.get_logger()

_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 30.0
_LOOK_SECONDS = 30.0
_LOOP = "consumer"
_NOT_THE_EVENTS = (errors.TransientError, errors.ConfigurationError)
"""Errors that say nothing of the event that met them: it is held until they are over."""


class Ingest(kombu.mixins.ConsumerMixin):
    """A consumer of the store's own messages, from SQS or from AMQP; not a Celery worker.

    A raw event that lands in a Celery queue would be deleted as an unknown message.
    """

    def __init__(self, config: settings.Settings, base: database.Database) -> None:
        self.connection = connection(config.events_url, config)
        self._database = base
        self._pattern = events.key_pattern(config.key_pattern, config.buckets)
        self._config = config
        self._queue = event_queue.events(config)
        self._channel: Any = None
        self._looked = time.monotonic()

    def get_consumers(self, Consumer: Callable[..., Any], channel: Any) -> list[Any]:  # noqa: N803 - kombu's name
        """Called by kombu for each new connection."""
        self._channel = channel
        event_queue.declare(self._config, channel)
        # `on_message` rather than `callbacks`: bodies come without a content type that kombu would decode.
        return [Consumer(queues=[self._queue], on_message=self.on_message, prefetch_count=10)]

    def on_consume_ready(self, connection: Any, channel: Any, consumers: Any, **_: Any) -> None:
        """Called by kombu when the queue is there and messages can come."""
        del connection, channel, consumers
        health.process.back("events")
        health.process.took()
        health.process.ready()
        log.info("ingest_ready", queue=self._queue.name)

    def on_connection_error(self, exc: Exception, interval: float) -> None:
        """Called by kombu when the broker cannot be reached."""
        health.process.away("events", str(exc))
        log.warning("broker_away", error=str(exc), seconds=interval)

    def on_iteration(self) -> None:
        """Called by kombu about once a second, and after each message."""
        if stopping.process.told:
            raise SystemExit(0)
        health.process.turned(_LOOP)
        # A broker that stands still sends nothing, as one that has nothing to send; so it is asked. Its connection
        # has no heartbeat: while an event is held nobody would answer it, and the broker count that as a return.
        if (
            time.monotonic() - self._looked > _LOOK_SECONDS
            and self.connection.transport.driver_type == "amqp"
        ):
            self._looked = time.monotonic()
            self._queue(self._channel).queue_declare(passive=True)

    def consume(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """As kombu's; called anew by it after every loss of the connection."""
        try:
            yield from super().consume(*args, **kwargs)
        except Exception as error:
            health.process.waits(_LOOP)
            health.process.away("events", f"{type(error).__name__}: {error}")
            raise

    def on_message(self, message: kombu.Message) -> None:
        """Apply one message, then acknowledge it; while the database or broker is away or lacks what it needs (a
        migration, a grant), wait with it in hand.

        It is not given back: brokers count that, and drop a message that came back too often. Only a process that is
        told to stop takes no further one, and leaves those that it was given to the broker.
        """
        wait_seconds = _FIRST_WAIT_SECONDS
        while not stopping.process.told:
            # Each attempt ends, so that it can be seen from outside that they go on.
            health.process.turned(_LOOP, _LONGEST_WAIT_SECONDS)
            health.process.took()
            try:
                with stopping.process.in_hand(), health.process.working("event"):
                    self.apply(message.body)
                    message.ack()
            except _NOT_THE_EVENTS as error:
                log.warning("ingest_waits", seconds=wait_seconds, error=str(error))
                health.process.away("ingest", f"an event is held: {error}")
                time.sleep(wait_seconds)
                wait_seconds = min(2 * wait_seconds, _LONGEST_WAIT_SECONDS)
            else:
                health.process.back("ingest")
                return

    def apply(self, body: bytes | str) -> None:
        """Record what a message says, then publish what is to be embedded.

        Raises:
            TransientError: the database or the broker is away; the message may be applied again.
            ConfigurationError: the database lacks a migration, or the login a right; likewise.
        """
        for rejection in self.take(body):
            self._reject(rejection)

    def take(self, body: bytes | str) -> list[events.Rejection]:
        """Apply what is understood of a message; returns what is not. Raises as `apply`."""
        notification = events.parse(body, self._pattern)
        rejections = list(notification.rejections)
        for event in notification.events:
            try:
                ids = {"correlation_id": _correlation_id(event), "property_id": event.property_id}
                with logs.bound(**ids), traces.span("ingest", **ids):
                    self._apply_event(event)
            except _NOT_THE_EVENTS:
                raise
            except Exception as error:  # noqa: BLE001 - one event that cannot be stored must not stop all others
                message = f"{type(error).__name__}: {error}"
                rejections.append(events.Rejection("error", message, json.dumps(events.record(event))))
        return rejections

    def _apply_event(self, event: events.Event) -> None:
        # A transaction an event: it locks the event's property, and two locks at once could deadlock.
        try:
            with self._database.transaction() as connection:
                applied = photos.apply_event(connection, event)
        except _NOT_THE_EVENTS as error:
            log.warning("event_put_off", key=event.key, error=str(error))
            raise
        with logs.bound(key=event.key, outcome=applied.outcome.value, **dataclasses.asdict(applied.photo)):
            if applied.outcome is photos.Outcome.PENDING:
                try:
                    publish_embed(applied.photo)
                except errors.TransientError as error:
                    log.warning("event_not_published", error=str(error))
                    raise
            metrics.EVENTS.labels(applied.outcome.value).inc()
            delay = datetime.datetime.now(datetime.UTC) - event.occurred_at
            metrics.EVENT_DELAY.observe(max(0.0, delay.total_seconds()))
            log.info("event_applied")

    def _reject(self, rejection: events.Rejection) -> None:
        with self._database.transaction() as connection:
            photos.reject(connection, rejection)
        metrics.EVENTS.labels("rejected").inc()
        metrics.EVENTS_REJECTED.labels(rejection.reason).inc()
        log.warning("event_rejected", reason=rejection.reason, error=rejection.message)


def run(config: settings.Settings) -> None:
    """Consume until the process is told to stop."""
    base = database.Database(
        config.database_url, config.database_pool_size, statement_seconds=config.database_timeout_seconds
    )
    health.serve(config, {"database": probes.of_database(config)}, collectors.endpoints(config, "ingest"))
    probes.watch_queues(config.events_url, config, [config.event_queue])
    stopping.process.on_signals(config.stop_seconds)
    with contextlib.closing(base):
        Ingest(config, base).run()


def _correlation_id(event: events.Event) -> str:
    """The same for the same event, however often it comes."""
    parts = (event.bucket, event.key, event.sequencer, event.occurred_at.isoformat(), event.kind.value)
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "\n".join(parts)))
