"""Workers that are told to stop in the middle of their work: nothing is lost, and nothing is done twice.

What the tables must hold in the end is told by the soak's oracle, from the uploads alone and by a model that ran
undisturbed. ``pytest -m slow -s tests/acceptance/test_sigterm.py``: twenty times on each broker.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import itertools
import json
import subprocess
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator

import pytest

from core import bundle, embedding, weights
from core import settings as core_settings
from tests import deployment
from tests.soak import contents, oracle, tables

from . import brokers, pictures
from . import system as acceptance

STOP_SECONDS = core_settings.Settings.model_fields["stop_seconds"].default
"""As in an installation: what workers have in hand takes seconds, on a machine with much else to do many."""

GRACE_SECONDS = deployment.least_grace_seconds({})
"""After which they would be killed: no deployment gives them less."""

KINDS = ("embed", "match", "ingest")
PER_PROPERTY = 6
BACKLOG = 24
"""Photos that wait at most, so that there is always work in hand and the end does not take long."""

READY = {"ingest": "ingest_ready", "embed": "embed_worker_ready", "match": "match_worker_ready"}
COMMANDS = {"ingest": ("ingest",), "embed": ("worker", "embed"), "match": ("worker", "match")}


@functools.cache
def truth() -> tuple[list[contents.Content], contents.Truth]:
    """Pictures and what the model of the shared stack says of each two, computed here and undisturbed."""
    with warnings.catch_warnings():
        # That these weights know no rooms is what it warns of.
        warnings.simplefilter("ignore", RuntimeWarning)
        backbone = embedding.Backbone(weights.load("untrained"))
    drawn = [
        contents.Content(pictures.jpeg(subject, quality))
        for subject in pictures.SUBJECTS
        for quality in (90, 60)
    ]
    return contents.judged(drawn, backbone, bundle.for_backbone(backbone.weights_sha256))


class Uploads:
    """A portal that goes on uploading beside everything else, and remembers what it did."""

    def __init__(self, system: acceptance.System, broker: brokers.Broker, prefix: str) -> None:
        self.operations: list[oracle.Operation] = []
        self._system = system
        self._broker = broker
        self._prefix = prefix
        self._contents = itertools.cycle(truth()[0])
        self._over = threading.Event()
        self._error: Exception | None = None

    def __enter__(self) -> Uploads:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def finish(self) -> None:
        """Upload no more; raises what stopped it earlier."""
        self._over.set()
        self._thread.join()
        if self._error:
            raise self._error

    def _run(self) -> None:
        try:
            for number in itertools.count():
                while self._waiting() >= BACKLOG:
                    if self._over.wait(0.1):
                        return
                if self._over.is_set():
                    return
                self._upload(number)
        except Exception as error:  # noqa: BLE001 - told by `finish`
            self._error = error

    def _waiting(self) -> int:
        (row,) = self._system.ask(
            "SELECT count(*) AS matched FROM photo WHERE property_id LIKE %(like)s AND matched_at IS NOT NULL",
            like=f"{self._prefix}-%",
        )
        return len(self.operations) - int(row["matched"])

    def _upload(self, number: int) -> None:
        property_id = f"{self._prefix}-{number // PER_PROPERTY:03d}"
        name, content = f"{number:05d}.jpg", next(self._contents)
        etag = self._system.upload(property_id, name, content.data, self._broker.bucket)
        # As S3 gives it, in milliseconds.
        at = datetime.datetime.now(datetime.UTC)
        at = at.replace(microsecond=at.microsecond // 1000 * 1000)
        key = acceptance.key_of(property_id, name)
        assert self._broker.send
        self._broker.send(
            {
                "Records": [
                    acceptance.record(
                        "ObjectCreated:Put",
                        key,
                        bucket=self._broker.bucket,
                        etag=etag,
                        sequencer=f"{number:016X}",
                        at=at,
                    )
                ]
            }
        )
        self.operations.append(oracle.Put(at, property_id, key, content))


@dataclasses.dataclass
class Worker:
    """A process that is started again whenever it ended. `name` is that of its log."""

    kind: str
    name: str
    start: Callable[[], contextlib.AbstractContextManager[subprocess.Popen[bytes]]]
    running: contextlib.ExitStack
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0

    def again(self) -> None:
        """Start it."""
        self.starts += 1
        self.process = self.running.enter_context(self.start())

    def stop(self) -> float:
        """Tell it to stop; returns how many seconds it took."""
        assert self.process
        assert self.process.poll() is None, f"{self.name} ended by itself: {self.process.returncode}"
        told = time.monotonic()
        self.process.terminate()
        assert self.process.wait(GRACE_SECONDS) == 0
        return time.monotonic() - told


@pytest.fixture
def pgmq(system: acceptance.System) -> Iterator[brokers.Broker]:
    """Queues of the test's own, and a bucket of which the test itself tells."""
    with brokers.pgmq(system, bucket=f"photos-{uuid.uuid4().hex}") as broker:
        bucket = f"{broker.bucket}-silent"
        system.s3.create_bucket(Bucket=bucket)
        queue_url = system.sqs.get_queue_url(QueueName=broker.events)["QueueUrl"]

        def send(message: acceptance.Row) -> None:
            system.sqs.send_message(QueueUrl=queue_url, MessageBody=json.dumps(message))

        yield dataclasses.replace(broker, bucket=bucket, send=send)


