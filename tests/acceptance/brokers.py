"""The brokers of production, for the tests: RabbitMQ where one runs, in a virtual host of the test's own."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator

import amqp
import kombu
import psycopg
import pytest
from psycopg import sql

from workers import embedded_s3

from . import system as acceptance

RABBITMQ = ("127.0.0.1", 5672)
EVENTS = "dedup-events-of-test"
TASK_QUEUES = ("embed", "embed.bulk", "match", "match.bulk")
DEAD_LETTERS = "dedup.dead-letters"
DEAD_EVENTS = f"{EVENTS}-dead-letters"
DELIVERY_LIMIT = 5
"""What a test sets DEDUP_TASK_DELIVERY_LIMIT to that has no crash in it."""

TASK_ARGUMENTS = {
    "x-queue-type": "quorum",
    "x-delivery-limit": DELIVERY_LIMIT,
    "x-dead-letter-exchange": DEAD_LETTERS,
}


EVENT_ARGUMENTS = {
    "x-queue-type": "quorum",
    "x-delivery-limit": 1000,
    "x-dead-letter-exchange": DEAD_EVENTS,
}


@dataclasses.dataclass(frozen=True)
class Broker:
    """Where tasks and events go, and what takes a notification there that the store did not send itself.

    Events go where tasks go, unless `events_url` says otherwise.
    """

    url: str
    bucket: str
    send: Callable[[acceptance.Row], None] | None
    events_url: str | None = None
    events: str = EVENTS

    def settings(self) -> dict[str, str]:
        """Settings under which a process works with this broker."""
        return {
            "DEDUP_BROKER_URL": self.url,
            "DEDUP_EVENT_BROKER_URL": self.events_url or self.url,
            "DEDUP_EVENT_QUEUE": self.events,
            "DEDUP_BUCKETS": self.bucket,
        }

    def event_queue_exists(self) -> bool:
        """Whether an ingest process has declared it."""
        with kombu.Connection(self.url) as connection:
            return _is_there(connection, EVENTS)


@contextlib.contextmanager
def pgmq(system: acceptance.System, bucket: str) -> Iterator[Broker]:
    """Queues in a database of their own, and a bucket that sends its notifications to an SQS queue of its own."""
    import pgmq.install

    database = f"queues_{uuid.uuid4().hex[:8]}"
    name = sql.Identifier(database)
    with psycopg.connect(system.stack.postgres.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
    owner = system.stack.postgres.url(database=database)
    with psycopg.connect(owner, autocommit=True) as connection:
        pgmq.install.install_pgmq_sql(pgmq.install.get_embedded_install_sql(), conn=connection)
    events, events_url = sqs_events(system, bucket, f"{EVENTS}-{bucket}")
    yield Broker("pgmq://" + owner.partition("://")[2], bucket, None, events_url, events)
    with psycopg.connect(system.stack.postgres.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def sqs_events(system: acceptance.System, bucket: str, queue: str) -> tuple[str, str]:
    """Make a bucket that sends its own notifications to an SQS queue; returns the queue's name and broker URL."""
    system.s3.create_bucket(Bucket=bucket)
    queue_url = system.sqs.create_queue(QueueName=queue)["QueueUrl"]
    found = system.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
    notification = {
        "QueueArn": found["Attributes"]["QueueArn"],
        "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"],
    }
    system.s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [notification]}
    )
    access = f"{embedded_s3.ACCESS_KEY_ID}:{embedded_s3.SECRET_ACCESS_KEY}"
    return queue, f"sqs://{access}@{system.stack.store.endpoint_url.removeprefix('http://')}//"


@contextlib.contextmanager
def rabbitmq(system: acceptance.System, bucket: str) -> Iterator[Broker]:
    """A virtual host of our own, or the default one where none can be made and its queues are not in use."""
    with virtual_host() as name:
        url = f"amqp://guest:guest@{RABBITMQ[0]}:{RABBITMQ[1]}/{name}"
        system.s3.create_bucket(Bucket=bucket)

        def send(message: acceptance.Row) -> None:
            with kombu.Connection(url) as connection, connection.Producer(serializer="json") as producer:
                producer.publish(message, exchange=EVENTS, routing_key=EVENTS)

        yield Broker(url, bucket, send)


@contextlib.contextmanager
def virtual_host() -> Iterator[str]:
    """A virtual host of the test's own, or the default one; the test is skipped where no RabbitMQ is."""
    try:
        socket.create_connection(RABBITMQ, timeout=5).close()
    except OSError as error:
        reason = f"no RabbitMQ listens on {RABBITMQ[0]}:{RABBITMQ[1]} ({error})"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    name = f"dedup-test-{uuid.uuid4().hex[:8]}"
    if _rabbitmqctl("add_vhost", name):
        try:
            assert _rabbitmqctl("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
            yield name
        finally:
            _rabbitmqctl("delete_vhost", name)
        return
    # AMQP itself cannot make one. The queues' names are fixed, so whoever has them here must not be disturbed.
    url = f"amqp://guest:guest@{RABBITMQ[0]}:{RABBITMQ[1]}//"
    with kombu.Connection(url) as connection:
        taken = [
            queue
            for queue in (*TASK_QUEUES, DEAD_LETTERS, EVENTS, DEAD_EVENTS)
            if _is_there(connection, queue)
        ]
        if taken:
            pytest.fail(
                f"rabbitmqctl makes no virtual host here, and the default one has the queues {taken} already; "
                "delete them, or run the tests as a user who may run rabbitmqctl"
            )
        try:
            yield "/"
        finally:
            with connection.channel() as channel:
                for queue in (*TASK_QUEUES, DEAD_LETTERS, EVENTS, DEAD_EVENTS):
                    channel.queue_delete(queue)
                    channel.exchange_delete(queue)


def _is_there(connection: kombu.Connection, queue: str) -> bool:
    with connection.channel() as channel:
        try:
            kombu.Queue(queue)(channel).queue_declare(passive=True)
        except amqp.NotFound:
            return False
        return True


def _rabbitmqctl(*arguments: str) -> bool:
    program = shutil.which("rabbitmqctl")
    if program is None:
        return False
    return subprocess.run([program, *arguments], capture_output=True, timeout=60, check=False).returncode == 0
