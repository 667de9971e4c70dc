"""The same path over the brokers of production: RabbitMQ with quorum queues, and SQS.

Database and store are the shared stack's; a bucket, a broker and processes of their own keep the two apart.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import http.client
import http.server
import json
import threading
import uuid
from collections.abc import Iterator

import amqp
import kombu
import pytest

from . import brokers, pictures
from . import system as acceptance

THROTTLED_READS = 4
"""Two attempts at a photo, of two requests each."""


@pytest.fixture
def sqs(system: acceptance.System) -> brokers.Broker:
    """The embedded SQS, with a bucket that sends its own notifications to it."""
    bucket = "photos-sqs"
    _, url = brokers.sqs_events(system, bucket, brokers.EVENTS)
    return brokers.Broker(url, bucket, None)


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
    system: acceptance.System, rabbitmq: brokers.Broker, throttling_store: Store, property_id: str
) -> None:
    check(system, rabbitmq, throttling_store, property_id)
    # What waits for its next attempt waits in the broker, and takes no place in a worker.
    log = system.stack.log_file(f"{property_id}-embed").read_text(encoding="utf-8")
    assert "Direct exchanges are not supported" not in log
    with kombu.Connection(rabbitmq.url) as connection:
        for name in (*brokers.TASK_QUEUES, brokers.EVENTS):
            # Declared again as it is: RabbitMQ refuses another type than the queue has.
            with connection.channel() as channel:
                arguments = brokers.EVENT_ARGUMENTS if name == brokers.EVENTS else brokers.TASK_ARGUMENTS
                queue = kombu.Queue(name, queue_arguments={**arguments})
                declared = queue(channel).queue_declare(passive=False)
                assert declared.message_count == 0
            with connection.channel() as channel, pytest.raises(amqp.PreconditionFailed):
                kombu.Queue(name, queue_arguments={"x-queue-type": "classic"})(channel).queue_declare()


@pytest.mark.slow
def test_sqs(
    system: acceptance.System, sqs: brokers.Broker, throttling_store: Store, property_id: str
) -> None:
    check(system, sqs, throttling_store, property_id)
    queues = {url.rpartition("/")[2] for url in system.sqs.list_queues()["QueueUrls"]}
    assert {"embed", "match", brokers.EVENTS} <= queues


def check(system: acceptance.System, broker: brokers.Broker, store: Store, property_id: str) -> None:
    """Start one process of each kind on `broker`: uploads, retries, a flag, a photo that fails, a removal."""
    settings = {
        **broker.settings(),
        "DEDUP_TASK_DELIVERY_LIMIT": str(brokers.DELIVERY_LIMIT),
        "DEDUP_S3_ENDPOINT_URL": store.url,
        "DEDUP_TASK_RETRY_BACKOFF_SECONDS": "2",
        # Nothing is killed here. On a busy machine the few seconds of the stack give a task out twice, and the retry of
        # the copy would still be waiting when the workers are stopped.
        "DEDUP_VISIBILITY_TIMEOUT_SECONDS": "300",
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
            lambda: lives() and (not broker.send or broker.event_queue_exists()), "the event queue exists"
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
    check_dead_letters(system, broker, settings, property_id)


def check_dead_letters(
    system: acceptance.System, broker: brokers.Broker, settings: dict[str, str], property_id: str
) -> None:
    """A task that was given out too often is parked by the broker, and shown and put back by us."""
    photo = system.photo(property_id, "b.jpg")
    arguments = {name: photo[name] for name in ("property_id", "revision")} | {"photo_id": photo["id"]}
    with kombu.Connection(broker.url) as connection, connection.Producer(serializer="json") as producer:
        headers = {"lang": "py", "task": "dedup.embed", "id": str(uuid.uuid4())}

        def waits() -> bool:
            producer.publish([[], arguments, {}], routing_key="embed", headers=headers)
            if broker.send:
                return True
            # The last poll of a worker that has ended may take it, and hide it for as long as the worker might have.
            url = system.sqs.get_queue_url(QueueName="embed")["QueueUrl"]
            name = "ApproximateNumberOfMessages"
            found = system.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"][name]
            if found != "1":
                system.sqs.purge_queue(QueueUrl=url)
            return bool(found == "1")

        acceptance.until(waits, "the task waits")
    assert system.dedup("replay", "--tasks", **settings).returncode == 1, "there is none yet"

    def parked() -> list[acceptance.Row]:
        if _lose(system, broker):
            return []
        shown = system.dedup("dead-letters", "--limit", "10", "--json", **settings)
        assert shown.returncode == 0, shown.stderr
        found = [json.loads(line) for line in shown.stdout.splitlines()]
        return [letter for letter in found if letter["kind"] == "task"]

    expected = [{"kind": "task", "task": "dedup.embed", "arguments": arguments, "queue": "embed"}]
    assert acceptance.until(parked, "the broker parks the task") == expected
    assert acceptance.until(parked, "looking at it left it where it is") == expected
    put_back = system.dedup("replay", "--tasks", **settings)
    assert "1 tasks" in put_back.stdout, put_back.stderr
    with kombu.Connection(broker.url) as connection:
        message = kombu.Queue("embed")(connection.default_channel).get(no_ack=True, accept=["json"])
        assert message.payload[1] == arguments
    assert system.dedup("replay", "--tasks", **settings).returncode == 1, "none is left"


def _lose(system: acceptance.System, broker: brokers.Broker) -> bool:
    """Take a task as a worker does that dies of it; False when there is none."""
    if broker.send:
        with kombu.Connection(broker.url) as connection:
            message = kombu.Queue("embed")(connection.default_channel).get(no_ack=False, accept=["json"])
            if message:
                message.requeue()
            return message is not None
    url = system.sqs.get_queue_url(QueueName="embed")["QueueUrl"]
    taken = system.sqs.receive_message(QueueUrl=url).get("Messages", [])
    for item in taken:
        system.sqs.change_message_visibility(
            QueueUrl=url, ReceiptHandle=item["ReceiptHandle"], VisibilityTimeout=0
        )
    return bool(taken)


def _events(system: acceptance.System, worker: str) -> set[str]:
    return {line["event"] for line in system.log(worker)} if system.stack.log_file(worker).exists() else set()