@pytest.mark.slow
def test_workers_that_are_told_to_stop_in_the_middle(
    system: acceptance.System, rabbitmq: brokers.Broker
) -> None:
    check(system, rabbitmq, len(KINDS))


def test_a_sweep_that_rests_ends_at_once(system: acceptance.System) -> None:
    listening = "SELECT FROM pg_stat_activity WHERE query = 'LISTEN \"dedup_verdict\"'"
    before = len(system.ask(listening))
    with system.process(f"sigterm-sweep-{uuid.uuid4().hex[:8]}", "sweep", "--every", "600") as sweep:
        acceptance.until(lambda: len(system.ask(listening)) > before, "it rests")
        sweep.terminate()
        assert sweep.wait(GRACE_SECONDS) == 0


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_twenty_times_on_rabbitmq(system: acceptance.System, rabbitmq: brokers.Broker) -> None:
    check(system, rabbitmq, 20)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_twenty_times_on_pgmq(system: acceptance.System, pgmq: brokers.Broker) -> None:
    check(system, pgmq, 20)


def check(system: acceptance.System, broker: brokers.Broker, times: int) -> None:
    """Upload; tell a worker to stop while it has work in hand, so many times; hold the tables against the oracle."""
    prefix = f"sigterm-{uuid.uuid4().hex[:8]}"
    settings = {**broker.settings(), "DEDUP_STOP_SECONDS": str(STOP_SECONDS)}
    truth()
    with contextlib.ExitStack() as running:
        # The stack's own sweeper would give what waits long to workers that nobody stops.
        running.enter_context(acceptance.halted(system, "sweep"))
        workers = {
            kind: Worker(
                kind,
                f"{prefix}-{kind}",
                functools.partial(system.process, f"{prefix}-{kind}", *arguments, **settings),
                running,
            )
            for kind, arguments in COMMANDS.items()
        }
        for worker in workers.values():
            worker.again()
        acceptance.until(functools.partial(_ready, system, workers["ingest"]), "ingest runs")
        longest = dict.fromkeys(KINDS, 0.0)
        with Uploads(system, broker, prefix) as uploads:
            for kind in itertools.islice(itertools.cycle(KINDS), times):
                worker = workers[kind]
                acceptance.until(functools.partial(_ready, system, worker), f"{kind} is ready")
                acceptance.until(
                    functools.partial(_in_hand, system, prefix, kind), f"{kind} has work in hand"
                )
                longest[kind] = max(longest[kind], worker.stop())
                worker.again()
            uploads.finish()
        acceptance.until(
            lambda: not _unfinished(system, prefix, len(uploads.operations)), "all is worked off"
        )
        _compare(system, prefix, uploads.operations)
        letters = system.dedup("dead-letters", "--json", **settings)
        assert not [line for line in letters.stdout.splitlines() if '"task"' in line or prefix in line]
        for worker in workers.values():
            worker.stop()
            log = system.log(worker.name)
            told = {line["event"] for line in log}
            assert not told & {
                "part_away",
                "stopped_with_work_in_hand",
                "photo_lost_its_worker",
                "task_gave_up",
            }
    words = ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in longest.items())
    print(f"\n{len(uploads.operations)} photos, {times} times; seconds to stop at most: {words}")


def _in_hand(system: acceptance.System, prefix: str, kind: str) -> bool:
    states = {
        "ingest": "true",
        "embed": "status = 'pending' AND attempts > 0",
        "match": "status = 'embedded' AND matched_at IS NULL",
    }
    return bool(
        system.ask(
            f"SELECT FROM photo WHERE property_id LIKE %(like)s AND {states[kind]} LIMIT 1",
            like=f"{prefix}-%",
        )
    )


def _unfinished(system: acceptance.System, prefix: str, photos: int) -> bool:
    (row,) = system.ask(
        "SELECT count(*) AS done FROM photo WHERE property_id LIKE %(like)s AND matched_at IS NOT NULL",
        like=f"{prefix}-%",
    )
    return int(row["done"]) != photos


def _compare(system: acceptance.System, prefix: str, operations: list[oracle.Operation]) -> None:
    found = tables.read(system)
    # The stack is shared; the keys hold the property.
    mine = f"properties/{prefix}-"
    ours = oracle.Tables(
        **{
            field.name: [
                row
                for row in getattr(found, field.name)
                if str(row.get("key") or row.get("key_a")).startswith(mine)
            ]
            for field in dataclasses.fields(oracle.Tables)
        }
    )
    assert oracle.differences(operations, truth()[1], ours) == []
    assert {row["attempts"] for row in ours.photos} == {0}, "no attempt was lost"


def _ready(system: acceptance.System, worker: Worker) -> bool:
    said = [line for line in system.log(worker.name) if line["event"] == READY[worker.kind]]
    return len(said) == worker.starts
