"""What Prometheus is told is what happened: counts of a real scrape of every process against the tables."""

from __future__ import annotations

import functools
import urllib.request
from collections.abc import Mapping

from prometheus_client import Metric, parser

from tests import monitoring
from workers import collectors

from . import pictures
from . import system as acceptance

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(system: acceptance.System) -> dict[str, Samples]:
    """Every sample of every process of the stack, by the process's name."""
    found: dict[str, Samples] = {}
    for process, url in system.stack.health_urls().items():
        acceptance.until(functools.partial(is_well, url), f"{process} is well")
        found[process] = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families(url)
            for sample in family.samples
        }
    return found


def families(url: str) -> list[Metric]:
    """What a process tells, by the address of its health."""
    with urllib.request.urlopen(url.replace("/healthz", "/metrics"), timeout=30) as answer:  # noqa: S310 - http
        return list(parser.text_string_to_metric_families(answer.read().decode()))


def is_well(url: str) -> bool:
    """Whether a process has begun its work."""
    try:
        with urllib.request.urlopen(url, timeout=30):  # noqa: S310 - http
            return True
    except OSError:
        return False


def total(scraped: Mapping[str, Samples], wanted: str, /, **labels: str) -> float:
    """The sum over all processes of the samples that have these labels."""
    return sum(
        value
        for samples in scraped.values()
        for (sample, own), value in samples.items()
        if sample == wanted and labels.items() <= dict(own).items()
    )


def test_counts_equal_the_tables(system: acceptance.System, property_id: str) -> None:
    before = scrape(system)
    system.upload(property_id, "a.jpg", pictures.jpeg("bedroom"))
    system.upload(property_id, "b.jpg", pictures.jpeg("bedroom", quality=60))
    system.upload(property_id, "c.jpg", pictures.jpeg("bathroom"))
    system.upload(property_id, "bad.png", pictures.corrupt_png())
    system.send(f"no JSON, {property_id}")
    system.settle()
    system.delete(property_id, "b.jpg")
    system.settle()
    after = scrape(system)

    def gained(wanted: str, **labels: str) -> float:
        return total(after, wanted, **labels) - total(before, wanted, **labels)

    assert gained("dedup_events_total", outcome="pending") == 4
    assert gained("dedup_events_total", outcome="removed") == 1
    assert gained("dedup_events_total", outcome="rejected") == 1
    assert gained("dedup_events_rejected_total", reason="not_understood") == 1
    assert gained("dedup_upload_to_embedded_seconds_count", lane="live") == 3
    assert gained("dedup_upload_to_flag_seconds_count", lane="live") == 3
    assert gained("dedup_upload_to_embedded_seconds_count", lane="bulk") == 0
    assert gained("dedup_photos_failed_total", reason="corrupt") == 1
    assert gained("dedup_flags_total", change="added") == 1
    assert gained("dedup_flags_total", change="removed") == 1
    # Photos that are embedded at the same time may be matched together, by one task.
    for stage, times in {"fetch": 4, "decode": 4, "wait": 3, "write": 3, "match": 1}.items():
        assert gained("dedup_stage_seconds_count", stage=stage) >= times, stage
    assert 1 <= gained("dedup_stage_seconds_count", stage="forward") <= 3
    assert gained("dedup_batch_fill_ratio_count") == gained("dedup_stage_seconds_count", stage="forward")
    assert gained("dedup_queue_wait_seconds_count", queue="embed") >= 4
    assert gained("dedup_queue_wait_seconds_count", queue="match") >= 1
    # Each of the three with those of its property that were embedded by then.
    assert 3 <= gained("dedup_pair_score_count") <= 6

    on_record = {
        row["status"]: row["photos"]
        for row in system.ask("SELECT status, count(*) AS photos FROM photo GROUP BY status")
    }
    told = {
        dict(labels)["status"]: value
        for (name, labels), value in after["sweep"].items()
        if name == "dedup_photos"
    }
    assert {status: count for status, count in told.items() if count} == on_record
    assert total(after, "dedup_photos_waiting") == 0
    (rejected,) = system.ask("SELECT count(*) AS events FROM rejected_event")
    assert total(after, "dedup_rejected_events") == rejected["events"]
    assert total(after, "dedup_dead_photos", reason="corrupt") == sum(
        row["photos"] for row in system.ask("SELECT count(*) AS photos FROM photo WHERE failure = 'corrupt'")
    )
    (model,) = system.ask("SELECT id, name FROM model WHERE status = 'active'")
    assert total(after, "dedup_model_info", model=model["id"], name=model["name"], status="active") == 1


def test_what_alerts_and_dashboard_name_is_in_a_scrape(system: acceptance.System, property_id: str) -> None:
    system.upload(property_id, "a.jpg", pictures.jpeg("bedroom"))
    system.upload(property_id, "b.jpg", pictures.jpeg("bathroom"))
    system.settle()
    labels: dict[str, set[str]] = {}
    for url in system.stack.health_urls().values():
        for family in families(url):
            # Of what is absent while all is well there is only the family.
            labels.setdefault(family.name, set())
            for sample in family.samples:
                labels.setdefault(sample.name, set()).update(sample.labels)
    named = {
        selector for expression in monitoring.expressions() for selector in monitoring.selectors(expression)
    }
    missing = {name for name, _ in named if name not in labels} - monitoring.recorded()
    assert missing == set(collectors.GPU), "all but those of a GPU, of which there is none here"
    for name, chosen_by in named:
        if labels.get(name):
            assert chosen_by <= labels[name], name


def test_every_process_tells_of_itself_and_only_the_sweep_of_what_all_share(
    system: acceptance.System,
) -> None:
    scraped = scrape(system)
    assert set(scraped) == {"ingest", "embed", "embed-2", "match", "match-2", "sweep"}
    for name, samples in scraped.items():
        kind = name.partition("-")[0]
        names = {sample for sample, _ in samples}
        assert total({name: samples}, "dedup_build_info", process=kind) == 1
        assert total({name: samples}, "dedup_process_well") == 1
        assert ("dedup_photos" in names) == (kind == "sweep")
        assert not {sample for sample in names if sample.startswith("dedup_gpu")}, "there is none here"
    ok = {
        dict(labels)["part"]: value
        for (name, labels), value in scraped["sweep"].items()
        if name == "dedup_scrape_ok"
    }
    assert ok == {"database": 1, "broker": 1, "events": 1}
    queues = {dict(labels)["queue"] for name, labels in scraped["sweep"] if name == "dedup_queue_messages"}
    assert {"embed", "match", "match.bulk", system.stack.store.queue} <= queues
