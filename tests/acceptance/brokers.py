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
import pytest

from . import system as acceptance

RABBITMQ = ("127.0.0.1", 5672)
EVENTS = "dedup-events-of-test"
TASK_QUEUES = ("embed", "embed.bulk", "match", "match.bulk")
DEAD_LETTERS = "dedup.dead-letters"
DELIVERY_LIMIT = 5
"""What a test sets DEDUP_TASK_DELIVERY_LIMIT to that has no crash in it."""

TASK_ARGUMENTS = {
    "x-queue-type": "quorum",
    "x-delivery-limit": DELIVERY_LIMIT,
    "x-dead-letter-exchange": DEAD_LETTERS,
}


@dataclasses.dataclass(frozen=True)
class Broker:
    """Where tasks and events go, and what takes a notification there that the store did not send itself."""

    url: str
    bucket: str
    send: Callable[[acceptance.Row], None] | None

    def settings(self) -> dict[str, str]:
        """Settings under which a process works with this broker."""
        return {
            "DEDUP_BROKER_URL": self.url,
            "DEDUP_EVENT_BROKER_URL": self.url,
            "DEDUP_EVENT_QUEUE": EVENTS,
            "DEDUP_BUCKETS": self.bucket,
        }

    def event_queue_exists(self) -> bool:
        """Whether an ingest process has declared it."""
        with kombu.Connection(self.url) as connection:
            return _is_there(connection, EVENTS)


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
        taken = [queue for queue in (*TASK_QUEUES, DEAD_LETTERS, EVENTS) if _is_there(connection, queue)]
        if taken:
            pytest.fail(
                f"rabbitmqctl makes no virtual host here, and the default one has the queues {taken} already; "
                "delete them, or run the tests as a user who may run rabbitmqctl"
            )
        try:
            yield "/"
        finally:
            with connection.channel() as channel:
                for queue in (*TASK_QUEUES, DEAD_LETTERS, EVENTS):
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
