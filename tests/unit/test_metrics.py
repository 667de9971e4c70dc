"""What a process measures of itself: the counters themselves, and what they look like in a scrape."""

from __future__ import annotations

import functools
import importlib.metadata
import socket
import urllib.request
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import prometheus_client
import prometheus_client.openmetrics.exposition
import prometheus_client.openmetrics.parser
import pynvml
import pytest
import torch
from prometheus_client import core as prometheus
from prometheus_client import openmetrics, parser

from core import errors, observations, settings
from workers import collectors, health, logs, metrics

Value = Callable[..., float]


def strictly(text: str) -> list[prometheus.Metric]:
    """A scrape in OpenMetrics; its own parser is strict, unlike that of the older format."""
    return list(openmetrics.parser.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


@pytest.fixture(autouse=True)
def _listening(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observations, "_listeners", [metrics.observe])


@pytest.fixture
def gained() -> Value:
    """How much a sample has grown since the test began."""
    registry = prometheus_client.REGISTRY
    before = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in registry.collect()
        for sample in family.samples
    }

    def gain(name: str, **labels: str) -> float:
        now = registry.get_sample_value(name, labels)
        assert now is not None, f"{name}{labels} is not measured"
        return now - before.get((name, tuple(sorted(labels.items()))), 0.0)

    return gain


def test_what_core_tells_outside_of_a_transaction_counts_at_once(gained: Value) -> None:
    observations.tell(observations.FlagsChanged(added=2, removed=1, changed=3))
    observations.tell(observations.PhotoFailed("corrupt"))
    assert [gained("dedup_flags_total", change=change) for change in ("added", "removed", "changed")] == [
        2,
        1,
        3,
    ]
    assert gained("dedup_photos_failed_total", reason="corrupt") == 1


def test_what_core_tells_in_a_transaction_counts_once_it_is_certain(gained: Value) -> None:
    with observations.until_certain():
        observations.tell(observations.FlagsChanged(1, 0, 0))
        with observations.until_certain():
            observations.tell(observations.FlagsChanged(0, 1, 0))
            assert gained("dedup_flags_total", change="removed") == 0
        # Another transaction of the same thread has committed; this one has not.
        assert gained("dedup_flags_total", change="removed") == 1
        assert gained("dedup_flags_total", change="added") == 0
    assert gained("dedup_flags_total", change="added") == 1


def test_what_was_rolled_back_never_counts(gained: Value) -> None:
    def roll_back() -> None:
        with observations.until_certain():
            observations.tell(observations.FlagsChanged(5, 5, 5))
            raise errors.TransientError("the connection was lost")

    with pytest.raises(errors.TransientError):
        roll_back()
    observations.tell(observations.FlagsChanged(1, 0, 0))
    assert gained("dedup_flags_total", change="added") == 1


def test_live_uploads_and_backfills_are_told_apart_by_their_queue(gained: Value) -> None:
    with logs.bound(queue="embed"):
        observations.tell(observations.PhotoEmbedded(0.4))
    with logs.bound(queue="match"):
        observations.tell(observations.PhotoMatched(0.6))
    for queue in ("embed.bulk", "match.bulk"):
        with logs.bound(queue=queue):
            observations.tell(observations.PhotoEmbedded(86_400 * 365))
    assert gained("dedup_upload_to_embedded_seconds_count", lane="live") == 1
    assert gained("dedup_upload_to_embedded_seconds_sum", lane="live") == pytest.approx(0.4)
    assert gained("dedup_upload_to_flag_seconds_sum", lane="live") == pytest.approx(0.6)
    assert gained("dedup_upload_to_embedded_seconds_count", lane="bulk") == 2


