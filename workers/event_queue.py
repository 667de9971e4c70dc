"""The queue of the store's events on AMQP, and that of events which were given back too often.

On SQS `dedup setup s3` makes both. An event that is lost leaves no row that the sweep could find, so none may vanish.
"""

from __future__ import annotations

from typing import Any

import amqp
import kombu
import structlog

from core import errors, settings
from workers.app import EVENT_DEAD_LETTERS
from workers.app import connection as connect

log = structlog.get_logger()

MOST_RETURNS = 1000
"""An event is given back only when its process is lost; so often, and it goes to the dead letters."""


def events(config: settings.Settings) -> kombu.Queue:
    """The queue of the events; of another broker than AMQP, only its name counts."""
    arguments = {
        "x-queue-type": "quorum",
        "x-delivery-limit": MOST_RETURNS,
        "x-dead-letter-exchange": dead_letters(config).name,
    }
    return kombu.Queue(
        config.event_queue,
        kombu.Exchange(config.event_queue, "direct"),
        routing_key=config.event_queue,
        queue_arguments=arguments if _on_amqp(config) else None,
        no_declare=True,
    )


def dead_letters(config: settings.Settings) -> kombu.Queue:
    """Where events end that were given back too often; named as that of SQS, apart from the tasks' dead letters."""
    name = EVENT_DEAD_LETTERS.format(queue=config.event_queue)
    return kombu.Queue(name, kombu.Exchange(name, "fanout"), routing_key=name)


def declare(config: settings.Settings, channel: Any) -> None:
    """See that the queue is there. One that was declared in another way, perhaps by the store, is taken as it is."""
    if _on_amqp(config):
        _declare_dead_letters(config, channel)
    queue = events(config)
    with channel.connection.client.channel() as probe:
        try:
            queue(probe).queue_declare(passive=True)
        except amqp.exceptions.NotFound:
            # The queue's own `no_declare`, by which the consumer takes it as it is, holds for `declare` too.
            bound = queue(channel)
            bound.exchange.declare()
            bound.queue_declare()
            bound.queue_bind()


def _declare_dead_letters(config: settings.Settings, channel: Any) -> None:
    queue = dead_letters(config)
    with channel.connection.client.channel() as probe:
        try:
            queue(probe).declare()
        except (amqp.exceptions.AccessRefused, amqp.exceptions.PreconditionFailed) as error:
            # No reason not to take events.
            log.warning(
                "no_dead_letter_queue",
                queue=queue.name,
                error=str(error),
                remedy="let the login declare queues, or declare it by hand",
            )


def count_dead_letters(config: settings.Settings) -> int | None:
    """How many events lie among the dead letters; None where that is not to be seen here (SQS has its own metrics).

    Raises:
        TransientError: the broker is away.
    """
    if not _on_amqp(config):
        return None
    try:
        with connect(config.events_url, config) as connection:
            connection.ensure_connection(max_retries=1, timeout=5)
            found = dead_letters(config)(connection.default_channel).queue_declare(passive=True)
            return int(found.message_count)
    except (amqp.exceptions.NotFound, amqp.exceptions.AccessRefused):
        return None
    except Exception as error:
        # Each transport raises its own client's errors.
        raise errors.TransientError(
            f"The broker of the events does not answer ({type(error).__name__}: {error}); see DEDUP_EVENT_BROKER_URL."
        ) from error


def _on_amqp(config: settings.Settings) -> bool:
    return config.events_url.startswith("amqp")
