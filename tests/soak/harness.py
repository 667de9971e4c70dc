"""One soak: a stack of real processes under traffic and faults, and then the oracle's word on its tables."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import kombu
import kombu.exceptions
import psycopg

from tests.acceptance import system as acceptance
from tests.soak import chaos, contents, oracle, post, rabbitmq, tables, traffic
from workers import embedded

BROKERS = ("pgmq", "rabbitmq")
BUCKET = "soak"
EVENTS = "dedup-events"

_PROPERTIES = 300
_MORE = ("embed-2", "match-2", "ingest-2")
_BACKLOG = 250
"""Photos that wait at most before the portal pauses: what is to be tested is not how long a queue can get."""

_PAUSE_SECONDS = 0.1
_PATIENCE_SECONDS = 120.0
_DRAIN_SECONDS = 900.0
_SETTINGS = {
    "DEDUP_BUCKETS": BUCKET,
    "DEDUP_SWEEP_AFTER_SECONDS": "20",
    # Two embed workers share what processors there are.
    "OMP_NUM_THREADS": "1",
}
# Without the property's lock, what one match worker has written and not committed is not seen by another; a commit that
# lingers makes that likely.
_LINGER = """
CREATE FUNCTION soak_linger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF random() < 0.3 THEN
        PERFORM pg_sleep(0.4 * random());
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER soak_linger AFTER UPDATE OF matched_at ON photo DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (NEW.matched_at IS NOT NULL) EXECUTE FUNCTION soak_linger();
"""
# Beside the tables and not in them: every attempt at a photo leaves a row here.
_COUNT_ATTEMPTS = """
CREATE TABLE soak_attempt (photo_id bigint NOT NULL, revision integer NOT NULL);
CREATE FUNCTION soak_count_attempt() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public AS $$
BEGIN
    INSERT INTO soak_attempt VALUES (NEW.id, NEW.revision);
    RETURN NULL;
END
$$;
CREATE TRIGGER soak_count_attempt AFTER UPDATE OF attempts ON photo FOR EACH ROW
WHEN (NEW.attempts = OLD.attempts + 1) EXECUTE FUNCTION soak_count_attempt();
"""

Answer = TypeVar("Answer")


@dataclasses.dataclass(frozen=True)
class Broker:
    """Where tasks and events go. `waiting` counts the messages there, those in hand included; `faults` are those of a
    broker that is not the database.
    """

    send: Callable[[str], None]
    waiting: Callable[[], int]
    faults: Mapping[str, Callable[[], None]]


@dataclasses.dataclass(frozen=True)
class Result:
    """What a soak came to. `rerun` counts attempts at a photo's content beyond the first one."""

    broker: str
    seed: int
    minutes: float
    photos: int
    properties: int
    counts: post.Counts
    faults: Mapping[str, int]
    attempts: int
    rerun: int
    drain_seconds: float
    differences: list[str]


def run(broker_name: str, seed: int, minutes: float, say: Callable[[str], None]) -> Result:
    """Soak a new stack on one broker; `say` gets a line about how it goes from time to time."""
    rng = random.Random(seed)
    say("drawing and scoring the pictures")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="dedup-soak-", dir="/tmp"))
    folder.chmod(0o755)
    good, truth = contents.draw(folder / "bundle")
    say(f"{len(good)} good pictures")
    with contextlib.ExitStack() as open_parts:
        node = None
        if broker_name == "rabbitmq":
            node = open_parts.enter_context(rabbitmq.Node(folder / "rabbitmq"))
        own = {"DEDUP_BROKER_URL": node.url, "DEDUP_EVENT_BROKER_URL": node.url} if node else {}
        environment = {
            **acceptance.stack_environment(),
            **_SETTINGS,
            "DEDUP_BUNDLE": str(folder / "bundle"),
            **own,
        }
        stack = open_parts.enter_context(embedded.Stack(folder, environment))
        system = PatientSystem(stack)
        broker = _rabbitmq(node) if node else _pgmq(system)
        system.s3.create_bucket(Bucket=BUCKET)
        with psycopg.connect(stack.postgres.url(), autocommit=True) as connection:
            connection.execute(_COUNT_ATTEMPTS)
            connection.execute(_LINGER)
        for name in _MORE:
            stack.start_worker(name, name.partition("-")[0])
        acceptance.until(lambda: "ingest_ready" in _log(stack, "ingest"), "ingest runs")
        if node:
            # As in an installation: queues are declared once, and nobody kills the node in that moment.
            queues = (*rabbitmq.TASK_QUEUES, EVENTS)
            acceptance.until(lambda: node.remembers(queues), "the queues are there", _PATIENCE_SECONDS)
        result = _soak(broker_name, seed, minutes, rng, system, broker, good, truth, say)
    if result.differences:
        say(f"the logs and the tables are kept in {folder}")
    else:
        shutil.rmtree(folder)
    return result


class PatientSystem(acceptance.System):
    """A system whose database may be away at any moment: every question waits until it is answered."""

    def ask(self, statement: str, **parameters: object) -> list[acceptance.Row]:
        """As the parent's; asked again after an outage, so it must be one that may be asked twice."""
        return _patiently(functools.partial(super().ask, statement, **parameters), psycopg.OperationalError)


