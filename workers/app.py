"""The Celery application: broker, queues, and the policy that every task declares."""

from __future__ import annotations

import dataclasses
import ssl
import time
import uuid
from collections.abc import Sequence
from typing import Any

import celery
import kombu
import kombu.transport

from core import errors, photos, settings
from workers import logs, metrics, traces

EMBED = "embed"
EMBED_BULK = "embed.bulk"
MATCH = "match"
MATCH_BULK = "match.bulk"
TASK_QUEUES = (EMBED, EMBED_BULK, MATCH, MATCH_BULK)
DEAD_LETTERS = "dedup.dead-letters"
EMBED_TASK = "dedup.embed"
EMBED_MANY_TASK = "dedup.embed_many"
PHOTOS_A_TASK = 16
"""Most photos of one task of a backfill."""
MATCH_TASK = "dedup.match"
MATCH_MANY_TASK = "dedup.match_many"
MATCHES_A_TASK = 16
"""Most photos of one match task: its last photo waits for the others, some milliseconds each."""

PUBLISHED_HEADER = "dedup-published-at"
"""Header of a task's message: since when, in seconds of the time of day, it could have been begun."""

EVENT_DEAD_LETTERS = "{queue}-dead-letters"
"""Where SQS and RabbitMQ put events of an event queue that were given out again and again without an end."""

kombu.transport.TRANSPORT_ALIASES.update(sqs="workers.transports:Sqs", pgmq="workers.transports:Pgmq")

_BROKER_SECONDS = 15.0
"""Longest wait for a broker to take a message, or to say that it has it."""

_LONGEST_RETRY_SECONDS = 600  # SQS delays a message by 15 minutes at most


def transport_options(url: str, config: settings.Settings) -> dict[str, Any]:
    """What kombu must know of a broker beside its URL."""
    scheme = url.partition("://")[0]
    if scheme == "pgmq":
        return {
            "visibility_timeout": config.visibility_timeout_seconds,
            # The embedded stack installs pgmq as plain SQL; there is no server extension to create.
            "init_extension": False,
            # A long poll on one queue would keep the process from looking at its other queues.
            "wait_time_seconds": 0,
            "polling_interval": 0.05,
        }
    if scheme == "sqs":
        return {
            "region": config.s3_region,
            "visibility_timeout": config.visibility_timeout_seconds,
            "wait_time_seconds": 1,
            "polling_interval": 0.1,
            # An endpoint in the broker URL is taken over plain HTTP only where the store's is, too.
            "is_secure": not (config.s3_endpoint_url or "").startswith("http://"),
        }
    return {
        "confirm_publish": True,
        # Answers that py-amqp waits for without an end otherwise, as that to the opening of a channel.
        "read_timeout": _BROKER_SECONDS,
        "write_timeout": _BROKER_SECONDS,
    }


