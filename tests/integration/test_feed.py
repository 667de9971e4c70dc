"""The flag feed: nothing missed, whatever commits when, and a replay gives the flags."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import rows as row_factories

from core import database, events, matching
from tests.integration.conftest import Server
from tests.integration.ledger import (
    BUNDLES,
    activate_model,
    add,
    apply,
    embed,
    event,
    match,
    new_property,
    rows,
    vector,
)

DATABASE = "test_feed"
NEXT = "SELECT * FROM listing_flag_feed WHERE position > %s ORDER BY position LIMIT %s"

Flags = dict[tuple[str, int], tuple[int, float, str]]


@pytest.fixture(scope="module", autouse=True)
def _model(base: database.Database) -> None:
    activate_model(base)


class Reader:
    """A listing system that follows the feed and remembers nothing but its last position and the flags."""

    def __init__(self, url: str, position: str = "") -> None:
        self.position = position
        self.flags: Flags = {}
        self.seen: list[str] = []
        self._connection = psycopg.connect(url, autocommit=True, row_factory=row_factories.dict_row)

    def read(self, limit: int = 1000) -> list[dict[str, Any]]:
        found = self._connection.execute(NEXT, (self.position, limit)).fetchall()
        for change in found:
            self.seen.append(change["position"])
            photo = (change["property_id"], change["photo_id"])
            if change["duplicate_of_key"] is None:
                self.flags.pop(photo, None)
            else:
                self.flags[photo] = (change["duplicate_of_id"], change["score"], change["decided_by"])
        if found:
            self.position = found[-1]["position"]
        return found

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def reader(base: database.Database, server: Server) -> Iterator[Reader]:
    """One that has read all that there is."""
    del base
    found = Reader(server.url(DATABASE, "dedup_reader"))
    found.read(100_000)
    yield found
    found.close()


def table(base: database.Database) -> Flags:
    return {
        (flag["property_id"], flag["photo_id"]): (flag["duplicate_of"], flag["score"], flag["decided_by"])
        for flag in rows(base, "SELECT * FROM duplicate_flag")
    }


def names(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(change["property_id"], change["key"].rpartition("/")[2]) for change in found]


def test_a_change_that_commits_late_is_not_missed(base: database.Database, reader: Reader) -> None:
    early, late = new_property(), new_property()
    for property_id in (early, late):
        add(base, property_id, "a", 1, at=1)
    photos = {p: apply(base, event(p, "b", at=2)).photo for p in (early, late)}
    for photo in photos.values():
        assert embed(base, photo, vector(1))
    with base.transaction() as first:
        # Writes its change first and commits it last.
        matching.match(first, late, photos[late].photo_id, BUNDLES, 50)
        match(base, photos[early])
        assert (early, photos[early].photo_id) in table(base)
        assert reader.read() == [], "what it showed now, it would have to put something before later"
    assert names(reader.read()) == [(late, "b"), (early, "b")]
    assert reader.read() == []
    assert reader.flags == table(base)


def test_a_change_that_is_rolled_back_is_never_shown(base: database.Database, reader: Reader) -> None:
    property_id = new_property()
    add(base, property_id, "a", 1, at=1)
    photo = apply(base, event(property_id, "b", at=2)).photo
    assert embed(base, photo, vector(1))
    with base.transaction() as connection:
        matching.match(connection, property_id, photo.photo_id, BUNDLES, 50)
        connection.rollback()
    assert reader.read() == []
    match(base, photo)
    assert names(reader.read()) == [(property_id, "b")]


def test_transactions_that_only_read_hold_nothing_back(
    base: database.Database, server: Server, reader: Reader
) -> None:
    property_id = new_property()
    with psycopg.connect(server.url(DATABASE)) as report:
        report.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        report.execute("SELECT count(*) FROM photo")
        for at, name in enumerate(("a", "b")):
            add(base, property_id, name, 1, at=at)
        assert names(reader.read()) == [(property_id, "b")]


def test_positions_sort_as_text_in_the_order_of_the_changes(base: database.Database) -> None:
    numbers = [0, 1, 9, 10, 99, 100, 2**31, 2**32 + 1, 2**63 - 1]
    ordered = [(transaction, number) for transaction in [*numbers, 2**64 - 1] for number in numbers]
    found = rows(
        base,
        "SELECT t, i FROM unnest(%s::text[], %s::bigint[]) AS change (t, i) ORDER BY feed_position(t::xid8, i)",
        [str(transaction) for transaction, _ in reversed(ordered)],
        [number for _, number in reversed(ordered)],
    )
    assert [(int(change["t"]), change["i"]) for change in found] == ordered


def test_reading_on_is_a_walk_along_the_index(base: database.Database) -> None:
    with base.transaction() as connection:
        connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
        plan = connection.execute(
            b"EXPLAIN SELECT * FROM listing_flag_feed WHERE position > '0' ORDER BY position LIMIT 10"
        ).fetchall()
    text = "\n".join(line["QUERY PLAN"] for line in plan)
    assert "flag_change_feed_position" in text
    assert "Index Cond" in text
    assert "Sort" not in text


def test_a_transaction_notifies_once_and_only_of_changes(base: database.Database, server: Server) -> None:
    property_id = new_property()
    photos = [add(base, property_id, name, 1, at=at) for at, name in enumerate(("a", "b", "c"))]
    with psycopg.connect(server.url(DATABASE, "dedup_reader"), autocommit=True) as listener:
        listener.execute("LISTEN listing_flag_feed")
        # Two changes: c loses its flag to a and gets one to b, b loses its own.
        apply(base, event(property_id, "a", at=9, kind=events.Kind.REMOVED))
        match(base, photos[1])
        with psycopg.connect(server.url(DATABASE), autocommit=True) as owner:
            # What comes before this one has come.
            owner.execute("NOTIFY listing_flag_feed, 'end'")
        heard = []
        for notice in listener.notifies(timeout=30):
            heard.append(notice.payload)
            if notice.payload == "end":
                break
    assert heard == ["", "end"]
    changes = rows(base, "SELECT transaction_id FROM flag_change WHERE property_id = %s", property_id)
    assert len(changes) == 4


def test_a_reader_among_many_writers_misses_nothing_and_sees_nothing_twice(
    base: database.Database, server: Server
) -> None:
    done = threading.Event()
    reader = Reader(server.url(DATABASE, "dedup_reader"))

    def write(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(6):
            property_id = new_property()
            for at, angle in enumerate(rng.uniform(0, 1.2, 5)):
                add(base, property_id, f"{at}", np.cos(angle), np.sin(angle), at=at)
            for name in rng.choice(5, 2, replace=False):
                apply(base, event(property_id, f"{name}", at=9, kind=events.Kind.REMOVED))

    def dawdle() -> None:
        # Others' transactions, which take their number early and end late.
        with psycopg.connect(server.url(DATABASE)) as connection:
            while not done.is_set():
                connection.execute("SELECT pg_current_xact_id()")
                done.wait(0.02)
                connection.commit()

    def follow() -> None:
        while not done.is_set():
            reader.read(3)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        others = [pool.submit(follow), pool.submit(dawdle)]
        try:
            writers = [pool.submit(write, seed) for seed in range(4)]
            for writer in writers:
                writer.result(120)
        finally:
            done.set()
        for other in others:
            other.result(30)
    during = len(reader.seen)
    while reader.read():
        pass
    assert during > 0
    assert reader.seen == sorted(set(reader.seen))
    again = Reader(server.url(DATABASE, "dedup_reader"))
    again.read(1_000_000)
    assert again.seen == reader.seen
    assert len(again.seen) == len(rows(base, "SELECT 1 FROM flag_change"))
    assert again.flags == reader.flags == table(base)
    assert table(base)
    reader.close()
    again.close()
