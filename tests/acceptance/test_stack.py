"""`make stack` as a user runs it: 500 photos through it, and its metrics say of them what the database says."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator

import prometheus_client.parser
import psycopg
import pytest
from psycopg import rows

from tests.stack import __main__ as stack_program
from tests.stack import prometheus, services
from workers import embedded

from . import pictures
from . import system as acceptance

PHOTOS = 500
BROKEN = 5
"""Of them, which can never be embedded."""

PER_PROPERTY = 10
DEADLINE_SECONDS = 1200.0
CTRL_C_SECONDS = 90.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * DEADLINE_SECONDS)]

Total = Callable[..., float]
"""Sum of a metric over all processes, of the series that have these labels."""


@contextlib.contextmanager
def _running(data_dir: pathlib.Path) -> Iterator[subprocess.Popen[bytes]]:
    log = data_dir / "make-stack.log"
    environment = {
        **os.environ,
        "DEDUP_DATA_DIR": str(data_dir),
        "DEDUP_BACKBONE_WEIGHTS": "untrained",
        "DEDUP_LOG_LEVEL": "warning",
    }
    with log.open("wb") as file:
        started = subprocess.Popen(
            acceptance.command(module="tests.stack"),
            cwd=acceptance.ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
        )
    try:

        def ready() -> bool:
            assert started.poll() is None, log.read_text(encoding="utf-8")
            return "Ctrl-C stops it" in log.read_text(encoding="utf-8")

        acceptance.until(ready, "make stack says where everything is")
        yield started
        assert "Traceback" not in log.read_text(encoding="utf-8")
    finally:
        if started.poll() is None:
            started.terminate()
            started.wait(CTRL_C_SECONDS)


def _targets(folder: pathlib.Path) -> dict[str, str]:
    found = json.loads((folder / stack_program.TARGETS).read_text(encoding="utf-8"))
    return {entry["labels"]["service"]: entry["targets"][0] for entry in found}


def _scraped(targets: dict[str, str]) -> Total:
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = collections.defaultdict(float)
    for address in targets.values():
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
            for family in prometheus_client.parser.text_string_to_metric_families(answer.read().decode()):
                for sample in family.samples:
                    samples[sample.name, frozenset(sample.labels.items())] += sample.value

    def total(name: str, **labels: str) -> float:
        return sum(
            value for (found, has), value in samples.items() if found == name and labels.items() <= set(has)
        )

    return total


def _asked(url: str) -> Total:
    def total(name: str, **labels: str) -> float:
        wanted = ",".join(f'{label}="{value}"' for label, value in labels.items())
        return sum(float(found["value"][1]) for found in prometheus.ask(url, f"sum({name}{{{wanted}}})"))

    return total


IN_DATABASE = {
    "events": "SELECT count(*) FROM photo",
    "embedded": "SELECT count(*) FROM photo_embedding",
    "matched": "SELECT count(*) FROM photo WHERE matched_at IS NOT NULL",
    "failed": "SELECT count(*) FROM photo WHERE failure = 'unsupported'",
    "flags": "SELECT count(*) FROM duplicate_flag",
    "photos": "SELECT count(*) FROM photo WHERE status = 'embedded'",
    "parked": "SELECT count(*) FROM photo WHERE status = 'failed'",
    "waiting": "SELECT count(*) FROM photo WHERE status = 'pending' OR (status = 'embedded' AND matched_at IS NULL)",
    "queued": "SELECT 0",
}


def _in_metrics(total: Total) -> dict[str, float]:
    """The same as IN_DATABASE, of what each process counted by itself and what the sweep asks at each scrape."""
    return {
        "events": total("dedup_events_total", outcome="pending"),
        "embedded": total("dedup_upload_to_embedded_seconds_count"),
        "matched": total("dedup_upload_to_flag_seconds_count"),
        "failed": total("dedup_photos_failed_total", reason="unsupported"),
        "flags": total("dedup_flags_total", change="added") - total("dedup_flags_total", change="removed"),
        "photos": total("dedup_photos", status="embedded"),
        "parked": total("dedup_dead_photos"),
        "waiting": total("dedup_photos_waiting"),
        "queued": total("dedup_queue_messages"),
    }


def _upload(system: acceptance.System) -> None:
    good = [pictures.jpeg(subject, quality) for subject in pictures.SUBJECTS for quality in (90, 75, 60)]
    for number in range(PHOTOS):
        data = b"no photo" if number % (PHOTOS // BROKEN) == 0 else good[number % len(good)]
        # What follows the end of a JPEG is not looked at.
        system.upload(
            f"stack-{number // PER_PROPERTY}", f"{number:04d}.jpg", data + number.to_bytes(4, "big")
        )


def test_its_metrics_say_what_the_database_says(data_dir: pathlib.Path) -> None:
    with _running(data_dir) as stack:
        (folder,) = data_dir.glob("stack-*")
        targets = _targets(folder)
        compose = services.compose()
        assert set(targets) == set(services.lasting(services.ours(compose, ["cpu"])))
        url = (folder / stack_program.PROMETHEUS).read_text(encoding="utf-8")
        assert bool(url) == bool(shutil.which("prometheus"))
        system = acceptance.System(embedded.Stack(folder))
        _upload(system)

        def count(statement: str) -> int:
            with psycopg.connect(system.stack.postgres.url(), row_factory=rows.scalar_row) as connection:
                return int(connection.execute(statement.encode()).fetchone() or 0)

        def done() -> bool:
            assert stack.poll() is None
            return (
                count("SELECT count(*) FROM photo WHERE matched_at IS NOT NULL OR status = 'failed'")
                == PHOTOS
            )

        acceptance.until(done, "every photo is decided", DEADLINE_SECONDS)
        database = {name: count(statement) for name, statement in IN_DATABASE.items()}
        assert (database["photos"], database["parked"]) == (PHOTOS - BROKEN, BROKEN)
        assert database["flags"] > PHOTOS // 5

        def measured() -> dict[str, float]:
            return _in_metrics(_asked(url) if url else _scraped(targets))

        # Prometheus looks every few seconds, and what was just done is acknowledged a moment later.
        with contextlib.suppress(AssertionError):
            acceptance.until(lambda: measured() == database, "the metrics say what the database says", 60)
        assert measured() == database
        if url:
            up = {found["metric"]["service"]: found["value"][1] for found in prometheus.ask(url, "up")}
            assert up == dict.fromkeys(targets, "1")
        stack.send_signal(signal.SIGINT)
        assert stack.wait(CTRL_C_SECONDS) == 0
        assert not acceptance.processes_of(data_dir)
