"""A stack whose workers reach database, broker and store through proxies only, each told what is wrong with it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.client
import json
import pathlib
import urllib.parse
from collections.abc import Iterable, Iterator

import kombu
import psycopg

from workers import embedded, embedded_postgres

from . import brokers, pictures, proxy
from . import system as acceptance

WORKERS = ("ingest", "embed", "match", "sweep")
EVENTS = "dedup-events"
SETTINGS = {
    # Short, so that a fault is noticed while it lasts.
    "DEDUP_DATABASE_TIMEOUT_SECONDS": "2",
    "DEDUP_S3_TIMEOUT_SECONDS": "2",
    "DEDUP_S3_FETCH_TIMEOUT_SECONDS": "3",
    "DEDUP_SWEEP_AFTER_SECONDS": "20",
    "DEDUP_HEALTH_PROBE_SECONDS": "0.5",
    "DEDUP_HEALTH_STUCK_SECONDS": "60",
}


def ask(url: str) -> tuple[int, acceptance.Row]:
    """Status and JSON of an answer over HTTP; OSError when there is none."""
    host, port = place(url)
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.request("GET", urllib.parse.urlsplit(url).path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@dataclasses.dataclass(frozen=True)
class World:
    """The stack, and the proxies on the ways of its workers; the tests themselves go past those."""

    system: acceptance.System
    database: proxy.Proxy
    broker: proxy.Proxy
    store: proxy.Proxy
    broker_url: str

    def upload(self, property_id: str, name: str, data: bytes) -> None:
        """Put a photo into the store, and its event into the queue."""
        etag = self.system.upload(property_id, name, data)
        self.tell("ObjectCreated:Put", property_id, name, etag)

    def tell(self, event: str, property_id: str, name: str, etag: str = "") -> None:
        """Put an event into the queue."""
        message = {
            "Records": [acceptance.record(event, acceptance.key_of(property_id, name), etag=etag)],
        }
        with kombu.Connection(self.broker_url) as connection:
            connection.Producer(serializer="json").publish(message, exchange=EVENTS, routing_key=EVENTS)

    def health(self, worker: str, path: str = "/healthz") -> list[str]:
        """What a worker says is wrong; raises OSError when it does not answer."""
        status, told = ask(urllib.parse.urljoin(self.system.stack.health_urls()[worker], path))
        assert (status, told["status"]) in {(200, "well"), (503, "unwell")}
        return list(told["reasons"])

    def says(self, worker: str, words: str) -> bool:
        """Whether a worker is unwell for this reason, and does not ask to be started anew for it."""
        assert self.health(worker, "/livez") == []
        return any(words in reason for reason in self.health(worker))

    def until_told(self, workers: Iterable[str], words: str) -> None:
        """Wait until each of them is unwell for this reason."""
        for worker in workers:
            acceptance.until(functools.partial(self.says, worker, words), f"{worker} tells: {words}")

    def until_well(self) -> None:
        """Wait until every worker says that all is well."""

        def well() -> bool:
            try:
                return not any(self.health(worker) for worker in WORKERS)
            except OSError:
                return False

        acceptance.until(well, "every worker is well")

    def until_done(self, property_id: str, names: set[str]) -> None:
        """Wait until these photos are embedded and flagged; no more and no other may be there, nor any twice.

        All of them must be of one picture.
        """
        wanted = dict.fromkeys(names, "embedded")
        acceptance.until(lambda: self.system.statuses(property_id) == wanted, f"embedded: {sorted(names)}")
        acceptance.until(
            lambda: len(self.system.flags(property_id)) == len(names) - 1, "all but one of them are flagged"
        )
        acceptance.until(lambda: not self.unmatched(property_id), "all of them are matched")
        told: dict[str, str | None] = {}
        for name, canonical in self.system.feed(property_id):
            assert told.get(name) != canonical, "each change is told once"
            told[name] = canonical
        assert {name: canonical for name, canonical in told.items() if canonical} == self.system.flags(
            property_id
        )

    def until_done_patiently(self, property_id: str, names: set[str]) -> None:
        """As `until_done`, while the database itself may be away for a moment."""

        def answers() -> bool:
            try:
                return bool(self.system.statuses(property_id))
            except psycopg.OperationalError:
                return False

        acceptance.until(answers, "the database is back")
        self.until_done(property_id, names)

    def unmatched(self, property_id: str) -> list[acceptance.Row]:
        """Photos of a property that are embedded and not matched."""
        return self.system.ask(
            "SELECT key FROM photo WHERE property_id = %(property_id)s AND matched_at IS NULL",
            property_id=property_id,
        )


def photo(number: int) -> bytes:
    """One picture, in other bytes for each number."""
    return pictures.jpeg("bedroom", 60 + number)


@contextlib.contextmanager
def world(folder: pathlib.Path, broker_url: str | None = None) -> Iterator[World]:
    """Run it, over a RabbitMQ of one's own where `broker_url` names one."""
    with contextlib.ExitStack() as running:
        if broker_url is None:
            host = running.enter_context(brokers.virtual_host())
            broker_url = f"amqp://guest:guest@{brokers.RABBITMQ[0]}:{brokers.RABBITMQ[1]}/{host}"
        folder.mkdir(exist_ok=True)
        postgres = embedded_postgres.EmbeddedPostgres(folder)
        postgres.start()
        running.callback(postgres.stop)
        database = running.enter_context(proxy.Proxy(place(postgres.url())))
        broker = running.enter_context(proxy.Proxy(place(broker_url)))
        stack = embedded.Stack(folder)
        stack.store.start()
        running.callback(stack.store.stop)
        store = running.enter_context(proxy.Proxy(place(stack.store.endpoint_url)))
        by_proxy = at(broker_url, broker.port)
        stack = embedded.Stack(
            folder,
            {
                **acceptance.stack_environment(),
                **SETTINGS,
                "DEDUP_DATABASE_URL": at(postgres.url("dedup_worker"), database.port),
                "DEDUP_BROKER_URL": by_proxy,
                "DEDUP_EVENT_BROKER_URL": by_proxy,
                "DEDUP_EVENT_QUEUE": EVENTS,
                "DEDUP_S3_ENDPOINT_URL": at(stack.store.endpoint_url, store.port),
            },
        )
        running.enter_context(stack)
        there = World(acceptance.System(stack), database, broker, store, broker_url)
        there.until_well()
        yield there


def place(url: str) -> tuple[str, int]:
    """Host and port of an address."""
    parts = urllib.parse.urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


def at(url: str, port: int) -> str:
    """The same address at another port."""
    return url.replace(f":{place(url)[1]}", f":{port}", 1)
