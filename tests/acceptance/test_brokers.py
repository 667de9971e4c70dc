"""The same path over the brokers of production: RabbitMQ with quorum queues, and SQS.

Database and store are the shared stack's; a bucket, a broker and processes of their own keep the two apart.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import http.client
import http.server
import os
import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator

import amqp
import kombu
import pytest

from workers import embedded_s3

from . import pictures
from . import system as acceptance

RABBITMQ = ("127.0.0.1", 5672)
EVENTS = "dedup-events-of-test"
TASK_QUEUES = ("embed", "embed.bulk", "match")
THROTTLED_READS = 4
"""Two attempts at a photo, of two requests each."""


@dataclasses.dataclass(frozen=True)
class Broker:
    """Where tasks and events go, and what takes a notification there that the store did not send itself."""

    url: str
    bucket: str
    send: Callable[[acceptance.Row], None] | None


@pytest.fixture
def rabbitmq(system: acceptance.System) -> Iterator[Broker]:
    """A virtual host of our own, or the default one where none can be made and its queues are not in use."""
    try:
        socket.create_connection(RABBITMQ, timeout=5).close()
    except OSError as error:
        reason = f"no RabbitMQ listens on {RABBITMQ[0]}:{RABBITMQ[1]} ({error})"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    with _virtual_host() as name:
        url = f"amqp://guest:guest@{RABBITMQ[0]}:{RABBITMQ[1]}/{name}"
        bucket = "photos-rabbitmq"
        system.s3.create_bucket(Bucket=bucket)

        def send(message: acceptance.Row) -> None:
            with kombu.Connection(url) as connection, connection.Producer(serializer="json") as producer:
                producer.publish(message, exchange=EVENTS, routing_key=EVENTS)

        yield Broker(url, bucket, send)


@pytest.fixture
def sqs(system: acceptance.System) -> Broker:
    """The embedded SQS, with a bucket that sends its own notifications to it."""
    bucket = "photos-sqs"
    system.s3.create_bucket(Bucket=bucket)
    queue_url = system.sqs.create_queue(QueueName=EVENTS)["QueueUrl"]
    found = system.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
    notification = {
        "QueueArn": found["Attributes"]["QueueArn"],
        "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"],
    }
    system.s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [notification]}
    )
    access = f"{embedded_s3.ACCESS_KEY_ID}:{embedded_s3.SECRET_ACCESS_KEY}"
    endpoint = system.stack.store.endpoint_url.removeprefix("http://")
    return Broker(f"sqs://{access}@{endpoint}//", bucket, None)


@dataclasses.dataclass(frozen=True)
class Store:
    """An S3 endpoint, and how often each path of it was read."""

    url: str
    reads: collections.Counter[str]


@pytest.fixture
def throttling_store(system: acceptance.System) -> Iterator[Store]:
    """Endpoint of the embedded store behind one that answers the first reads of each object with SlowDown."""
    real = system.stack.store.endpoint_url.removeprefix("http://")
    reads: collections.Counter[str] = collections.Counter()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reads[self.path] += 1
            if reads[self.path] <= THROTTLED_READS:
                self.answer(503, b"<Error><Code>SlowDown</Code><Message>Wait.</Message></Error>")
                return
            connection = http.client.HTTPConnection(real, timeout=60)
            connection.request("GET", self.path, headers=dict(self.headers))
            response = connection.getresponse()
            self.answer(response.status, response.read())
            connection.close()

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: pytest shows what matters."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Store(f"http://127.0.0.1:{server.server_port}", reads)
        server.shutdown()
        thread.join()


def test_rabbitmq(
    system: acceptance.System, rabbitmq: Broker, throttling_store: Store, property_id: str
) -> None:
    check(system, rabbitmq, throttling_store, property_id)
    # What waits for its next attempt waits in the broker, and takes no place in a worker.
    log = system.stack.log_file(f"{property_id}-embed").read_text(encoding="utf-8")
    assert "Direct exchanges are not supported" not in log
    with kombu.Connection(rabbitmq.url) as connection:
        for name in (*TASK_QUEUES, EVENTS):
            # Declared again as it is: RabbitMQ refuses another type than the queue has.
            with connection.channel() as channel:
                queue = kombu.Queue(name, queue_arguments={"x-queue-type": "quorum"})
                declared = queue(channel).queue_declare(passive=False)
                assert declared.message_count == 0
            with connection.channel() as channel, pytest.raises(amqp.PreconditionFailed):
                kombu.Queue(name, queue_arguments={"x-queue-type": "classic"})(channel).queue_declare()


def test_sqs(system: acceptance.System, sqs: Broker, throttling_store: Store, property_id: str) -> None:
    check(system, sqs, throttling_store, property_id)
    queues = {url.rpartition("/")[2] for url in system.sqs.list_queues()["QueueUrls"]}
    assert {"embed", "match", EVENTS} <= queues


def check(system: acceptance.System, broker: Broker, store: Store, property_id: str) -> None:
    """Start one process of each kind on `broker`: uploads, retries, a flag, a photo that fails, a removal."""
    settings = {
        "DEDUP_BROKER_URL": broker.url,
        "DEDUP_EVENT_BROKER_URL": broker.url,
        "DEDUP_EVENT_QUEUE": EVENTS,
        "DEDUP_BUCKETS": broker.bucket,
        "DEDUP_S3_ENDPOINT_URL": store.url,
        "DEDUP_TASK_RETRY_BACKOFF_SECONDS": "2",
    }
    with contextlib.ExitStack() as running:
        started = {
            name: running.enter_context(system.process(f"{property_id}-{name}", *arguments, **settings))
            for name, arguments in {
                "ingest": ("ingest",),
                "embed": ("worker", "embed"),
                "match": ("worker", "match"),
            }.items()
        }

        def lives() -> bool:
            dead = {name: process.poll() for name, process in started.items() if process.poll() is not None}
            assert not dead, f"ended: {dead}"
            return True

        def upload(name: str, data: bytes) -> None:
            etag = system.upload(property_id, name, data, broker.bucket)
            tell("ObjectCreated:Put", name, etag)

        def tell(event: str, name: str, etag: str = "") -> None:
            if broker.send:
                key = acceptance.key_of(property_id, name)
                broker.send({"Records": [acceptance.record(event, key, bucket=broker.bucket, etag=etag)]})

        acceptance.until(
            lambda: lives() and "ingest_ready" in _events(system, f"{property_id}-ingest"), "ingest runs"
        )
        acceptance.until(
            lambda: lives() and (not broker.send or _exists(broker.url)), "the event queue exists"
        )
        upload("a.jpg", pictures.jpeg("bedroom"))
        upload("b.jpg", pictures.jpeg("bathroom"))
        upload("text.jpg", b"no photo")
        upload("c.jpg", pictures.jpeg("bedroom", quality=60))
        done = {
            "a.jpg": "embedded",
            "b.jpg": "embedded",
            "c.jpg": "embedded",
            "text.jpg": "failed:unsupported",
        }
        acceptance.until(lambda: lives() and system.statuses(property_id) == done, "every photo is decided")
        either = ({"a.jpg": "c.jpg"}, {"c.jpg": "a.jpg"})
        acceptance.until(
            lambda: lives() and system.flags(property_id) in either, "the duplicates are flagged"
        )
        system.s3.delete_object(Bucket=broker.bucket, Key=acceptance.key_of(property_id, "a.jpg"))
        tell("ObjectRemoved:Delete", "a.jpg")
        acceptance.until(lambda: lives() and not system.flags(property_id), "the flag is taken back")
        assert system.statuses(property_id) == {**done, "a.jpg": "removed"}
        assert len(store.reads) == 4
        assert all(reads > THROTTLED_READS for reads in store.reads.values())
        for process in started.values():
            process.terminate()
        for process in started.values():
            process.wait(acceptance.DEADLINE_SECONDS)
    # A worker that is told to stop finishes what it has in hand and says that all is well.
    assert [started[name].returncode for name in ("embed", "match")] == [0, 0]


def _events(system: acceptance.System, worker: str) -> set[str]:
    return {line["event"] for line in system.log(worker)} if system.stack.log_file(worker).exists() else set()


def _exists(url: str) -> bool:
    with kombu.Connection(url) as connection, connection.channel() as channel:
        try:
            kombu.Queue(EVENTS)(channel).queue_declare(passive=True)
        except amqp.NotFound:
            return False
        return True


@contextlib.contextmanager
def _virtual_host() -> Iterator[str]:
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
        taken = [queue for queue in (*TASK_QUEUES, EVENTS) if _is_there(connection, queue)]
        if taken:
            pytest.fail(
                f"rabbitmqctl makes no virtual host here, and the default one has the queues {taken} already; "
                "delete them, or run the tests as a user who may run rabbitmqctl"
            )
        try:
            yield "/"
        finally:
            with connection.channel() as channel:
                for queue in (*TASK_QUEUES, EVENTS):
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
