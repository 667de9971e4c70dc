"""Does what a process stands on answer, and do messages wait for it? Each probe has a connection of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import botocore.exceptions
import structlog
from celery.worker import state

from core import database, errors, objects, settings
from workers import health
from workers.app import connection

log = structlog.get_logger()

_SECONDS = 5.0

LOOKS = 5
"""How often the queues are looked at in the time after which a process that got nothing is unwell."""


def of_database(config: settings.Settings) -> health.Probe:
    """Asks the database anything."""
    return lambda: _ask(config.database_url)


def of_store(config: settings.Settings) -> health.Probe:
    """Asks the store for each bucket. Whether we may see it is not the question here (`dedup doctor`)."""
    s3 = objects.client(config.model_copy(update={"s3_timeout_seconds": _SECONDS}))

    def probe() -> None:
        for name in config.buckets:
            try:
                s3.head_bucket(Bucket=name)
            except botocore.exceptions.ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status >= 500 or status == 404:
                    raise errors.TransientError(f"bucket {name}: {error}") from error
            except botocore.exceptions.BotoCoreError as error:
                raise errors.TransientError(f"bucket {name}: {error}") from error

    return probe


def of_broker(config: settings.Settings) -> health.Probe:
    """Logs in to RabbitMQ. pgmq is the database; SQS has no connection that could be lost."""
    url = config.broker_url

    def probe() -> None:
        if not url.startswith("amqp"):
            return
        with connection(url, config, _SECONDS) as opened:
            opened.connect()

    return probe


def watch_queues(url: str, config: settings.Settings, queues: Sequence[str]) -> None:
    """See from here on whether messages wait in the queues that this process takes from, and it gets none.

    A queue is looked at five times before that is told, and all must find messages: what passes through is no backlog.
    """
    if config.health_port is not None:
        every_seconds = config.health_stuck_seconds / LOOKS
        health.watch("queues", lambda: count(url, config, queues), every_seconds)


def count(url: str, config: settings.Settings, queues: Sequence[str]) -> None:
    """Tell health how many messages each queue could give out now: none in hand, none that waits for its time."""
    if state.reserved_requests:
        # What this process holds and has not begun, too, as by a rate limit, keeps it from taking more.
        health.process.took()
    try:
        with connection(url, config, _SECONDS) as opened:
            opened.connect()
            channel = opened.channel()
            found = {name: ready(channel, name) for name in queues}
    except Exception as error:  # noqa: BLE001 - each transport raises its own client's errors
        # Not a part that is away: whether the broker is, the loop that takes messages knows better.
        text = str(error).partition("\n")[0]
        log.warning("queues_not_counted", error=f"{type(error).__name__}: {text}")
        found = dict.fromkeys(queues, 0)
    for name, messages in found.items():
        health.process.waiting(name, messages)


def ready(channel: Any, queue: str) -> int:
    """How many messages a queue could give out now: none in hand, none that waits for its time.

    Raises one of the connection's `channel_errors` where there is no such queue.
    """
    declared = channel.queue_declare(queue=queue, passive=True)
    pgmq = getattr(channel, "pgmq", None)
    if pgmq is not None:
        # kombu counts those in hand here, too.
        return int(pgmq.metrics(channel.canonical_queue_name(queue)).queue_visible_length)
    return int(declared.message_count)


def _ask(url: str) -> None:
    database.ask(url, b"SELECT 1")
