"""A message whose acknowledgement is lost with the connection, on a real pgmq."""

from __future__ import annotations

import contextlib
import logging
import pathlib

import psycopg

from core import settings
from workers import app, embedded_postgres, tasks


def test_a_lost_acknowledgement_keeps_no_place(open_tmp: pathlib.Path) -> None:
    postgres = embedded_postgres.EmbeddedPostgres(open_tmp)
    postgres.start()
    with contextlib.ExitStack() as last:
        last.callback(postgres.stop)
        postgres.install_extensions()
        config = settings.Settings(broker_url="pgmq://" + postgres.url().partition("://")[2])
        connection = last.enter_context(app.connection(config.broker_url, config))
        queue = connection.SimpleQueue("photos", serializer="json")
        last.callback(queue.close)
        queue.consumer.qos(prefetch_count=1)
        queue.put({"photo": 7})
        message = queue.get(timeout=10)
        with psycopg.connect(postgres.url(), autocommit=True) as owner:
            owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        message.ack_log_error(logging.getLogger("tests"), connection.connection_errors)
        places = message.channel.qos
        assert not places.can_consume(), "it is still thought to be in hand"
        tasks.let_go(message)
        assert places.can_consume()
        tasks.let_go(message)
        assert places.can_consume()
        assert places.can_consume_max_estimate() == 1, "and is not freed twice"
