"""Does what a process stands on answer? Each probe is quick, and on a connection of its own."""

from __future__ import annotations

import botocore.exceptions

from core import database, errors, objects, settings
from workers import health
from workers.app import connection

_SECONDS = 5.0


def of_database(config: settings.Settings) -> health.Probe:
    """Asks the database anything."""
    return lambda: _ask(config.database_url)


def of_store(config: settings.Settings) -> health.Probe:
    """Asks the store for each bucket. Whether we may see it is not the question here (`dedup doctor`)."""
    s3 = objects.client(config.model_copy(update={"s3_timeout_seconds": _SECONDS}))

    def probe() -> None:
        for name in config.buckets:
            try:
                s3.head_bucket(Bucket=name)
            except botocore.exceptions.ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status >= 500 or status == 404:
                    raise errors.TransientError(f"bucket {name}: {error}") from error
            except botocore.exceptions.BotoCoreError as error:
                raise errors.TransientError(f"bucket {name}: {error}") from error

    return probe


def of_broker(config: settings.Settings) -> health.Probe:
    """Logs in to RabbitMQ. pgmq is the database; SQS has no connection that could be lost."""
    url = config.broker_url

    def probe() -> None:
        if not url.startswith("amqp"):
            return
        with connection(url, config, _SECONDS) as opened:
            opened.connect()

    return probe


def _ask(url: str) -> None:
    database.ask(url, b"SELECT 1")
