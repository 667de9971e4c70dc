"""What each process measures of itself, for Prometheus, at `/metrics` beside its health.

Every process is one process with threads, so one registry holds all of it. No label takes values without an end: no
photo, no property. What is true of the whole database or the broker comes from the sweep alone (`workers.collectors`).
docs/operations.md says what each of them means.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import prometheus_client
import structlog.contextvars

from core import observations

STAGES = ("fetch", "decode", "wait", "forward", "write", "match")
BULK = "bulk"
LIVE = "live"

_STAGE_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
)  # fmt: skip
_AGE_BUCKETS = (0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400)

BUILD = prometheus_client.Info("dedup_build", "What runs here: the version, and the kind of process.")

EVENTS = prometheus_client.Counter(
    "dedup_events",
    "Events of the store, by what they came to; one that is applied again counts again.",
    ["outcome"],
)
EVENTS_REJECTED = prometheus_client.Counter(
    "dedup_events_rejected", "Events that were not understood, by reason.", ["reason"]
)
EVENT_DELAY = prometheus_client.Histogram(
    "dedup_event_delay_seconds",
    "From what the store says happened to the event's being applied, by both clocks.",
    buckets=_AGE_BUCKETS,
)
STAGE = prometheus_client.Histogram(
    "dedup_stage_seconds",
    "What a stage of a photo's way takes; forward: of a whole batch.",
    ["stage"],
    buckets=_STAGE_BUCKETS,
)
BATCH_FILL = prometheus_client.Histogram(
    "dedup_batch_fill_ratio",
    "Photos of a forward pass, as a share of the most that it takes.",
    buckets=(0.05, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0),
)
QUEUE_WAIT = prometheus_client.Histogram(
    "dedup_queue_wait_seconds",
    "From a task's being published, or due again, to its start, by both clocks.",
    ["queue"],
    buckets=_AGE_BUCKETS,
)
EMBEDDED_AGE = prometheus_client.Histogram(
    "dedup_upload_to_embedded_seconds",
    "From a photo's upload to its embedding on record; bulk: what a backfill embeds, however old.",
    ["lane"],
    buckets=_AGE_BUCKETS,
)
FLAG_AGE = prometheus_client.Histogram(
    "dedup_upload_to_flag_seconds",
    "From a photo's upload to its flags being decided, whether it got one or not.",
    ["lane"],
    buckets=_AGE_BUCKETS,
)
PHOTOS_FAILED = prometheus_client.Counter(
    "dedup_photos_failed", "Photos parked as failed, by reason.", ["reason"]
)
PHOTOS_LOST = prometheus_client.Counter(
    "dedup_photos_lost_worker", "Photos met again after the process that had them in hand was lost."
)
FLAGS = prometheus_client.Counter(
    "dedup_flags", "Changes of flags: added, removed, changed (another canonical photo or score).", ["change"]
)
SCORES = prometheus_client.Histogram(
    "dedup_pair_score",
    "Probability of duplicate of a photo and each of its neighbours, by model.",
    ["model"],
    buckets=(0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0),
)
TASK_RETRIES = prometheus_client.Counter(
    "dedup_task_retries", "Tasks put off for what may work later.", ["task"]
)
TASK_FAILURES = prometheus_client.Counter(
    "dedup_task_failures", "Tasks that gave up after their last attempt.", ["task"]
)
TASKS_PARKED = prometheus_client.Counter(
    "dedup_tasks_parked", "Task messages that this process put into the dead-letter queue (pgmq only)."
)
PUBLISH_FAILURES = prometheus_client.Counter(
    "dedup_publish_failures", "Messages that the broker did not take.", ["queue"]
)
SWEPT = prometheus_client.Counter(
    "dedup_swept_photos", "Overdue photos that the sweep published again, by what they wait for.", ["step"]
)
SWEEPS = prometheus_client.Counter("dedup_sweeps", "Rounds of the sweep, by how they ended.", ["outcome"])
VERDICTS_APPLIED = prometheus_client.Counter(
    "dedup_verdict_properties_applied", "Properties whose flags followed a person's verdict."
)


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Measure a stage, whether it ends well or badly."""
    with STAGE.labels(name).time():
        yield


def waited(queue: str, published_at: float) -> None:
    """A task of a queue starts that was published, or is due, since a time of day in seconds."""
    QUEUE_WAIT.labels(queue).observe(max(0.0, time.time() - published_at))


def observe(observation: observations.Observation) -> None:
    """Count what core tells."""
    match observation:
        case observations.PhotoEmbedded(age_seconds):
            EMBEDDED_AGE.labels(_lane()).observe(age_seconds)
        case observations.PhotoMatched(age_seconds):
            FLAG_AGE.labels(_lane()).observe(age_seconds)
        case observations.PhotoFailed(reason):
            PHOTOS_FAILED.labels(reason).inc()
        case observations.FlagsChanged(added, removed, changed):
            for change, count in (("added", added), ("removed", removed), ("changed", changed)):
                FLAGS.labels(change).inc(count)
        case observations.PairsScored(model_id, scores):
            histogram = SCORES.labels(model_id)
            for score in scores.tolist():
                histogram.observe(score)


def _lane() -> str:
    queue = structlog.contextvars.get_contextvars().get("queue", "")
    return BULK if queue.endswith(f".{BULK}") else LIVE


# Twice as many series for what nobody asks.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

# What is only seen when it first happens is overlooked by rate() just then.
for _outcome in ("pending", "removed", "ignored", "rejected"):
    EVENTS.labels(_outcome)
for _change in ("added", "removed", "changed"):
    FLAGS.labels(_change)
for _step in ("embed", "match"):
    SWEPT.labels(_step)
for _outcome in ("done", "put_off"):
    SWEEPS.labels(_outcome)
for _task in ("dedup.embed", "dedup.embed_many", "dedup.match"):
    TASK_RETRIES.labels(_task)
    TASK_FAILURES.labels(_task)