def test_scores_are_kept_by_model(gained: Value) -> None:
    scores = np.array([0.02, 0.5, 0.995], np.float32)
    observations.tell(observations.PairsScored("0123456789abcdef", scores))
    name, model = "dedup_pair_score", "0123456789abcdef"
    assert gained(f"{name}_count", model=model) == 3
    assert gained(f"{name}_bucket", model=model, le="0.05") == 1
    assert gained(f"{name}_bucket", model=model, le="0.99") == 2


def test_a_stage_that_fails_was_measured(gained: Value) -> None:
    def fail() -> None:
        with metrics.stage("fetch"):
            raise errors.TransientError("503")

    with pytest.raises(errors.TransientError):
        fail()
    assert gained("dedup_stage_seconds_count", stage="fetch") == 1


def test_a_clock_that_is_ahead_gives_no_negative_wait(gained: Value) -> None:
    metrics.waited("embed", 4e9)
    assert gained("dedup_queue_wait_seconds_count", queue="embed") == 1
    assert gained("dedup_queue_wait_seconds_sum", queue="embed") == 0


def test_a_part_that_does_not_answer_leaves_out_what_it_has_not_told_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def of_broker() -> Iterator[prometheus.Metric]:
        asked.append("broker")
        yield prometheus.GaugeMetricFamily("half", "told before the other half failed", value=3)
        raise errors.TransientError("the connection was lost")

    def of_database() -> Iterable[prometheus.Metric]:
        asked.append("database")
        return [prometheus.GaugeMetricFamily("whole", "all of it", value=2)]

    registry = prometheus_client.CollectorRegistry()
    parts = collectors.Asked()
    registry.register(parts)
    for part, ask in {"broker": of_broker, "database": of_database}.items():
        parts.add(part, ask)
    assert asked == [], "nobody is asked before the first scrape"
    monitor = health.Monitor()
    monkeypatch.setattr(health, "process", monitor)

    def told() -> dict[str, float]:
        text = prometheus_client.generate_latest(registry).decode()
        return {
            f"{sample.name}{''.join(sample.labels.values())}": sample.value
            for family in parser.text_string_to_metric_families(text)
            for sample in family.samples
        }

    assert told() == {"dedup_scrape_okbroker": 0, "dedup_scrape_okdatabase": 1, "half": 3, "whole": 2}
    monitor.away("database", "refused")
    asked.clear()
    assert told() == {"dedup_scrape_okbroker": 0, "dedup_scrape_okdatabase": 0, "half": 3}
    assert asked == ["broker"], "one that is known to be away is not waited for"


def test_what_several_parts_tell_is_one_family_as_openmetrics_has_it() -> None:
    def queue(name: str) -> Iterator[prometheus.Metric]:
        family = prometheus.GaugeMetricFamily("dedup_queue_messages", "Messages.", labels=["queue"])
        family.add_metric([name], 3)
        yield family

    registry = prometheus_client.CollectorRegistry()
    parts = collectors.Asked()
    registry.register(parts)
    assert list(registry.collect()) == [], "a process that asks nobody tells nothing of it"
    for part, name in {"broker": "embed", "events": "dedup-events"}.items():
        parts.add(part, functools.partial(queue, name))
    for _ in range(2):
        text: bytes = openmetrics.exposition.generate_latest(registry)  # type: ignore[no-untyped-call]
        told = {
            family.name: {"".join(sample.labels.values()): sample.value for sample in family.samples}
            for family in strictly(text.decode())
        }
        assert told == {
            "dedup_scrape_ok": {"broker": 1, "events": 1},
            "dedup_queue_messages": {"embed": 3, "dedup-events": 3},
        }


def of_device(monkeypatch: pytest.MonkeyPatch, device: str) -> dict[str, float]:
    """What a process on that device tells of it in a scrape."""
    parts = collectors.Asked()
    monkeypatch.setattr(collectors, "parts", parts)
    collectors.register_device(device)
    registry = prometheus_client.CollectorRegistry()
    registry.register(parts)
    text: bytes = openmetrics.exposition.generate_latest(registry)  # type: ignore[no-untyped-call]
    samples = [sample for family in strictly(text.decode()) for sample in family.samples]
    assert {tuple(sample.labels.values()) for sample in samples} <= {(device,), ("device",)}
    return {sample.name: sample.value for sample in samples}


