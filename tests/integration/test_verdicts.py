"""People's verdicts: by the listing system's own login, in every order, and never lost on the way to the flags."""

from __future__ import annotations

import concurrent.futures
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql

from core import database, errors, events, groups, verdicts
from tests.integration.conftest import Server
from tests.integration.ledger import (
    activate_model,
    add,
    apply,
    embed,
    event,
    feed,
    flags,
    match,
    new_property,
    rows,
    vector,
)
from workers import regrouping

DATABASE = "test_verdicts"
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


def waiting(base: database.Database) -> list[str]:
    with base.transaction() as connection:
        return verdicts.waiting(connection, 1000)


def blocked(server: Server) -> Callable[[], bool]:
    """Whether some session waits for a property's lock."""
    statement = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = %s"

    def ask() -> bool:
        with psycopg.connect(server.url(DATABASE)) as watcher:
            return watcher.execute(statement, [DATABASE]).fetchone() is not None

    return ask


def test_flags_follow_a_verdict_of_the_listing_system(
    base: database.Database, editor: Connection, property_id: str
) -> None:
    add(base, property_id, "a", 1, at=1)
    add(base, property_id, "b", 1, at=2)
    add(base, property_id, "c", 0, 1, at=3)
    say(editor, property_id, "b", "a", False)
    say(editor, property_id, "a", "c", True)
    assert waiting(base) == [property_id]
    assert flags(base, property_id) == {"b": "a"}
    assert regrouping.apply_waiting(base) == 1
    assert flags(base, property_id) == {"c": "a"}
    assert feed(base, property_id) == [("b", "a"), ("b", None), ("c", "a")]
    assert waiting(base) == []
    assert regrouping.apply_waiting(base) == 0
    say(editor, property_id, "a", "c", False)
    assert regrouping.apply_waiting(base) == 1, "a later verdict on the same pair waits again"
    assert flags(base, property_id) == {}


def test_every_run_obeys_until_a_later_verdict(
    base: database.Database, editor: Connection, property_id: str
) -> None:
    add(base, property_id, "a", 1, at=1)
    photo = add(base, property_id, "b", 1, at=2)
    for duplicate in (False, True, False):
        say(editor, property_id, "a", "b", duplicate)
        # Matching itself applies what waits.
        match(base, photo)
        assert flags(base, property_id) == ({"b": "a"} if duplicate else {})
        assert waiting(base) == []
        match(base, photo)
        assert flags(base, property_id) == ({"b": "a"} if duplicate else {})
    (found,) = rows(base, "SELECT * FROM verdict WHERE property_id = %s", property_id)
    assert (found["duplicate"], found["decided_by"]) == (False, "ann")


