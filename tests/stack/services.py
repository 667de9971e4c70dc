"""What of docker-compose.yml runs here as it stands there, and what stands in for the rest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tests import deployment
from workers import embedded_s3

IMAGE = "listing-dedup:"
"""What our own images begin with."""

INSTEAD = {
    "postgres": "the embedded Postgres",
    "rabbitmq": "this machine's RabbitMQ, in a virtual host of the stack's own; where none can be made, pgmq",
    "store": "the embedded store, which sends its events by SQS",
    "prometheus": "this machine's prometheus, where one is on the PATH",
    "grafana": "nothing: Prometheus' own pages show the same figures",
}
"""What stands in for the services that we did not write."""

PLACES = (
    "DEDUP_DATABASE_URL",
    "DEDUP_MIGRATION_DATABASE_URL",
    "DEDUP_BROKER_URL",
    "DEDUP_EVENT_QUEUE",
    "DEDUP_S3_ENDPOINT_URL",
    "DEDUP_S3_REGION",
    "DEDUP_BUCKETS",
    "DEDUP_HEALTH_PORT",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
)
"""Settings that say where a part is and how to log in there: those of the parts here are taken."""

_NO_SECRETS = dict.fromkeys(
    (name for name, value in deployment.dotenv_example().items() if value == ""), "none-is-used-here"
)


def compose(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """docker-compose.yml with the variables of .env.example, or those given."""
    return deployment.compose({**deployment.dotenv_example(), **_NO_SECRETS, **(variables or {})})


def ours(file: Mapping[str, Any], profiles: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The services of our own images that run under these profiles, in the order of the file."""
    return {
        name: service
        for name, service in file["services"].items()
        if service["image"].startswith(IMAGE) and set(service.get("profiles", profiles)) & set(profiles)
    }


def lasting(services: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Commands of the services that run until they are told to stop."""
    return {
        name: service["command"]
        for name, service in services.items()
        if not service["restart"].startswith("on-failure")
    }


def ending(services: Mapping[str, Mapping[str, Any]], store: embedded_s3.EmbeddedS3) -> dict[str, list[str]]:
    """Commands of those that come to an end by themselves, before the others.

    The embedded store takes no other store's targets for its events, and sends them to its own queue.
    """
    queue = f"--target-arn=arn:aws:sqs:{embedded_s3.REGION}:123456789012:{store.queue}"
    return {
        name: [queue if argument.startswith("--target-arn=") else argument for argument in service["command"]]
        for name, service in services.items()
        if service["restart"].startswith("on-failure")
    }


def settings(services: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What the file sets beside places; a variable of the environment goes before it, as one of .env would."""
    given = {
        name: str(value) for service in services.values() for name, value in service["environment"].items()
    }
    return {name: os.environ.get(name, value) for name, value in given.items() if name not in PLACES}
