"""Measures that are taken when Prometheus asks: how this process is, and what only one kind of process is to ask.

Database and broker are asked by the sweep alone, of which one runs; the GPU by the process that uses it. A part that
does not answer leaves out its measures from there on and says so in `dedup_scrape_ok`; the others are told all the
same.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import threading
import wsgiref.types
from collections.abc import Callable, Iterable, Iterator

import prometheus_client
import structlog
from prometheus_client import core as prometheus
from prometheus_client import registry

from core import database, models, monitoring, observations, settings
from workers import health, metrics, probes
from workers.app import DEAD_LETTERS, EVENT_DEAD_LETTERS, TASK_QUEUES, connection

log = structlog.get_logger()

GPU = {
    "dedup_gpu_memory_used_bytes": "Memory of the GPU in use, by whomever.",
    "dedup_gpu_memory_total_bytes": "Memory of the GPU.",
    "dedup_gpu_memory_reserved_bytes": "Memory of the GPU that this process holds.",
    "dedup_gpu_utilisation_ratio": "Share of the last moments in which the GPU computed.",
}
"""What an embed worker on a GPU tells beside the others."""

_SECONDS = 3.0
"""For each statement, and for each broker; Prometheus itself gives up after ten."""


Ask = Callable[[], Iterable[prometheus.Metric]]
"""Tells the measures of a part one by one; raises whatever it does where the part does not answer any further."""


class Asked(registry.Collector):
    """Metrics of parts that are asked at each scrape, each part by one scrape at a time.

    One collector of all parts: a metric of several of them must come as one family, or a scrape cannot be read.
    """

    def __init__(self) -> None:
        self._parts: dict[str, tuple[Ask, threading.Lock]] = {}

    def add(self, part: str, ask: Ask) -> None:
        """Ask a part from now on; another `ask` of a part that is known replaces the first."""
        self._parts[part] = ask, threading.Lock()

    def describe(self) -> list[prometheus.Metric]:
        """Nothing: asked at registration, a part that is away would keep the process from starting."""
        return []

    def collect(self) -> Iterator[prometheus.Metric]:
        """Called by the registry. What the parts tell, and whether they did."""
        asked = dict(self._parts)
        if not asked:
            return
        answered = prometheus.GaugeMetricFamily(
            "dedup_scrape_ok",
            "Whether a part that is asked at each scrape answered (1) or not (0).",
            labels=["part"],
        )
        families: dict[str, prometheus.Metric] = {}
        for part, (ask, lock) in asked.items():
            told: list[prometheus.Metric] = []
            answered.add_metric([part], float(self._ask(part, ask, lock, told)))
            for metric in told:
                families.setdefault(metric.name, metric)
                if families[metric.name] is not metric:
                    families[metric.name].samples.extend(metric.samples)
        yield answered
        yield from families.values()

    def _ask(self, part: str, ask: Ask, lock: threading.Lock, told: list[prometheus.Metric]) -> bool:
        # One that is known to be away would use up all the time that the scrape of the others has.
        if part in health.process.parts_away():
            return False
        try:
            with lock:
                # One by one: what was measured before something failed is kept.
                for metric in ask():
                    told.append(metric)  # noqa: PERF402
        except Exception as error:  # noqa: BLE001 - whatever it raises, the other measures are to be told
            log.warning("scrape_incomplete", part=part, error=f"{type(error).__name__}: {error}")
            return False
        return True


parts = Asked()
"""What this process asks."""

prometheus_client.REGISTRY.register(parts)


class Health(registry.Collector):
    """What `/healthz` and `/livez` tell, as numbers."""

    def __init__(self, monitor: health.Monitor, stuck_seconds: float) -> None:
        self._monitor = monitor
        self._stuck_seconds = stuck_seconds

    def collect(self) -> Iterator[prometheus.Metric]:
        """Called by the registry."""
        yield prometheus.GaugeMetricFamily(
            "dedup_process_well",
            "Whether /healthz says that all is well.",
            value=float(not self._monitor.unwell(self._stuck_seconds)),
        )
        yield prometheus.GaugeMetricFamily(
            "dedup_process_stuck",
            "Whether /livez says that the process ought to be started anew.",
            value=float(bool(self._monitor.stuck(self._stuck_seconds))),
        )
        away = prometheus.GaugeMetricFamily(
            "dedup_part_away_seconds",
            "For how long a part has not answered; absent while it does.",
            labels=["part"],
        )
        for part, seconds in self._monitor.parts_away().items():
            away.add_metric([part], seconds)
        yield away


def endpoints(
    config: settings.Settings, process: str, *, shared: bool = False
) -> dict[str, wsgiref.types.WSGIApplication]:
    """`/metrics`, for `health.serve`; from here on core is listened to. To be called once a process.

    Args:
        config: where database and broker are.
        process: what kind of process this is.
        shared: tell how database and broker stand, too. For one kind of process: many would all ask the same.
    """
    metrics.BUILD.info({"version": importlib.metadata.version("listing-dedup"), "process": process})
    observations.listen(metrics.observe)
    prometheus_client.REGISTRY.register(Health(health.process, config.health_stuck_seconds))
    if shared:
        _register_shared(config)
    return {"/metrics": prometheus_client.make_wsgi_app()}


def _register_shared(config: settings.Settings) -> None:
    base = database.Database(config.database_url, 1, wait_seconds=_SECONDS, statement_seconds=_SECONDS)
    parts.add("database", lambda: of_database(base))
    tasks, events = (*TASK_QUEUES, DEAD_LETTERS), [config.event_queue]
    if config.events_url.startswith(("sqs", "amqp")):
        events.append(EVENT_DEAD_LETTERS.format(queue=config.event_queue))
    parts.add("broker", lambda: of_queues(config.broker_url, config, tasks))
    parts.add("events", lambda: of_queues(config.events_url, config, events))


def register_device(device: str) -> None:
    """Tell how a GPU is used; nothing on a CPU."""
    if device.startswith("cuda"):
        parts.add("device", lambda: _of_device(device))


def _gauge(
    name: str, text: str, label: str, values: dict[str, float] | dict[str, int]
) -> prometheus.GaugeMetricFamily:
    family = prometheus.GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def of_database(base: database.Database) -> Iterator[prometheus.Metric]:
    """How the database stands. Raises TransientError: it is away or takes too long; what came before is right."""
    # What an alert wakes somebody for comes first, what may take longest last.
    with base.transaction() as connection:
        yield _of_models(models.every(connection))
        waiting = monitoring.unfinished(connection)
        yield from _of_waiting({"embed": waiting.to_embed, "match": waiting.to_match})
        failures = monitoring.failed(connection)
        yield _gauge(
            "dedup_dead_photos",
            f"Photos that are parked as failed, by reason; no more than {monitoring.COUNTED} are counted.",
            "reason",
            failures,
        )
        yield prometheus.GaugeMetricFamily(
            "dedup_rejected_events",
            f"Events on record that were not understood; no more than {monitoring.COUNTED} are counted.",
            value=monitoring.rejected(connection),
        )
        total = monitoring.total(connection, waiting, failures)
        yield _gauge("dedup_photos", "Photos on record, by status.", "status", total.photos)
        yield prometheus.GaugeMetricFamily(
            "dedup_photos_exact",
            "Whether dedup_photos is counted (1) or estimated (0).",
            value=float(total.exact),
        )


def _of_models(found: Iterable[models.Model]) -> prometheus.Metric:
    family = prometheus.InfoMetricFamily("dedup_model", "The live models.")
    for model in found:
        if model.status != "retired":
            family.add_metric([], {"model": model.id, "name": model.name, "status": model.status})
    return family


def _of_waiting(steps: dict[str, monitoring.Waiting]) -> Iterator[prometheus.Metric]:
    yield _gauge(
        "dedup_photos_waiting",
        f"Photos that wait for a step; together no more than {monitoring.COUNTED} are counted.",
        "step",
        {step: found.photos for step, found in steps.items()},
    )
    yield _gauge(
        "dedup_photos_waiting_long",
        f"Those of them to which nothing has happened for {monitoring.LONG_SECONDS:.0f} s.",
        "step",
        {step: found.long for step, found in steps.items()},
    )
    yield _gauge(
        "dedup_photos_waiting_oldest_seconds",
        "Since anything last happened to the one that waits longest: its event, or the sweep.",
        "step",
        {step: found.oldest_seconds for step, found in steps.items()},
    )
    yield prometheus.GaugeMetricFamily(
        "dedup_photos_postponed",
        "Photos that wait whose tasks have given up at least once.",
        value=steps["embed"].postponed,
    )


def of_queues(url: str, config: settings.Settings, queues: Iterable[str]) -> Iterator[prometheus.Metric]:
    """How long queues are; nothing of those that are not there. Raises what the transport does: the broker is away."""
    lengths: dict[str, int] = {}
    with connection(url, config, _SECONDS) as opened:
        opened.ensure_connection(max_retries=1, timeout=_SECONDS)
        for name in queues:
            # A channel each: RabbitMQ closes the one on which a queue was asked for that is not there.
            with opened.channel() as channel, contextlib.suppress(*opened.channel_errors):
                lengths[name] = probes.ready(channel, name)
    yield _gauge(
        "dedup_queue_messages",
        "Messages that a queue could give out now: none in hand, none that waits for its time.",
        "queue",
        lengths,
    )


def _of_device(device: str) -> Iterator[prometheus.Metric]:
    import pynvml
    import torch

    chosen = torch.device(device)
    free, total = torch.cuda.mem_get_info(chosen)
    told: dict[str, float] = {
        "dedup_gpu_memory_used_bytes": total - free,
        "dedup_gpu_memory_total_bytes": total,
        "dedup_gpu_memory_reserved_bytes": torch.cuda.memory_reserved(chosen),
    }
    try:
        told["dedup_gpu_utilisation_ratio"] = torch.cuda.utilization(chosen) / 100
    except (pynvml.NVMLError, RuntimeError) as error:
        # Not told of a part of a GPU (MIG).
        log.debug("no_gpu_utilisation", error=str(error))
    for name, value in told.items():
        yield _gauge(name, GPU[name], "device", {device: value})