def test_of_a_cpu_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert of_device(monkeypatch, "cpu") == {}


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_how_a_gpu_is_used(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    asked = []

    def memory(of: torch.device) -> tuple[int, int]:
        asked.append(of)
        return 3 * 2**30, 8 * 2**30

    # What CUDA and the driver answer; all else is torch's own.
    monkeypatch.setattr(torch.cuda, "mem_get_info", memory)
    monkeypatch.setattr(torch.cuda, "utilization", lambda of: 37)
    told = of_device(monkeypatch, device)
    assert set(told) == {*collectors.GPU, "dedup_scrape_ok"}
    assert told["dedup_gpu_memory_used_bytes"] == 5 * 2**30
    assert told["dedup_gpu_memory_total_bytes"] == 8 * 2**30
    assert told["dedup_gpu_memory_reserved_bytes"] == 0, "this process holds none"
    assert told["dedup_gpu_utilisation_ratio"] == 0.37
    assert told["dedup_scrape_ok"] == 1
    assert asked == [torch.device(device)]


@pytest.mark.parametrize(
    "error",
    [pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED), RuntimeError("cuda driver can't be loaded")],
    ids=["NVMLError", "RuntimeError"],
)
def test_memory_is_told_where_the_driver_does_not_tell_utilisation(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(of: torch.device) -> int:
        raise error

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda of: (1, 2))
    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    told = of_device(monkeypatch, "cuda")
    assert set(collectors.GPU) - set(told) == {"dedup_gpu_utilisation_ratio"}
    assert told["dedup_scrape_ok"] == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA answers here")
def test_a_gpu_that_does_not_answer_fails_no_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    assert of_device(monkeypatch, "cuda") == {"dedup_scrape_ok": 0}


def test_health_as_numbers() -> None:
    now = 1000.0
    monitor = health.Monitor(lambda: now)
    registry = prometheus_client.CollectorRegistry()
    registry.register(collectors.Health(monitor, 60))
    assert registry.get_sample_value("dedup_process_well") == 0, "it starts"
    monitor.ready()
    assert registry.get_sample_value("dedup_process_well") == 1
    assert registry.get_sample_value("dedup_part_away_seconds", {"part": "store"}) is None
    monitor.away("store", "503")
    now += 5
    assert registry.get_sample_value("dedup_part_away_seconds", {"part": "store"}) == 5
    assert registry.get_sample_value("dedup_process_well") == 0
    with monitor.working():
        now += 61
        assert registry.get_sample_value("dedup_process_stuck") == 1
    assert registry.get_sample_value("dedup_process_stuck") == 0


def test_a_scrape_over_http_can_be_read_and_says_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = settings.Settings(health_port=port, health_host="127.0.0.1")
    health.serve(config, {}, collectors.endpoints(config, "match"))
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Accept": openmetrics.exposition.CONTENT_TYPE_LATEST}
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310 - our own process
        told = strictly(answer.read().decode())
    samples = {sample.name: sample for family in told for sample in family.samples}
    version = importlib.metadata.version("listing-dedup")
    assert samples["dedup_build_info"].labels == {"version": version, "process": "match"}
    assert {"dedup_process_stuck", "dedup_flags_total", "process_resident_memory_bytes"} <= set(samples)


def test_names_are_as_prometheus_wants_them() -> None:
    for family in prometheus_client.REGISTRY.collect():
        if not family.name.startswith("dedup_"):
            continue
        assert family.documentation.endswith("."), family.name
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_ratio", "_score")), family.name
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name == f"{family.name}_total"
            assert not {"property_id", "photo_id", "property", "photo", "key"} & set(sample.labels)
            assert not sample.name.endswith("_created")
