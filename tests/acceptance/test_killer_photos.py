"""Photos that take their worker with them are parked after a few attempts, and every other one is embedded.

``KILLER_PHOTOS_TEST_GOOD=1000 pytest -m slow -s tests/acceptance/test_killer_photos.py`` tries it with more good ones;
with ``KILLER_PHOTOS_TEST_OUTPUT`` it adds its figures to a CSV file.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import datetime
import itertools
import json
import os
import pathlib
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator

import pytest

from workers import processes

from . import brokers, crashing, pictures
from . import system as acceptance

GOOD = int(os.environ.get("KILLER_PHOTOS_TEST_GOOD", "40"))
KILLERS = int(os.environ.get("KILLER_PHOTOS_TEST_KILLERS", "3"))
MOST_LOSSES = 2
"""One less than the default: each costs a start of the worker."""

PER_PROPERTY = 10
DEADLINE_SECONDS = (2 + MOST_LOSSES * KILLERS) * acceptance.DEADLINE_SECONDS + 2 * GOOD
"""Each loss costs a start of the worker, and on pgmq a wait until its tasks are given out again."""


@pytest.fixture(params=["pgmq", "rabbitmq"])
def broker(
    request: pytest.FixtureRequest, system: acceptance.System, property_id: str
) -> Iterator[brokers.Broker]:
    """A broker with nothing in it, apart from the shared stack's, whose workers have a sound decoder."""
    opened = getattr(brokers, request.param)
    with opened(system, bucket=f"photos-{uuid.uuid4().hex}") as found:
        yield found


