"""Ingest: raw notifications of the store become photo rows and embed tasks, then are acknowledged."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import time
from collections.abc import Callable
from typing import Any

import amqp
import kombu
import kombu.mixins
import structlog

from core import database, errors, events, photos, settings
from workers.app import connection, publish_embed

log = structlog.get_logger()

_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 30.0


class Ingest(kombu.mixins.ConsumerMixin):
    """A consumer of the store's own messages, from SQS or from AMQP; not a Celery worker.

    A raw event that lands in a Celery queue would be deleted as an unknown message.
    """

    def __init__(self, config: settings.Settings, base: database.Database) -> None:
        self.connection = connection(config.events_url, config)
        self._database = base
        self._pattern = events.KeyPattern(re.compile(config.key_pattern), frozenset(config.buckets))
        self._queue = _queue(config)

    def get_consumers(self, Consumer: Callable[..., Any], channel: Any) -> list[Any]:  # noqa: N803 - kombu's name
        """Called by kombu for each new connection."""
        _declare(self._queue, channel)
        # `on_message` rather than `callbacks`: bodies come without a content type that kombu would decode.
        return [Consumer(queues=[self._queue], on_message=self.on_message, prefetch_count=10)]

    def on_consume_ready(self, connection: Any, channel: Any, consumers: Any, **_: Any) -> None:
        """Called by kombu when the queue is there and messages can come."""
        del connection, channel, consumers
        log.info("ingest_ready", queue=self._queue.name)

    def on_message(self, message: kombu.Message) -> None:
        """Apply one message, then acknowledge it; while the database or broker is away, wait with it in hand.

        It is not given back: brokers count that, and drop a message that came back too often.
        """
        wait_seconds = _FIRST_WAIT_SECONDS
        while True:
            try:
                self.apply(message.body)
            except errors.TransientError as error:
                log.warning("ingest_waits", seconds=wait_seconds, error=str(error))
                time.sleep(wait_seconds)
                wait_seconds = min(2 * wait_seconds, _LONGEST_WAIT_SECONDS)
            else:
                message.ack()
                return

    def apply(self, body: bytes | str) -> None:
        """Record what a message says, then publish what is to be embedded.

        Raises:
            TransientError: the database or the broker is away; the message may be applied again.
        """
        for rejection in self.take(body):
            self._reject(rejection)

    def take(self, body: bytes | str) -> list[events.Rejection]:
        """Apply what is understood of a message; returns what is not. Raises as `apply`."""
        notification = events.parse(body, self._pattern)
        rejections = list(notification.rejections)
        for event in notification.events:
            try:
                self._apply_event(event)
            except errors.TransientError:
                raise
            except Exception as error:  # noqa: BLE001 - one event that cannot be stored must not stop all others
                message = f"{type(error).__name__}: {error}"
                rejections.append(events.Rejection("error", message, json.dumps(events.record(event))))
        return rejections

    def _apply_event(self, event: events.Event) -> None:
        # A transaction an event: it locks the event's property, and two locks at once could deadlock.
        with self._database.transaction() as connection:
            applied = photos.apply_event(connection, event)
        if applied.outcome is photos.Outcome.PENDING:
            publish_embed(applied.photo)
        log.info(
            "event_applied",
            outcome=applied.outcome.value,
            key=event.key,
            **dataclasses.asdict(applied.photo),
        )

    def _reject(self, rejection: events.Rejection) -> None:
        with self._database.transaction() as connection:
            photos.reject(connection, rejection)
        log.warning("event_rejected", reason=rejection.reason, error=rejection.message)


def run(config: settings.Settings) -> None:
    """Consume until the process is told to stop."""
    base = database.Database(config.database_url, config.database_pool_size)
    with contextlib.closing(base):
        Ingest(config, base).run()


def _queue(config: settings.Settings) -> kombu.Queue:
    arguments = {"x-queue-type": "quorum"} if config.events_url.startswith("amqp") else None
    return kombu.Queue(
        config.event_queue,
        kombu.Exchange(config.event_queue, "direct"),
        routing_key=config.event_queue,
        queue_arguments=arguments,
        no_declare=True,
    )


def _declare(queue: kombu.Queue, channel: Any) -> None:
    # A store that publishes to AMQP may have declared the queue its own way; then it is taken as it is.
    with channel.connection.client.channel() as probe:
        try:
            queue(probe).queue_declare(passive=True)
        except amqp.exceptions.NotFound:
            # The queue's own `no_declare`, by which the consumer takes it as it is, holds for `declare` too.
            bound = queue(channel)
            bound.exchange.declare()
            bound.queue_declare()
            bound.queue_bind()
