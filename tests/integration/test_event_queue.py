"""On RabbitMQ no event vanishes: one that was given back too often lies among the dead letters of the events."""

from __future__ import annotations

from collections.abc import Iterator

import kombu
import pytest

from core import settings
from tests.acceptance import brokers, system
from workers import app, collectors, event_queue


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Iterator[settings.Settings]:
    monkeypatch.setattr(event_queue, "MOST_RETURNS", 2)
    with brokers.virtual_host() as name:
        host, port = brokers.RABBITMQ
        yield settings.Settings(
            event_broker_url=f"amqp://guest:guest@{host}:{port}/{name}", event_queue=brokers.EVENTS
        )


@pytest.fixture
def connection(config: settings.Settings) -> Iterator[kombu.Connection]:
    with app.connection(config.events_url, config) as connection:
        yield connection


def test_an_event_that_is_given_back_too_often_is_kept(
    config: settings.Settings, connection: kombu.Connection
) -> None:
    assert event_queue.count_dead_letters(config) is None, "there is no such queue yet"
    for _ in range(2):
        event_queue.declare(config, connection.default_channel)
    assert event_queue.count_dead_letters(config) == 0
    connection.Producer().publish("an event", exchange=brokers.EVENTS, routing_key=brokers.EVENTS)
    consumed: list[kombu.Message] = []
    queue, dead = event_queue.events(config), event_queue.dead_letters(config)
    with (
        connection.Consumer([queue], on_message=lambda message: message.requeue()),
        connection.channel() as channel,
        channel.connection.client.Consumer([dead], channel=channel, on_message=consumed.append),
    ):
        while not consumed:
            connection.drain_events(timeout=20)
        consumed[0].requeue()
    assert consumed[0].body == "an event"
    assert consumed[0].headers["x-death"][0]["reason"] == "delivery_limit"
    system.until(lambda: event_queue.count_dead_letters(config) == 1, "it is back among the dead letters")
    (told,) = collectors.of_queues(config.events_url, config, [dead.name])
    assert {sample.labels["queue"]: sample.value for sample in told.samples} == {dead.name: 1}


def test_a_queue_that_the_store_declared_its_own_way_is_taken_as_it_is(
    config: settings.Settings, connection: kombu.Connection
) -> None:
    with connection.channel() as channel:
        kombu.Queue(brokers.EVENTS, queue_arguments={"x-max-length": 7})(channel).queue_declare()
    event_queue.declare(config, connection.default_channel)
    connection.Producer().publish("an event", exchange="", routing_key=brokers.EVENTS)
    with connection.Consumer([event_queue.events(config)], on_message=lambda message: message.ack()):
        connection.drain_events(timeout=20)
    assert event_queue.count_dead_letters(config) == 0