@pytest.mark.slow
@pytest.mark.timeout(3 * DEADLINE_SECONDS)
def test_photos_that_kill_their_worker(system: acceptance.System, broker: brokers.Broker) -> None:
    settings = {**broker.settings(), "DEDUP_EMBED_MAX_LOSSES": str(MOST_LOSSES)}
    property_id = f"killers-{uuid.uuid4().hex[:8]}"
    names = [f"{number:04d}.jpg" for number in range(GOOD + KILLERS)]
    # Among the others, so that each has company when it is met first.
    killers = {names[(number + 1) * len(names) // (KILLERS + 1)] for number in range(KILLERS)}
    good = pictures.jpeg("bedroom")

    def place(name: str) -> str:
        return f"{property_id}-{int(name[:4]) // PER_PROPERTY}"

    def statuses() -> collections.Counter[str]:
        found = system.ask(
            "SELECT concat_ws(':', status, failure) AS state FROM photo WHERE property_id LIKE %(like)s",
            like=f"{property_id}-%",
        )
        return collections.Counter(row["state"] for row in found)

    with contextlib.ExitStack() as running:
        running.enter_context(_no_sweep(system))
        running.enter_context(system.process(f"{property_id}-ingest", "ingest", **settings))
        if broker.send:
            acceptance.until(broker.event_queue_exists, "ingest runs")
        for name in names:
            data = good + crashing.MARK if name in killers else good
            etag = system.upload(place(name), name, data, broker.bucket)
            key = acceptance.key_of(place(name), name)
            if broker.send:
                broker.send(
                    {
                        "Records": [
                            acceptance.record("ObjectCreated:Put", key, bucket=broker.bucket, etag=etag)
                        ]
                    }
                )
        acceptance.until(
            lambda: statuses() == {"pending": len(names)},
            "every photo waits",
            DEADLINE_SECONDS,
        )
        running.enter_context(system.process(f"{property_id}-match", "worker", "match", **settings))
        started = time.monotonic()
        worker = running.enter_context(_started_again(system, f"{property_id}-embed", settings))
        acceptance.until(
            lambda: statuses() == {"embedded": GOOD, "failed:killed_worker": KILLERS},
            "the good photos are embedded and the others parked",
            DEADLINE_SECONDS,
        )
        seconds = time.monotonic() - started
        # Once with company, then alone; two that were in hand together lost their first process together.
        assert MOST_LOSSES <= worker.losses <= MOST_LOSSES * KILLERS
        rates = _rates(system, f"{property_id}-embed")
        assert rates["embedded_before_last_start"], "good photos do not wait until all killers are parked"
        acceptance.until(
            lambda: system.read(
                "SELECT count(*) = %(wanted)s AS done FROM listing_duplicates WHERE property_id LIKE %(like)s",
                like=f"{property_id}-%",
                wanted=GOOD - len({place(name) for name in names}),
            )[0]["done"],
            "all that is good is matched: one picture, so all but one of each property are flagged",
            DEADLINE_SECONDS,
        )
        shown = system.dedup("dead-letters", "--reason", "killed_worker", "--json", **settings)
        found = [json.loads(line) for line in shown.stdout.splitlines()]
        ours = [item for item in found if item["property_id"].startswith(property_id)]
        assert {item["key"].rpartition("/")[2] for item in ours} == killers
        assert all(f"lost {MOST_LOSSES} times" in item["message"] for item in ours)
    _keep(
        {
            "broker": broker.url.partition("://")[0],
            "good": GOOD,
            "killers": KILLERS,
            "most_losses": MOST_LOSSES,
            "embedded": GOOD,
            "failed_killed_worker": KILLERS,
            "workers_lost": worker.losses,
            **rates,
            "seconds": round(seconds),
        }
    )
    # With a decoder that is mended, they go on where they stopped.
    with system.process(f"{property_id}-mended", "worker", "embed", "--bulk", **settings):
        put_back = system.dedup(
            "replay", "--reason", "killed_worker", "--property", place(min(killers)), **settings
        )
        assert "1 photos" in put_back.stdout, put_back.stderr
        acceptance.until(lambda: statuses()["embedded"] == GOOD + 1, "the replayed photo is embedded")


def _rates(system: acceptance.System, log: str) -> dict[str, object]:
    """How the embed worker fared: photos that it embedded a second while it ran, and its longest halt."""
    lines = system.log(log)

    def times(event: str) -> list[datetime.datetime]:
        return [
            datetime.datetime.fromisoformat(line["timestamp"]) for line in lines if line["event"] == event
        ]

    at, starts = times("photo_embedded"), times("embed_worker_ready")
    halts = [(after - before).total_seconds() for before, after in itertools.pairwise(at)]
    return {
        "photos_per_second": round(len(at) / max(1.0, (at[-1] - at[0]).total_seconds()), 2),
        "longest_halt_seconds": round(max(halts), 1),
        "embedded_before_last_start": sum(time < starts[-1] for time in at),
        "workers_started": len(starts),
    }


def _keep(figures: dict[str, object]) -> None:
    print("\n" + "  ".join(f"{name} {value}" for name, value in figures.items()))
    output = os.environ.get("KILLER_PHOTOS_TEST_OUTPUT")
    if not output:
        return
    path = pathlib.Path(output)
    name = "rabbitmq" if figures["broker"] == "amqp" else figures["broker"]
    command = (
        f"KILLER_PHOTOS_TEST_GOOD={GOOD} KILLER_PHOTOS_TEST_KILLERS={KILLERS} KILLER_PHOTOS_TEST_OUTPUT={output} "
        f"python -m pytest -m slow -k {name} tests/acceptance/test_killer_photos.py"
    )
    row = {**figures, "date": datetime.datetime.now(datetime.UTC).date().isoformat(), "command": command}
    rows = [row]
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [*csv.DictReader(file), row]
    with path.open("w", newline="", encoding="utf-8") as file:
        # Rows of before a column was added have nothing there.
        writer = csv.DictWriter(file, fieldnames=list(row))
        writer.writeheader()
        writer.writerows(rows)


@contextlib.contextmanager
def _no_sweep(system: acceptance.System) -> Iterator[None]:
    """Halt the stack's sweeper for the block: it would give what waits long to workers whose decoder is sound."""
    sweeper = system.stack._processes["sweep"]
    sweeper.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        sweeper.send_signal(signal.SIGCONT)


class _Worker:
    """An embed worker with the crashing decoder, and how often it was lost."""

    def __init__(self) -> None:
        self.losses = 0
        self.process: subprocess.Popen[bytes] | None = None


@contextlib.contextmanager
def _started_again(system: acceptance.System, name: str, settings: dict[str, str]) -> Iterator[_Worker]:
    """Run it for the block, started again whenever it dies, as an installation's supervisor does."""
    worker = _Worker()
    stopping = threading.Event()
    environment = {**os.environ, **system.stack.environment, **settings}
    environment[processes.SUPERVISED] = str(os.getpid())

    def supervise() -> None:
        while not stopping.is_set():
            with system.stack.log_file(name).open("ab") as log:
                worker.process = subprocess.Popen(
                    acceptance.command("worker", "embed", module=crashing.__name__),
                    cwd=acceptance.ROOT,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            worker.process.wait()
            worker.losses += not stopping.is_set()

    thread = threading.Thread(target=supervise)
    thread.start()
    try:
        yield worker
    finally:
        stopping.set()
        if worker.process:
            worker.process.terminate()
        thread.join()
