"""Verdicts on their way: waiting for the sweep to be woken, and staying while photos come, go and are replaced."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from core import database, events, notifications, verdicts
from tests.integration.conftest import Server
from tests.integration.ledger import (
    activate_model,
    add,
    apply,
    embed,
    event,
    flags,
    match,
    new_property,
    vector,
)
from workers import regrouping

DATABASE = "test_verdict_waiting"
RECORD = "SELECT record_verdict(%s, %s, %s, %s, %s)"

Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture(scope="module", autouse=True)
def _model(base: database.Database) -> None:
    activate_model(base)


@pytest.fixture
def property_id() -> str:
    return new_property()


@pytest.fixture
def editor(base: database.Database, server: Server) -> Iterator[Connection]:
    """The listing system's login for verdicts."""
    del base
    with psycopg.connect(server.url(DATABASE, "dedup_editor"), autocommit=True) as connection:
        yield connection


def key(property_id: str, name: str) -> str:
    return event(property_id, name).key


def say(editor: Connection, property_id: str, a: str, b: str, duplicate: bool, by: str = "ann") -> None:
    editor.execute(RECORD, (property_id, key(property_id, a), key(property_id, b), duplicate, by))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


@contextlib.contextmanager
def attending(base: database.Database, url: str) -> Iterator[None]:
    """What the sweep does between two sweeps, in a thread; without a notification it applies nothing."""
    ended = threading.Event()

    def run() -> None:
        with notifications.Listener(url, verdicts.CHANNEL) as listener:
            while not ended.is_set():
                regrouping.attend(base, listener, 0.5)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(60)
        assert not thread.is_alive()


def listeners(server: Server) -> int:
    statement = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' AND datname = %s"
    with psycopg.connect(server.url(DATABASE)) as watcher:
        found = watcher.execute(statement, [DATABASE]).fetchone()
    assert found is not None
    return int(found[0])


def test_the_sweep_is_woken_by_a_verdict(
    base: database.Database, server: Server, editor: Connection, property_id: str
) -> None:
    add(base, property_id, "a", 1, at=1)
    add(base, property_id, "b", 1, at=2)
    with attending(base, server.url(DATABASE, "dedup_worker")):
        until(lambda: listeners(server) == 1)
        say(editor, property_id, "a", "b", False)
        until(lambda: flags(base, property_id) == {})


def test_a_listener_tells_notifications_from_time_and_survives_an_outage(
    server: Server, base: database.Database, editor: Connection, property_id: str
) -> None:
    for name in ("a", "b"):
        apply(base, event(property_id, name))
    with notifications.Listener(server.url(DATABASE, "dedup_worker"), verdicts.CHANNEL) as listener:
        assert listener.wait(10), "what came before the connection was missed"
        assert not listener.wait(0.01)
        say(editor, property_id, "a", "b", True)
        assert listener.wait(10)
        with psycopg.connect(server.url(DATABASE), autocommit=True) as owner:
            owner.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE query LIKE 'LISTEN%%' AND datname = %s",
                [DATABASE],
            )
        assert not listener.wait(0.01)
        assert listener.wait(10)
    with notifications.Listener("postgresql://nobody@127.0.0.1:1/nothing", "c") as listener:
        assert not listener.wait(0.01)
    regrouping.apply_waiting(base)


def test_a_removed_photo_that_comes_back_keeps_its_verdicts(
    base: database.Database, editor: Connection, property_id: str
) -> None:
    add(base, property_id, "a", 1, at=1)
    add(base, property_id, "b", 1, at=2)
    say(editor, property_id, "a", "b", False)
    regrouping.apply_waiting(base)
    apply(base, event(property_id, "b", at=5, kind=events.Kind.REMOVED))
    back = apply(base, event(property_id, "b", at=6)).photo
    assert embed(base, back, vector(1))
    match(base, back)
    assert flags(base, property_id) == {}


def test_a_verdict_on_a_new_picture_before_it_is_embedded_stays(
    base: database.Database, editor: Connection, property_id: str
) -> None:
    add(base, property_id, "a", 1, at=1)
    add(base, property_id, "b", 0, 1, at=2)
    new = apply(base, event(property_id, "b", at=5, etag="e2")).photo
    say(editor, property_id, "a", "b", True)
    assert embed(base, new, vector(0, 1), etag="e2", sha256="new")
    match(base, new)
    assert flags(base, property_id) == {"b": "a"}


def test_a_verdict_on_bytes_that_overtook_their_event_stays(
    base: database.Database, editor: Connection, property_id: str
) -> None:
    add(base, property_id, "a", 1, at=1)
    photo = apply(base, event(property_id, "b", at=2, etag="x")).photo
    # The worker read what was uploaded meanwhile, and people saw that, before its event came.
    assert embed(base, photo, vector(0, 1), etag="y", sha256="new")
    say(editor, property_id, "a", "b", True)
    again = apply(base, event(property_id, "b", at=3, etag="y")).photo
    assert again.revision == 2
    assert embed(base, again, vector(0, 1), etag="y", sha256="new")
    match(base, again)
    assert flags(base, property_id) == {"b": "a"}
