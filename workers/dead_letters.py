"""The dead-letter queue: task messages that were given out too often, on whatever broker.

RabbitMQ moves them there by the queues' delivery limit, SQS by a redrive policy; on pgmq the worker does. They are
a record only: the photo that such a message was about is in the database, and the sweep goes on with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import kombu
import structlog

from core import errors, settings
from workers import health
from workers.app import DEAD_LETTERS, TASK_QUEUES, app
from workers.app import connection as connect

log = structlog.get_logger()

_KEPT_SECONDS = 14 * 86_400  # as long as SQS keeps anything
_QUEUE_HEADER = "dedup-queue"

# A classic queue: a quorum queue of RabbitMQ 4 would count each look at it as a delivery, too.
_QUEUE = kombu.Queue(DEAD_LETTERS, kombu.Exchange(DEAD_LETTERS, "fanout"), routing_key=DEAD_LETTERS)
_VIRTUAL_QUEUE = kombu.Queue(DEAD_LETTERS, kombu.Exchange(DEAD_LETTERS, "direct"), routing_key=DEAD_LETTERS)


@dataclasses.dataclass(frozen=True)
class DeadLetter:
    """A task that its broker gave up on: its name, its arguments and the queue that it was in."""

    task: str
    arguments: dict[str, Any]
    queue: str


def prepare(config: settings.Settings) -> None:
    """Wait for the broker, then see that every task queue is there and gives up into the dead-letter queue.

    All of them, not only those that this process works on: what waits for a retry in RabbitMQ is bound to each.
    A broker that refuses is no reason not to work.
    """
    try:
        with connect(config.broker_url, config) as connection:
            connection.ensure_connection(errback=_waits)
            _declare(connection, config)
    except Exception as error:  # noqa: BLE001 - each transport raises its own client's errors
        log.warning(
            "no_dead_letter_queue",
            error=f"{type(error).__name__}: {error}",
            remedy=f"let the login declare queues, or declare {DEAD_LETTERS} (SQS: a redrive policy) by hand",
        )


def _waits(error: Exception, seconds: float) -> None:
    health.process.away("broker", str(error))
    log.warning("broker_away", error=str(error), seconds=seconds)


def park(task: str, arguments: dict[str, Any], task_id: str, queue: str) -> None:
    """Put a task into the dead-letter queue; for brokers that do not do it themselves."""
    headers = {_QUEUE_HEADER: queue}
    app.send_task(task, kwargs=arguments, task_id=task_id, queue=_VIRTUAL_QUEUE, headers=headers)


def look(config: settings.Settings, limit: int) -> list[DeadLetter]:
    """At most `limit` dead letters, which stay where they are.

    Raises:
        TransientError: the broker is away.
    """
    with _messages(config, limit) as found:
        letters = [_read(message) for message in found]
        for message in found:
            _release(message, done=False)
    return letters


def replay(config: settings.Settings, limit: int) -> int:
    """Put at most `limit` dead letters back into the queues that they came from; returns how many.

    Raises:
        TransientError: the broker is away; what was not put back stays.
    """
    with _messages(config, limit) as found:
        letters = [(message, _read(message)) for message in found]
        for message, letter in letters:
            if letter.queue:
                app.send_task(letter.task, kwargs=letter.arguments, queue=letter.queue)
            _release(message, done=bool(letter.queue))
    return sum(bool(letter.queue) for _, letter in letters)


@contextlib.contextmanager
def _messages(config: settings.Settings, limit: int) -> Iterator[list[Any]]:
    try:
        with connect(config.broker_url, config) as connection:
            connection.ensure_connection(max_retries=1, timeout=5)
            yield _take(connection, limit)
    except Exception as error:
        # Each transport raises its own client's errors.
        raise errors.TransientError(
            f"The broker does not answer ({type(error).__name__}: {error}); see DEDUP_BROKER_URL."
        ) from error


def _take(connection: kombu.Connection, limit: int) -> list[Any]:
    queue = kombu.Queue(DEAD_LETTERS)
    with connection.channel() as probe:
        try:
            queue(probe).queue_declare(passive=True)
        except connection.channel_errors:
            return []
    bound = queue(connection.default_channel)
    # Given back to kombu, a message of SQS would be sent again, to the queue that it died in.
    sqs = connection.transport.driver_type == "sqs"
    found: list[Any] = []
    while len(found) < limit and (message := bound.get(no_ack=sqs, accept=["json"])):
        found.append(message)
    return found


def _release(message: Any, *, done: bool) -> None:
    """Take a message out of the queue, or leave it there for others."""
    info = message.delivery_info or {}
    if "sqs_message" in info:
        client = message.channel.sqs()
        handle = {"QueueUrl": info["sqs_queue"], "ReceiptHandle": info["sqs_message"]["ReceiptHandle"]}
        if done:
            client.delete_message(**handle)
        else:
            client.change_message_visibility(**handle, VisibilityTimeout=0)
    elif done:
        message.ack()
    else:
        message.requeue()


def _read(message: Any) -> DeadLetter:
    _, arguments, _ = message.payload
    headers = message.headers or {}
    came_from = [death.get("queue") for death in headers.get("x-death") or []]
    came_from += [headers.get(_QUEUE_HEADER), (message.delivery_info or {}).get("routing_key")]
    queue = next((name for name in came_from if name in TASK_QUEUES), "")
    return DeadLetter(headers.get("task", ""), arguments, queue)


def _declare(connection: kombu.Connection, config: settings.Settings) -> None:
    channel = connection.default_channel
    virtual = not config.broker_url.startswith("amqp")
    (_VIRTUAL_QUEUE if virtual else _QUEUE)(channel).declare()
    for queue in app.conf.task_queues:
        queue(channel).declare()
    if config.broker_url.startswith("sqs"):
        _redrive(channel, config.task_delivery_limit)


def _redrive(channel: Any, limit: int) -> None:
    client = channel.sqs()
    urls = {
        name: client.get_queue_url(QueueName=channel.canonical_queue_name(name))["QueueUrl"]
        for name in (DEAD_LETTERS, *TASK_QUEUES)
    }
    target = urls.pop(DEAD_LETTERS)
    kept = {"MessageRetentionPeriod": str(_KEPT_SECONDS)}
    client.set_queue_attributes(QueueUrl=target, Attributes=kept)
    arn = client.get_queue_attributes(QueueUrl=target, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": str(limit)})
    for url in urls.values():
        client.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": policy})
