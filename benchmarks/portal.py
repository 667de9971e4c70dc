"""A portal that uploads to a running stack, and looks in the database what becomes of its photos."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence

import kombu

from benchmarks import object_store
from core import database, events, matching, settings
from workers import embedded, event_queue

KINDS = ("ingest", "embed", "match")
"""The workers that each photo passes through."""

_PATIENCE_SECONDS = 300.0
_PROPERTY_PHOTOS = 20
_BUCKET, _EVENTS = "photos", "events"

Put = Callable[[str, bytes], object]
"""Puts a photo into the store: key, bytes. Its event follows."""


@dataclasses.dataclass(frozen=True)
class Heap:
    """How a heap of photos was worked off: photos a second, and milliseconds of processor time a photo, by worker.

    `raw`: what was measured meanwhile, while the workers held still.
    """

    photos_per_s: float
    processor_ms: dict[str, float]
    raw: list[float]

    def row(self) -> dict[str, object]:
        """For the table."""
        spent = {f"{kind}_ms": round(ms, 1) for kind, ms in self.processor_ms.items()}
        return {"photos_per_s": round(self.photos_per_s, 2), **spent}


class Portal:
    """Uploads photos and waits for what becomes of them."""

    def __init__(
        self, stack: embedded.Stack, base: database.Database, pictures_: Sequence[bytes], put: Put
    ) -> None:
        self._stack = stack
        self._put = put
        self._base = base
        self._pictures = itertools.cycle(pictures_)
        self._numbers = itertools.count()

    @property
    def workers(self) -> dict[str, int]:
        """The process id of each worker."""
        return {name: process.pid for name, process in self._stack._processes.items()}

    def upload(self, property_id: str, data: bytes | None = None) -> bytes:
        """Upload a photo with bytes of its own; returns them."""
        number = next(self._numbers)
        # What follows the end of a JPEG is not looked at.
        data = (data or next(self._pictures)) + number.to_bytes(8, "big")
        self._put(f"properties/{property_id}/photos/{number:06d}.jpg", data)
        return data

    def latency(self) -> float:
        """Seconds from the upload of a duplicate to its flag."""
        name = uuid.uuid4().hex
        original = self.upload(name)
        self._await(lambda: self.settled(name) == 1, "matched")
        started = time.perf_counter()
        self.upload(name, original)
        self._await(lambda: bool(self._flags(name)), "flagged")
        return time.perf_counter() - started

    def heap(self, count: int, measurements: Sequence[Callable[[], float]] = ()) -> Heap:
        """From when so many photos lie in the store, their events waiting, to the last match.

        Evenly on the way the workers hold still, and something else is measured; that time does not count.
        """
        prefix, workers = uuid.uuid4().hex, self._stack._processes.values()
        with held(workers):
            for number in range(count):
                self.upload(f"{prefix}-{number // _PROPERTY_PHOTOS}")
            before = self._processor_seconds()
        raw, still = [], 0.0
        started = time.perf_counter()
        for number, measure in enumerate(measurements, 1):
            self._await_settled(prefix, count * number // (len(measurements) + 1))
            stopped = time.perf_counter()
            with held(workers):
                raw.append(measure())
            still += time.perf_counter() - stopped
        self._await_settled(prefix, count)
        seconds = time.perf_counter() - started - still
        after = self._processor_seconds()
        spent = {name: 1000 * (after[name] - before[name]) / count for name in KINDS}
        return Heap(count / seconds, spent, raw)

    def _await_settled(self, prefix: str, count: int) -> None:
        # Looking reads all of the table: seldom, or it is the looking that is measured.
        self._await(
            lambda: self.settled(prefix) >= count,
            "matched",
            look_seconds=0.25,
            patience_seconds=max(_PATIENCE_SECONDS, count),
        )

    def _processor_seconds(self) -> dict[str, float]:
        """Of each worker so far; the time of its threads that have ended counts."""
        found = {}
        for name in KINDS:
            stat = pathlib.Path(f"/proc/{self.workers[name]}/stat").read_text(encoding="utf-8")
            user, system = stat.rpartition(")")[2].split()[11:13]
            found[name] = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        return found

    def settled(self, prefix: str) -> int:
        """How many photos of properties with this prefix are matched, or can never be."""
        with self._base.transaction() as connection:
            row = connection.execute(
                "SELECT count(*) AS settled FROM photo WHERE starts_with(property_id, %s)"
                " AND (status = 'failed' OR (status = 'embedded' AND matched_at IS NOT NULL))",
                (prefix,),
            ).fetchone()
        return int(row["settled"]) if row else 0

    def _flags(self, property_id: str) -> list[database.Row]:
        with self._base.transaction() as connection:
            return matching.flags(connection, property_id)

    def _await(
        self,
        condition: Callable[[], bool],
        what: str,
        look_seconds: float = 0.02,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        deadline = time.monotonic() + patience_seconds
        while not condition():
            self._stack.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"not {what} within {patience_seconds:.0f} s")
            time.sleep(look_seconds)


@contextlib.contextmanager
def held(processes: Collection[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Let processes stand still."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def embedded_stack(
    environment: dict[str, str], pictures_: Sequence[bytes], put: Put | None = None
) -> Iterator[Portal]:
    """A portal over an embedded stack of its own, which has seen some photos; by default over the stack's store."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="dedup-benchmark-"))
    folder.chmod(0o755)
    try:
        with embedded.Stack(folder, environment) as stack:
            base = database.Database(stack.environment["DEDUP_DATABASE_URL"])
            s3 = stack.s3()

            def put_there(key: str, data: bytes) -> None:
                s3.put_object(Bucket=_BUCKET, Key=key, Body=data)

            with contextlib.closing(base):
                made = Portal(stack, base, pictures_, put or put_there)
                made.heap(_PROPERTY_PHOTOS)
                yield made
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def apart(environment: dict[str, str], pictures_: Sequence[bytes], broker: str) -> Iterator[Portal]:
    """As `embedded_stack`, with tasks and events on this broker and photos in a store that only hands them out."""
    with (
        object_store.ObjectStore() as store,
        kombu.Connection(broker) as connection,
        connection.Producer(serializer="json") as producer,
    ):

        def put(key: str, data: bytes) -> None:
            etag = store.put(_BUCKET, key, data)
            now = datetime.datetime.now(datetime.UTC)
            # The record does not say the property: ingest reads it from the key.
            event = events.Event(
                events.Kind.CREATED, _BUCKET, key, "", etag, len(data), f"{time.time_ns():X}", now
            )
            producer.publish({"Records": [events.record(event)]}, exchange=_EVENTS, routing_key=_EVENTS)

        own = {
            "DEDUP_BROKER_URL": broker,
            "DEDUP_EVENT_BROKER_URL": broker,
            "DEDUP_EVENT_QUEUE": _EVENTS,
            "DEDUP_S3_ENDPOINT_URL": store.url,
        }
        config = settings.Settings(event_broker_url=broker, event_queue=_EVENTS)
        # Before the first photo: ingest, which does it, too, may come up later.
        event_queue.declare(config, connection.default_channel)
        with embedded_stack(environment | own, pictures_, put) as made:
            yield made