def _soak(
    broker_name: str,
    seed: int,
    minutes: float,
    rng: random.Random,
    system: PatientSystem,
    broker: Broker,
    good: list[contents.Content],
    truth: contents.Truth,
    say: Callable[[str], None],
) -> Result:
    store = system.stack.store._pid()
    counts = post.Counts()
    events = post.Post(broker.send, random.Random(rng.random()), counts)
    portal = traffic.Portal(
        system,
        BUCKET,
        good,
        max(_PROPERTIES, int(minutes * 100)),
        random.Random(rng.random()),
        events,
        counts,
    )
    end = time.monotonic() + 60 * minutes
    next_word = time.monotonic() + 20
    with chaos.Chaos(system.stack, random.Random(rng.random()), broker.faults) as faults:
        while (now := time.monotonic()) < end:
            if _pending(system) < _BACKLOG:
                for _ in range(rng.randint(1, 4)):
                    portal.act(now)
            portal.finish(now)
            events.deliver(time.monotonic())
            if faults.error:
                raise AssertionError(f"the faults ended:\n{faults.error}")
            if now >= next_word:
                next_word = now + 20
                say(
                    f"{end - now:.0f} s to go: {portal.photos()} photos, {counts.events} events, "
                    f"{sum(faults.injected.values())} faults, {_pending(system)} photos wait"
                )
            time.sleep(_PAUSE_SECONDS)
    say("no more faults; waiting until all is worked off")
    drained = time.monotonic()
    stuck = _drain(system, broker, portal, events)
    drain_seconds = time.monotonic() - drained
    say("comparing")
    found = tables.read(system)
    differences = [
        *stuck,
        *tables.strange(system, counts, store),
        *tables.misplaced(system, BUCKET, portal.operations),
        *oracle.differences(portal.operations, truth, found),
    ]
    (attempts,) = system.ask(
        "SELECT count(*) AS all, count(DISTINCT (photo_id, revision)) AS first FROM soak_attempt"
    )
    return Result(
        broker=broker_name,
        seed=seed,
        minutes=minutes,
        photos=portal.photos(),
        properties=portal.properties(),
        counts=counts,
        faults=dict(sorted(faults.injected.items())),
        attempts=attempts["all"],
        rerun=attempts["all"] - attempts["first"],
        drain_seconds=drain_seconds,
        differences=differences,
    )


def _pending(system: PatientSystem) -> int:
    (row,) = system.ask("SELECT count(*) AS count FROM photo WHERE status = 'pending'")
    return int(row["count"])


def _drain(system: PatientSystem, broker: Broker, portal: traffic.Portal, events: post.Post) -> list[str]:
    """Wait until nothing is left to do; what is left after a long time is a difference."""
    deadline = time.monotonic() + _DRAIN_SECONDS
    while True:
        portal.finish(time.monotonic())
        events.deliver(time.monotonic())
        system.stack.check()
        left = {
            "events unsent": len(events) + portal.busy(),
            "messages in the broker": broker.waiting(),
            "photos to embed or to match": len(_unfinished(system)),
            "verdicts to apply": len(system.ask("SELECT FROM verdict WHERE applied_at IS NULL")),
        }
        if not any(left.values()):
            return []
        if time.monotonic() > deadline:
            return [f"after {_DRAIN_SECONDS:.0f} s: {name}: {count}" for name, count in left.items() if count]
        time.sleep(_PAUSE_SECONDS)


def _unfinished(system: PatientSystem) -> list[acceptance.Row]:
    return system.ask(
        "SELECT key FROM photo WHERE status = 'pending' OR (status = 'embedded' AND matched_at IS NULL)"
    )


def _log(stack: embedded.Stack, worker: str) -> str:
    path = stack.log_file(worker)
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _pgmq(system: PatientSystem) -> Broker:
    def waiting() -> int:
        tasks = sum(
            row["queue_length"]
            for name in ("embed", "embed_bulk", "match", "match_bulk")
            for row in system.ask(
                "SELECT (pgmq.metrics(queue_name)).queue_length FROM pgmq.list_queues() "
                "WHERE queue_name = %(name)s",
                name=name,
            )
        )
        return int(tasks) + system._events_waiting()

    return Broker(system.send, waiting, {})


def _rabbitmq(node: rabbitmq.Node) -> Broker:
    connection = _connect(node)

    def publish(body: str) -> None:
        nonlocal connection
        try:
            with connection.Producer() as producer:
                producer.publish(
                    body, exchange=EVENTS, routing_key=EVENTS, content_type="application/json", retry=False
                )
        except away:
            connection.release()
            connection = _connect(node)
            raise

    away = (*connection.connection_errors, *connection.channel_errors, kombu.exceptions.OperationalError)

    def restart() -> None:
        node.kill()
        node.start()

    return Broker(
        send=lambda body: _patiently(functools.partial(publish, body), *away),
        waiting=node.messages,
        faults={"broker killed": restart, "broker connections cut": node.cut},
    )


def _connect(node: rabbitmq.Node) -> kombu.Connection:
    return kombu.Connection(node.url, transport_options={"confirm_publish": True})


def _patiently(ask: Callable[[], Answer], *away: type[BaseException] | Any) -> Answer:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return ask()
        except away:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_SECONDS)