def test_who_decided_is_the_login_unless_said(
    base: database.Database, editor: Connection, property_id: str
) -> None:
    for name in ("a", "b"):
        add(base, property_id, name, 1)
    editor.execute(
        "SELECT record_verdict(property_id => %s, key_a => %s, key_b => %s, duplicate => false)",
        (property_id, key(property_id, "a"), key(property_id, "b")),
    )
    (found,) = rows(base, "SELECT decided_by FROM verdict WHERE property_id = %s", property_id)
    assert found["decided_by"] == "dedup_editor"
    regrouping.apply_waiting(base)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key_a": None}, "must not be NULL"),
        ({"property_id": None}, "must not be NULL"),
        ({"duplicate": None}, "must not be NULL"),
        ({"decided_by": "  "}, "decided_by must hold"),
        ({"decided_by": "x" * 201}, "decided_by must hold"),
        ({"key_a": "nothing"}, "no photo with the key nothing"),
        ({"property_id": "elsewhere"}, "Property elsewhere has no photo"),
        ({"key_a": "gone"}, "no photo with the key .*gone"),
        ({"key_a": "b"}, "the same photo"),
        ({"bucket_b": "other"}, "no photo with the key s3://other/"),
        ({"key_a": "both"}, "in 2 buckets"),
    ],
)
def test_wrong_input_is_refused_by_name(
    base: database.Database, editor: Connection, property_id: str, change: dict[str, Any], words: str
) -> None:
    for name in ("a", "b", "gone", "both"):
        apply(base, event(property_id, name))
    apply(base, event(property_id, "gone", at=1, kind=events.Kind.REMOVED))
    rows(
        base,
        "INSERT INTO photo (property_id, bucket, key, etag, sequencer, occurred_at, uploaded_at, status)"
        " VALUES (%s, 'other', %s, '', '', now(), now(), 'pending') RETURNING 1",
        property_id,
        key(property_id, "both"),
    )
    given = {"property_id": property_id, "key_a": "a", "key_b": "b", "duplicate": True, **change}
    for name in ("key_a", "key_b"):
        if given[name] in {"a", "b", "gone", "both"}:
            given[name] = key(property_id, given[name])
    with pytest.raises(psycopg.Error, match=words) as refused:
        editor.execute(
            sql.SQL("SELECT record_verdict({})").format(
                sql.SQL(", ").join(
                    sql.SQL("{} => {}").format(sql.Identifier(name), value) for name, value in given.items()
                )
            )
        )
    assert refused.value.diag.message_hint
    assert rows(base, "SELECT 1 FROM verdict WHERE property_id = %s", property_id) == []
    with base.transaction() as connection, pytest.raises(errors.ConfigurationError, match=words):
        verdicts.record(connection, **{"decided_by": "ann", **given})


def test_the_bucket_tells_photos_of_one_key_apart(
    base: database.Database, editor: Connection, property_id: str
) -> None:
    apply(base, event(property_id, "a"))
    place = key(property_id, "a")
    rows(
        base,
        "INSERT INTO photo (property_id, bucket, key, etag, sequencer, occurred_at, uploaded_at, status)"
        " VALUES (%s, 'other', %s, '', '', now(), now(), 'pending') RETURNING 1",
        property_id,
        place,
    )
    editor.execute(
        "SELECT record_verdict(%s, %s, %s, true, 'ann', 'photos', 'other')", (property_id, place, place)
    )
    regrouping.apply_waiting(base)
    assert flags(base, property_id) == {"a": "a"}


