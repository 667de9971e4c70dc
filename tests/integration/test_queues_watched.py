"""A process that gets none of the messages that wait for it says so, and no other does: on each broker."""

from __future__ import annotations

import contextlib
import pathlib
import uuid
from collections.abc import Iterator

import celery
import kombu
import pgmq.install
import psycopg
import pytest
from celery.worker import state

from core import database, settings
from tests.acceptance import brokers
from tests.clock import Clock
from workers import app, collectors, embedded_s3, health, ingest, probes, tasks

from . import conftest

STUCK_SECONDS = 600.0
QUEUE = "embed.bulk"
"""With a dot, as some of ours have."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def monitor(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> health.Monitor:
    monitor = health.Monitor(clock)
    monitor.ready()
    monkeypatch.setattr(health, "process", monitor)
    return monitor


@contextlib.contextmanager
def _pgmq(server: conftest.Server, open_tmp: pathlib.Path) -> Iterator[settings.Settings]:
    del open_tmp
    with server.database(f"queues_{uuid.uuid4().hex[:8]}", migrate=False) as owner:
        with psycopg.connect(owner, autocommit=True) as connection:
            pgmq.install.install_pgmq_sql(pgmq.install.get_embedded_install_sql(), conn=connection)
        yield settings.Settings(broker_url="pgmq://" + owner.partition("://")[2])


@contextlib.contextmanager
def _rabbitmq(server: conftest.Server, open_tmp: pathlib.Path) -> Iterator[settings.Settings]:
    del server, open_tmp
    with brokers.virtual_host() as name:
        yield settings.Settings(
            broker_url=f"amqp://guest:guest@{brokers.RABBITMQ[0]}:{brokers.RABBITMQ[1]}/{name}"
        )


@contextlib.contextmanager
def _sqs(server: conftest.Server, open_tmp: pathlib.Path) -> Iterator[settings.Settings]:
    del server
    store = embedded_s3.EmbeddedS3(open_tmp)
    store.start()
    try:
        access = f"{embedded_s3.ACCESS_KEY_ID}:{embedded_s3.SECRET_ACCESS_KEY}"
        yield settings.Settings(
            broker_url=f"sqs://{access}@{store.endpoint_url.removeprefix('http://')}//",
            s3_endpoint_url=store.endpoint_url,
            s3_region=embedded_s3.REGION,
        )
    finally:
        store.stop()


@pytest.fixture(params=[_pgmq, _rabbitmq, _sqs], ids=["pgmq", "rabbitmq", "sqs"])
def config(
    request: pytest.FixtureRequest, server: conftest.Server, open_tmp: pathlib.Path
) -> Iterator[settings.Settings]:
    with request.param(server, open_tmp) as found:
        yield found


@pytest.fixture
def queue(config: settings.Settings) -> Iterator[kombu.simple.SimpleQueue]:
    """Its consumer has one place."""
    amqp = config.broker_url.startswith("amqp")
    declared = kombu.Queue(
        QUEUE,
        kombu.Exchange(QUEUE, "direct"),
        routing_key=QUEUE,
        queue_arguments={"x-queue-type": "quorum"} if amqp else None,
    )
    with app.connection(config.broker_url, config) as connection:
        found = connection.SimpleQueue(declared, serializer="json")
        yield found
        found.close()


def collected(config: settings.Settings) -> dict[str, float]:
    """What Prometheus is told of the queue, and of one that is not there."""
    (family,) = collectors.of_queues(config.broker_url, config, [QUEUE, "nobody.declared.it"])
    return {sample.labels["queue"]: sample.value for sample in family.samples}


def look(config: settings.Settings, clock: Clock, seconds: float) -> None:
    """As the thread does in so many seconds, only more seldom."""
    for _ in range(2):
        clock.now += seconds / 2
        probes.count(config.broker_url, config, [QUEUE])


def test_messages_that_wait_and_none_comes(
    config: settings.Settings, queue: kombu.simple.SimpleQueue, clock: Clock, monitor: health.Monitor
) -> None:
    look(config, clock, STUCK_SECONDS)
    assert monitor.unwell(STUCK_SECONDS) == [], "an empty queue"
    queue.put({"photo": 1})
    queue.put({"photo": 2})
    if not config.broker_url.startswith("amqp"):
        # A retry; in RabbitMQ it waits in another queue.
        queue.put({"photo": 3}, DelaySeconds=600)
    look(config, clock, STUCK_SECONDS)
    assert monitor.unwell(STUCK_SECONDS) == [], "not yet"
    look(config, clock, STUCK_SECONDS)
    assert monitor.unwell(STUCK_SECONDS) == [f"2 messages wait in {QUEUE}, and none came for 900 s"]
    assert monitor.stuck(STUCK_SECONDS) == [], "whether a new start helps is for people to see"
    clock.now += 1e6
    assert "900 s" in monitor.unwell(STUCK_SECONDS)[0], "nobody looks any more"
    # One in hand waits no longer.
    queue.consumer.qos(prefetch_count=1)
    message = queue.get(timeout=10)
    told = collected(config)
    assert told[QUEUE] == 1, "the one in hand and the retry are not told"
    # kombu makes what is not there on SQS.
    assert (set(told) == {QUEUE}) or config.broker_url.startswith("sqs")
    monitor.took()
    assert monitor.unwell(STUCK_SECONDS) == []
    look(config, clock, 2 * STUCK_SECONDS)
    assert monitor.unwell(STUCK_SECONDS) == [f"1 messages wait in {QUEUE}, and none came for 1200 s"]
    message.ack()
    queue.get(timeout=10).ack()
    look(config, clock, STUCK_SECONDS)
    assert monitor.unwell(STUCK_SECONDS) == []


@pytest.fixture
def waiting(server: conftest.Server, open_tmp: pathlib.Path) -> Iterator[settings.Settings]:
    """A broker with a message that nobody takes."""
    with _pgmq(server, open_tmp) as config, app.connection(config.broker_url, config) as connection:
        with contextlib.closing(connection.SimpleQueue(QUEUE, serializer="json")) as queue:
            queue.put({"photo": 1})
        yield config


def test_a_process_with_its_hands_full_lets_messages_wait(
    waiting: settings.Settings, clock: Clock, monitor: health.Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monitor.working():
        look(waiting, clock, 2 * STUCK_SECONDS)
    assert monitor.unwell(STUCK_SECONDS) == []
    # As a rate limit does: received, and not begun.
    monkeypatch.setattr(state, "reserved_requests", {object()})
    look(waiting, clock, 3 * STUCK_SECONDS)
    assert monitor.unwell(STUCK_SECONDS) == []
    monkeypatch.undo()


def test_a_process_that_starts_or_whose_broker_was_away_is_not_to_blame(
    waiting: settings.Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = health.Monitor(clock)
    monkeypatch.setattr(health, "process", monitor)
    look(waiting, clock, 3 * STUCK_SECONDS)
    monitor.ready()
    assert monitor.unwell(STUCK_SECONDS) == []
    look(waiting, clock, STUCK_SECONDS)
    away = settings.Settings(broker_url="amqp://nobody@127.0.0.1:1//")
    look(away, clock, STUCK_SECONDS)
    look(waiting, clock, STUCK_SECONDS)
    assert monitor.unwell(STUCK_SECONDS) == [], "what was during the outage is not known"
    look(waiting, clock, STUCK_SECONDS)
    assert monitor.unwell(STUCK_SECONDS)


def test_a_process_that_takes_now_and_then_is_well(
    waiting: settings.Settings, clock: Clock, monitor: health.Monitor
) -> None:
    celery_app = celery.Celery("test", broker="memory://", set_as_current=False)

    @celery_app.task(base=tasks.PhotoTask, name="dedup.embed")
    def task() -> None:
        pass

    for _ in range(4):
        look(waiting, clock, STUCK_SECONDS)
        assert monitor.unwell(STUCK_SECONDS) == []
        with celery_app.connection() as connection:
            task.apply_async(connection=connection, routing_key="celery")
            with contextlib.closing(connection.SimpleQueue("celery")) as queue:
                message = queue.get(timeout=10)
                tasks.Request(message, app=celery_app, task=task)
                message.ack()


def test_ingest_takes_events(
    server: conftest.Server, waiting: settings.Settings, clock: Clock, monitor: health.Monitor
) -> None:
    with (
        server.database("ingest_takes") as url,
        contextlib.closing(database.Database(url)) as base,
        app.connection("memory://", waiting) as connection,
        contextlib.closing(connection.SimpleQueue("events")) as queue,
    ):
        consumer = ingest.Ingest(waiting, base)
        for _ in range(4):
            look(waiting, clock, STUCK_SECONDS)
            assert monitor.unwell(STUCK_SECONDS) == []
            queue.put("not an event")
            consumer.on_message(queue.get(timeout=10))


def test_how_often_the_queues_are_looked_at(
    waiting: settings.Settings, clock: Clock, monitor: health.Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[tuple[str, health.Probe, float]] = []
    monkeypatch.setattr(health, "watch", lambda *arguments: watched.append(arguments))
    probes.watch_queues(waiting.broker_url, waiting, [QUEUE])
    assert watched == [], "nobody would be told"
    told = waiting.model_copy(update={"health_port": 8080})
    probes.watch_queues(told.broker_url, told, [QUEUE])
    ((_, probe, every_seconds),) = watched
    assert probes.LOOKS * every_seconds == told.health_stuck_seconds
    for _ in range(2):
        probe()
        clock.now += STUCK_SECONDS + 1
    probe()
    assert monitor.unwell(STUCK_SECONDS)