def tls_options(url: str, config: settings.Settings) -> dict[str, Any] | None:
    """How the broker's certificate is checked, for kombu's `ssl` and Celery's `broker_use_ssl`; None without TLS.

    Given even where there is nothing to set: without ``server_hostname`` py-amqp takes any valid certificate,
    whatever name it is for. None stands for the URL's own host.
    """
    if not url.startswith("amqps://"):
        return None
    authority = str(config.broker_ca) if config.broker_ca else None
    return {"ca_certs": authority, "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None}


def connection(url: str, config: settings.Settings, connect_timeout_seconds: float = 5) -> kombu.Connection:
    """A connection to a broker, not opened yet."""
    return kombu.Connection(
        url,
        transport_options=transport_options(url, config),
        ssl=tls_options(url, config) or False,
        connect_timeout=connect_timeout_seconds,
    )


def _configuration() -> dict[str, Any]:
    config = settings.get()
    amqp = config.broker_url.startswith("amqp")
    arguments = {
        "x-queue-type": "quorum",
        "x-delivery-limit": config.task_delivery_limit,
        "x-dead-letter-exchange": DEAD_LETTERS,
    }
    # A quorum queue has no global prefetch, so a retry that waits in a worker would hold one of its few places.
    # Celery lets it wait in the broker instead, but not where the exchange is a direct one.
    exchange = "topic" if amqp else "direct"
    return {
        "broker_url": config.broker_url,
        "broker_transport_options": transport_options(config.broker_url, config),
        "broker_use_ssl": tls_options(config.broker_url, config),
        "broker_connection_retry_on_startup": True,
        # A broker that stands still behind an open connection is noticed within a minute.
        "broker_heartbeat": 30,
        "task_queues": [
            kombu.Queue(
                name,
                kombu.Exchange(name, exchange),
                routing_key=name,
                queue_arguments=arguments if amqp else None,
            )
            for name in TASK_QUEUES
        ],
        "task_default_queue": EMBED,
        "task_default_queue_type": "quorum" if amqp else "classic",
        "worker_detect_quorum_queues": amqp,
        "task_create_missing_queues": False,
        "task_routes": {
            EMBED_TASK: {"queue": EMBED},
            EMBED_MANY_TASK: {"queue": EMBED_BULK},
            MATCH_TASK: {"queue": MATCH},
            MATCH_MANY_TASK: {"queue": MATCH},
        },
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "worker_prefetch_multiplier": 1,
        "worker_enable_remote_control": False,
        "worker_hijack_root_logger": False,
        "task_publish_retry_policy": {"max_retries": 5, "interval_start": 0.1, "interval_step": 0.5},
    }


def policy() -> dict[str, Any]:
    """The policy of a photo's task, for its declaration.

    Acknowledged when done, given back when its process is lost, retried with growing waits and jitter for
    what may work later, a bounded number of times.
    """
    config = settings.get()
    return {
        "acks_late": True,
        "reject_on_worker_lost": True,
        "autoretry_for": (errors.TransientError,),
        "max_retries": config.task_max_retries,
        "retry_backoff": config.task_retry_backoff_seconds,
        "retry_backoff_max": _LONGEST_RETRY_SECONDS,
        "retry_jitter": True,
        "ignore_result": True,
        "serializer": "json",
    }


app = celery.Celery("listing-dedup")
app.add_defaults(_configuration)


def publish_embed(
    photo: photos.Revision, queue: str = EMBED, *, again: str | None = None, postponed: int = 0
) -> None:
    """Ask for a photo to be embedded. To be called after its transaction has committed.

    Args:
        photo: which.
        queue: of live uploads, or EMBED_BULK.
        again: a time in ISO 8601: embedded anew, unless it was since then.
        postponed: how often in a row tasks of the photo gave up.

    Raises:
        TransientError: the broker is away.
    """
    further = {name: value for name, value in (("again", again), ("postponed", postponed)) if value}
    _publish(EMBED_TASK, queue, traces.headers(), **dataclasses.asdict(photo), **further)


def publish_embed_many(
    revisions: Sequence[photos.Revision], *, model_id: str | None = None, again: str | None = None
) -> None:
    """Ask for many photos to be embedded, behind live uploads. `model_id`: by a worker that has this model.

    `again` is a time in ISO 8601: they are embedded anew, unless they were since then.

    Raises:
        TransientError: the broker is away.
    """
    each = [dataclasses.astuple(photo) for photo in revisions]
    _publish(EMBED_MANY_TASK, EMBED_BULK, traces.headers(), revisions=each, model_id=model_id, again=again)


@dataclasses.dataclass(frozen=True)
class Match:
    """A photo to be matched, with the correlation id and the trace (W3C `traceparent`) of what led to it."""

    property_id: str
    photo_id: int
    correlation_id: str | None
    traceparent: str | None = None

    def carrier(self) -> dict[str, str]:
        """What `traces.span` takes."""
        return {"traceparent": self.traceparent} if self.traceparent else {}


def publish_match(property_id: str, photo_id: int, queue: str = MATCH, *, postponed: int = 0) -> None:
    """Ask for a photo to be matched. To be called after its embedding has committed.

    Args:
        property_id: its property.
        photo_id: which.
        queue: of live uploads, or MATCH_BULK.
        postponed: how often in a row its match failed.

    Raises:
        TransientError: the broker is away.
    """
    further = {"postponed": postponed} if postponed else {}
    _publish(MATCH_TASK, queue, traces.headers(), property_id=property_id, photo_id=photo_id, **further)


def publish_matches(wanted: Sequence[Match], queue: str = MATCH) -> None:
    """Ask for photos to be matched, as many as are allowed by one message.

    Raises:
        TransientError: the broker is away; some of them may have been asked for.
    """
    for start in range(0, len(wanted), MATCHES_A_TASK):
        part = wanted[start : start + MATCHES_A_TASK]
        if len(part) == 1:
            (one,) = part
            with logs.bound(correlation_id=one.correlation_id):
                _publish(MATCH_TASK, queue, one.carrier(), property_id=one.property_id, photo_id=one.photo_id)
        else:
            _publish(MATCH_MANY_TASK, queue, {}, photos=[dataclasses.astuple(one) for one in part])


def _publish(task: str, queue: str, carrier: dict[str, str], /, **arguments: object) -> None:
    try:
        app.send_task(
            task,
            kwargs=arguments,
            queue=queue,
            root_id=logs.correlation_id() or str(uuid.uuid4()),
            headers={PUBLISHED_HEADER: time.time(), **carrier},
            timeout=_BROKER_SECONDS,
            confirm_timeout=_BROKER_SECONDS,
        )
    except Exception as error:
        metrics.PUBLISH_FAILURES.inc()
        # Each transport raises its own client's errors; whatever it was, the photo is not to blame.
        raise errors.TransientError(f"Broker: {type(error).__name__}: {error}") from error