def test_the_editor_may_do_nothing_else(editor: Connection) -> None:
    for statement in (
        "SELECT FROM verdict",
        "SELECT FROM photo",
        "SELECT FROM listing_duplicates",
        "INSERT INTO verdict (property_id, photo_a, photo_b, duplicate, decided_by) VALUES ('p', 1, 2, true, 'x')",
        "DELETE FROM verdict",
        "CREATE TABLE photo_of_mine (id integer)",
        "CREATE TEMP TABLE verdict (id integer)",
        "SET ROLE dedup_worker",
        "ALTER FUNCTION record_verdict RESET search_path",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            editor.execute(statement.encode())


def test_the_reader_records_no_verdicts(base: database.Database, server: Server) -> None:
    del base
    with (
        psycopg.connect(server.url(DATABASE, "dedup_reader")) as reader,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        reader.execute(RECORD, ("p", "a", "b", True, "ann"))


def test_the_callers_search_path_does_not_matter(
    base: database.Database, server: Server, property_id: str
) -> None:
    for name in ("a", "b"):
        apply(base, event(property_id, name))
    with psycopg.connect(server.url(DATABASE)) as owner:
        # A login that may make tables could otherwise put its own in the function's way.
        owner.execute(
            "CREATE SCHEMA trap CREATE TABLE verdict (property_id text) CREATE TABLE photo (id text)"
        )
        owner.execute("GRANT USAGE ON SCHEMA trap TO dedup_editor")
        owner.execute("GRANT ALL ON ALL TABLES IN SCHEMA trap TO dedup_editor")
    with psycopg.connect(server.url(DATABASE, "dedup_editor")) as connection:
        connection.execute("SET search_path = trap, public")
        say(connection, property_id, "a", "b", True)
    assert len(rows(base, "SELECT 1 FROM verdict WHERE property_id = %s", property_id)) == 1
    regrouping.apply_waiting(base)


def test_matching_waits_for_an_open_verdict_and_then_obeys_it(
    base: database.Database, server: Server, property_id: str
) -> None:
    add(base, property_id, "a", 1, at=1)
    photo = apply(base, event(property_id, "b", at=2)).photo
    assert embed(base, photo, vector(1))
    with (
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        psycopg.connect(server.url(DATABASE, "dedup_editor")) as slow,
    ):
        say(slow, property_id, "a", "b", False)
        matching = pool.submit(match, base, photo)
        until(blocked(server))
        assert regrouping.apply_waiting(base) == 0, "what has not committed waits"
        slow.commit()
        matching.result(30)
    assert flags(base, property_id) == {}
    assert waiting(base) == []


def test_a_verdict_waits_for_an_open_match(base: database.Database, server: Server, property_id: str) -> None:
    add(base, property_id, "a", 1, at=1)
    add(base, property_id, "b", 1, at=2)
    with (
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        psycopg.connect(server.url(DATABASE, "dedup_editor"), autocommit=True) as connection,
    ):
        with base.transaction() as open_match:
            verdicts.apply(open_match, property_id)
            recording = pool.submit(say, connection, property_id, "a", "b", False)
            until(blocked(server))
        recording.result(30)
    assert waiting(base) == [property_id], "the regrouping that did not see it has not marked it"
    regrouping.apply_waiting(base)
    assert flags(base, property_id) == {}


def test_a_stale_snapshot_is_an_error_and_no_verdict_on_another_picture(
    base: database.Database, server: Server, property_id: str
) -> None:
    for name in ("a", "b"):
        add(base, property_id, name, 1)
    with psycopg.connect(server.url(DATABASE, "dedup_editor")) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT 1")
        apply(base, event(property_id, "b", at=5, etag="e2"))
        with pytest.raises(psycopg.errors.SerializationFailure):
            say(connection, property_id, "a", "b", True)
    assert rows(base, "SELECT 1 FROM verdict WHERE property_id = %s", property_id) == []


def test_verdicts_and_matches_at_once_end_as_the_last_verdicts_say(
    base: database.Database, server: Server, property_id: str
) -> None:
    names = ["a", "b", "c", "d"]
    photos = {name: add(base, property_id, name, 1, at=at) for at, name in enumerate(names)}
    last: dict[tuple[str, str], bool] = {}
    recorded = threading.Lock()

    def decide(seed: int) -> None:
        rng = np.random.default_rng(seed)
        with psycopg.connect(server.url(DATABASE, "dedup_editor")) as connection:
            for _ in range(15):
                a, b = sorted(rng.choice(names, 2, replace=False).tolist())
                duplicate = bool(rng.integers(2))
                say(connection, property_id, a, b, duplicate)
                # The property's lock is held until the commit: this is the order of the verdicts.
                with recorded:
                    last[a, b] = duplicate
                connection.commit()

    def rematch(seed: int) -> None:
        for name in np.random.default_rng(seed).choice(names, 15):
            match(base, photos[name])
            regrouping.apply_waiting(base)

    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        work = [pool.submit(decide, seed) for seed in range(3)]
        work += [pool.submit(rematch, seed) for seed in range(2)]
        for one in work:
            one.result(60)
    regrouping.apply_waiting(base)
    order = [photos[name].photo_id for name in names]
    scores = dict.fromkeys(itertools.combinations(order, 2), 1.0)
    said = {(photos[a].photo_id, photos[b].photo_id): duplicate for (a, b), duplicate in last.items()}
    assert len(said) >= 5
    name_of = {photo.photo_id: name for name, photo in photos.items()}
    wanted = groups.flags(order, scores, said)
    assert flags(base, property_id) == {
        name_of[flag.photo_id]: name_of[flag.duplicate_of] for flag in wanted.values()
    }
    assert waiting(base) == []
