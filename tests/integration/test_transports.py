"""Messages that are given back, on a real pgmq and on the embedded SQS."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import kombu
import pytest

from core import settings
from workers import app, embedded_postgres, embedded_s3, stopping

QUEUE = kombu.Queue("embed", kombu.Exchange("embed", "direct"), routing_key="embed")


@pytest.fixture(params=["pgmq", "sqs"])
def connection(request: pytest.FixtureRequest, open_tmp: pathlib.Path) -> Iterator[kombu.Connection]:
    """A queue with one message, whose visibility timeout nobody here waits for."""
    with contextlib.ExitStack() as last:
        if request.param == "pgmq":
            postgres = embedded_postgres.EmbeddedPostgres(open_tmp)
            postgres.start()
            last.callback(postgres.stop)
            postgres.install_extensions()
            config = settings.Settings(broker_url="pgmq://" + postgres.url().partition("://")[2])
        else:
            store = embedded_s3.EmbeddedS3(open_tmp)
            store.start()
            last.callback(store.stop)
            access = f"{embedded_s3.ACCESS_KEY_ID}:{embedded_s3.SECRET_ACCESS_KEY}"
            place = store.endpoint_url.removeprefix("http://")
            config = settings.Settings(
                broker_url=f"sqs://{access}@{place}//", s3_endpoint_url=store.endpoint_url
            )
        opened = last.enter_context(app.connection(config.broker_url, config))
        with opened.channel() as channel:
            QUEUE(channel).declare()
            kombu.Producer(channel, serializer="json").publish(
                {"photo": 7}, exchange="embed", routing_key="embed"
            )
        yield opened


@pytest.fixture(autouse=True)
def stop(monkeypatch: pytest.MonkeyPatch) -> stopping.Stop:
    own = stopping.Stop()
    monkeypatch.setattr(stopping, "process", own)
    return own


def _get(channel: kombu.transport.virtual.Channel) -> kombu.Message | None:
    return QUEUE(channel).get(accept=["json"])


def _received(message: kombu.Message) -> int:
    """How often it was given out, by the broker's own count."""
    info = message.delivery_info
    if "pgmq_message" in info:
        return int(info["pgmq_message"]["read_ct"])
    return int(info["sqs_message"]["Attributes"]["ApproximateReceiveCount"])


def test_what_is_given_back_comes_again_at_once_and_once(connection: kombu.Connection) -> None:
    with connection.channel() as channel:
        message = _get(channel)
        assert message
        message.requeue()
        again = _get(channel)
        assert again
        assert again.payload == {"photo": 7}
        assert _received(again) == 2, "a copy would have a count of its own, and never be parked"
        assert _get(channel) is None
        again.ack()
        assert _get(channel) is None


def test_a_process_that_ends_gives_back_what_it_has_in_hand(
    connection: kombu.Connection, stop: stopping.Stop
) -> None:
    with connection.channel() as channel:
        assert _get(channel)
        stop.told = True
    with connection.channel() as channel:
        again = _get(channel)
        assert again
        assert _received(again) == 2
        again.ack()


def test_a_lost_connection_gives_nothing_back_as_its_tasks_go_on(connection: kombu.Connection) -> None:
    with connection.channel() as channel:
        assert _get(channel)
    with connection.channel() as channel:
        assert _get(channel) is None
