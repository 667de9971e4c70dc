"""Two models beside each other, and the change from one to the other, on the real tables."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import random
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql

from core import database, errors, events, groups, matching, model_changes, model_comparison, models, photos
from tests.integration import ledger
from tests.integration.conftest import Server
from workers import switching

OLD, NEW = ledger.Bundle.id, "fedcba9876543210"


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[database.Database]:
    with server.database("test_model_changes"):
        pool = database.Database(server.url("test_model_changes", "dedup_worker"), pool_size=8)
        yield pool
        pool.close()


@pytest.fixture
def base(shared: database.Database) -> database.Database:
    """The module's database, empty but for an active model and a candidate of other thresholds."""
    with shared.transaction() as connection:
        for table in ("duplicate_flag", "pair", "photo_embedding", "property_model", "photo", "model"):
            connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
    ledger.activate_model(shared)
    with shared.transaction() as connection:
        connection.execute(
            "INSERT INTO model (id, digest, name, dims, duplicate_threshold, review_threshold, untrained, card)"
            " VALUES (%s, 'n', 'sharper', 8, 0.7, 0.3, false, '{}')",
            (NEW,),
        )
    return shared


@pytest.fixture
def place() -> str:
    return ledger.new_property()


def store(
    base: database.Database,
    photo: photos.Revision,
    *,
    old: Sequence[float] | None = None,
    new: Sequence[float] | None = None,
    etag: str = "e1",
    sha256: str = "s",
) -> photos.Stored:
    """Store embeddings by either model, or both."""
    with base.transaction() as connection:
        embeddings = {id: ledger.vector(*values) for id, values in ((OLD, old), (NEW, new)) if values}
        found = photos.Embedded(embeddings, etag=etag, width=4, height=3, bytes=100, sha256=sha256)
        return photos.store(connection, photo, found)


def add(
    base: database.Database,
    place: str,
    name: str,
    at: float,
    old: Sequence[float] | None = None,
    new: Sequence[float] | None = None,
) -> photos.Revision:
    photo = ledger.apply(base, ledger.event(place, name, at=at)).photo
    assert store(base, photo, old=old, new=new).kept
    ledger.match(base, photo)
    return photo


def model(base: database.Database, model_id: str) -> models.Model:
    with base.transaction() as connection:
        return models.find(connection, model_id)


def activate(base: database.Database, model_id: str) -> None:
    with base.transaction() as connection:
        model_changes.activate(connection, model(base, model_id))


def retire(base: database.Database, model_id: str) -> None:
    with base.transaction() as connection:
        model_changes.retire(connection, model(base, model_id))


def shown(base: database.Database, place: str) -> str | None:
    found = ledger.rows(base, "SELECT model_id FROM property_model WHERE property_id = %s", place)
    return found[0]["model_id"] if found else None


def switch(base: database.Database) -> int:
    return sum(switched for _, switched in switching.Switcher(base).round())


def of_flags(base: database.Database, place: str) -> set[str]:
    return {
        row["model_id"]
        for row in ledger.rows(base, "SELECT model_id FROM duplicate_flag WHERE property_id = %s", place)
    }


def test_each_model_is_matched_among_its_own_embeddings(base: database.Database, place: str) -> None:
    add(base, place, "a", 0, old=(1,), new=(1,))
    # Alike by the new model alone; and what one has is near what the other has.
    add(base, place, "b", 1, old=(0, 1), new=(1, 0.1))
    add(base, place, "c", 2, old=(0, 0, 1))
    pairs = ledger.rows(base, "SELECT model_id, photo_a, photo_b FROM pair WHERE property_id = %s", place)
    assert [row["model_id"] for row in pairs] == [NEW]
    assert ledger.flags(base, place) == {}, "the candidate decides nothing"
    assert shown(base, place) == OLD


def test_a_photo_says_which_models_it_lacks(base: database.Database, place: str) -> None:
    photo = ledger.apply(base, ledger.event(place, "a")).photo

    def begin(known: Sequence[str], unfit: Sequence[str] = (), again: str | None = None) -> photos.Attempt:
        with base.transaction() as connection:
            found = photos.begin_attempt(connection, photo, known=known, unfit=unfit, again=again)
        assert found is not None
        return found

    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    first = begin([OLD])
    assert (first.lacking, first.active) == ((OLD, NEW), OLD)
    assert ledger.row(base, photo)["attempts"] == 0, "not begun before all are known"
    assert begin([OLD], unfit=[NEW]).lacking == (OLD,)
    assert ledger.row(base, photo)["attempts"] == 1
    assert store(base, photo, old=(1,)) == photos.Stored(True, (NEW,))
    assert begin([OLD], unfit=[NEW]).embedded
    assert begin([OLD, NEW]).lacking == (NEW,)
    assert begin([OLD, NEW], again=later.isoformat()).lacking == (OLD, NEW)
    assert store(base, photo, new=(1,)) == photos.Stored(True, ())
    assert begin([OLD, NEW]).embedded


def test_a_further_embedding_is_to_be_matched_too(base: database.Database, place: str) -> None:
    photo = add(base, place, "a", 0, old=(1,))
    assert ledger.row(base, photo)["matched_at"] is not None
    store(base, photo, new=(1,))
    assert ledger.row(base, photo)["matched_at"] is None
    ledger.match(base, photo)
    assert ledger.row(base, photo)["matched_at"] is not None


def test_an_embedding_that_comes_while_the_photo_is_matched_is_not_taken_for_matched(
    base: database.Database, server: Server, place: str
) -> None:
    photo = ledger.apply(base, ledger.event(place, "a")).photo
    store(base, photo, old=(1,))
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with (
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        psycopg.connect(server.url("test_model_changes"), autocommit=True) as watcher,
    ):
        storing: list[concurrent.futures.Future[photos.Stored]] = []

        class Meanwhile(ledger.Bundles):
            """The further embedding comes after matching has read which there are."""

            def get(self, connection: database.Connection, model_id: str) -> ledger.Bundle:
                storing.append(pool.submit(store, base, photo, new=(1,)))
                while not storing[0].done() and watcher.execute(waiting).fetchone() is None:
                    pass
                return super().get(connection, model_id)

        with base.transaction() as connection:
            matching.match(connection, place, photo.photo_id, Meanwhile(), 50)
        assert storing[0].result(30).kept
    assert ledger.row(base, photo)["matched_at"] is None


def test_activation_is_refused_while_photos_lack_the_model(base: database.Database, place: str) -> None:
    photo = add(base, place, "a", 0, old=(1,))
    ledger.apply(base, ledger.event(place, "pending"))
    with pytest.raises(errors.ConfigurationError, match=f"1 photos lack .*dedup backfill --model {NEW}"):
        activate(base, NEW)
    assert model(base, OLD).status == "active"
    store(base, photo, new=(1,))
    activate(base, NEW)
    assert (model(base, OLD).status, model(base, NEW).status) == ("candidate", "active")


def test_a_property_switches_as_a_whole_when_all_its_photos_are_matched(
    base: database.Database, place: str
) -> None:
    add(base, place, "a", 0, old=(1,), new=(1,))
    add(base, place, "b", 1, old=(1, 0.1), new=(0, 1))
    late = add(base, place, "c", 2, old=(0, 0, 1), new=(1, 0.8))
    assert ledger.flags(base, place) == {"b": "a"}
    # Embedded anew, and not matched yet.
    store(base, late, new=(1, 0.8))
    activate(base, NEW)
    assert switch(base) == 0
    assert (shown(base, place), ledger.flags(base, place), of_flags(base, place)) == (OLD, {"b": "a"}, {OLD})
    ledger.match(base, late)
    assert (shown(base, place), ledger.flags(base, place), of_flags(base, place)) == (NEW, {"c": "a"}, {NEW})
    assert ledger.feed(base, place) == [("b", "a"), ("b", None), ("c", "a")]
    assert switch(base) == 0


def test_a_photo_without_the_new_embedding_keeps_its_property(base: database.Database, place: str) -> None:
    add(base, place, "a", 0, old=(1,), new=(1,))
    activate(base, NEW)
    # Its worker began before the candidate was put on record, and was lost between its two stores.
    late = add(base, place, "b", 1, old=(1,))
    assert switch(base) == 0
    assert (shown(base, place), ledger.flags(base, place)) == (OLD, {"b": "a"})
    store(base, late, new=(1,))
    ledger.match(base, late)
    assert (shown(base, place), of_flags(base, place)) == (NEW, {NEW})


def test_a_new_property_shows_the_active_model(base: database.Database, place: str) -> None:
    activate(base, NEW)
    add(base, place, "a", 0, old=(1,), new=(1,))
    assert shown(base, place) == NEW


def test_the_review_view_follows_the_property(base: database.Database, place: str) -> None:
    add(base, place, "a", 0, old=(1,), new=(1,))
    add(base, place, "b", 1, old=(0.8, 0.6), new=(0.5, 0.8))

    def review() -> list[float]:
        found = ledger.rows(base, "SELECT score FROM listing_review WHERE property_id = %s", place)
        return [round(row["score"], 1) for row in found]

    assert review() == [0.8]
    activate(base, NEW)
    assert review() == [0.8], "the model is active, the property has not switched"
    assert switch(base) == 1
    assert review() == [0.5]


def test_going_back_gives_the_flags_from_before(base: database.Database, place: str) -> None:
    fill(base, [place], random.Random(3))
    before = ledger.rows(base, "SELECT * FROM duplicate_flag WHERE property_id = %s ORDER BY photo_id", place)
    activate(base, NEW)
    switch(base)
    changed = ledger.flags(base, place)
    activate(base, OLD)
    switch(base)
    after = ledger.rows(base, "SELECT * FROM duplicate_flag WHERE property_id = %s ORDER BY photo_id", place)
    assert [{**row, "since": 0} for row in after] == [{**row, "since": 0} for row in before]
    assert changed != {row["photo_id"]: row["duplicate_of"] for row in before}


def test_a_flag_that_stays_is_not_told_twice(base: database.Database, place: str) -> None:
    a = add(base, place, "a", 0, old=(1,), new=(1,))
    b = add(base, place, "b", 1, old=(0, 1), new=(0, 1))
    ledger.verdict(base, a, b, True)
    ledger.match(base, b)
    told = ledger.feed(base, place)
    activate(base, NEW)
    assert switch(base) == 1
    assert of_flags(base, place) == {NEW}
    assert ledger.feed(base, place) == told == [("b", "a")]


def test_properties_that_cannot_switch_keep_no_other_waiting(
    base: database.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switching, "_PAGE_PROPERTIES", 2)
    places = sorted(ledger.new_property() for _ in range(7))
    stuck = []
    for number, place in enumerate(places):
        photo = add(base, place, "a", 0, old=(1,), new=(1,))
        if number < 5:
            store(base, photo, new=(1,))
            stuck.append(photo)
    activate(base, NEW)
    switcher = switching.Switcher(base)
    looked = [switcher.page() for _ in range(4)]
    assert looked == [(2, 0), (2, 0), (2, 1), (1, 1)]
    assert [shown(base, place) for place in places] == [OLD] * 5 + [NEW] * 2
    for photo in stuck:
        with base.transaction() as connection:
            matching.match(connection, photo.property_id, photo.photo_id, ledger.BUNDLES, 50)
    with base.transaction() as connection:
        assert model_changes.count_behind(connection) == 0


def test_one_who_is_stopped_loses_nothing(base: database.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switching, "_PAGE_PROPERTIES", 2)
    places = [ledger.new_property() for _ in range(5)]
    for place in places:
        add(base, place, "a", 0, old=(1,), new=(1,))
    activate(base, NEW)
    stopped = switching.Switcher(base)
    assert stopped.page() == (2, 2)
    assert sorted(shown(base, place) or "" for place in places) == sorted([NEW] * 2 + [OLD] * 3)
    activate(base, NEW)
    assert switch(base) == 3


def test_photos_that_hold_up_the_change_can_be_parked(base: database.Database, place: str) -> None:
    add(base, place, "a", 0, old=(1,), new=(1,))
    good = add(base, place, "b", 1, old=(1,), new=(1,))
    stuck = add(base, place, "c", 2, old=(1,))
    assert ledger.flags(base, place) == {"b": "a", "c": "a"}

    def park(photo: photos.Revision) -> bool:
        with base.transaction() as connection:
            return photos.park_lacking(connection, photo, NEW, tried_until)

    tried_until = ledger.row(base, stuck)["updated_at"] - datetime.timedelta(seconds=1)
    assert not park(stuck), "something happened to it since; it may not have been tried"
    tried_until = ledger.row(base, stuck)["updated_at"]
    assert [park(good), park(stuck), park(stuck)] == [False, True, False]
    row = ledger.row(base, stuck)
    assert (row["status"], row["failure"]) == ("failed", "lacks_model")
    assert ledger.flags(base, place) == {"b": "a"}
    activate(base, NEW)
    assert switch(base) == 1


def test_an_embedding_of_a_model_that_was_retired_meanwhile_is_not_kept(
    base: database.Database, place: str
) -> None:
    photo = ledger.apply(base, ledger.event(place, "a")).photo
    retire(base, NEW)
    assert store(base, photo, old=(1,), new=(1,)) == photos.Stored(True, ())
    found = ledger.rows(base, "SELECT model_id FROM photo_embedding WHERE property_id = %s", place)
    assert [row["model_id"] for row in found] == [OLD]


def test_retiring_waits_for_whoever_stores_and_whoever_stores_sees_it(
    base: database.Database, server: Server, place: str
) -> None:
    one, other = (ledger.apply(base, ledger.event(place, name)).photo for name in "ab")
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with (
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        psycopg.connect(server.url("test_model_changes"), autocommit=True) as watcher,
    ):
        with base.transaction() as connection:
            found = photos.Embedded({NEW: ledger.vector(1)}, "e1", 4, 3, 100, "s")
            assert photos.store(connection, one, found).kept
            retiring = pool.submit(retire, base, NEW)
            while watcher.execute(waiting).fetchone() is None:
                assert not retiring.done(), "it did not wait"
        retiring.result(30)
        with base.transaction() as connection:
            assert purge(base, NEW) == {"embeddings": 1, "pairs": 0}
            connection.execute("UPDATE model SET status = 'candidate' WHERE id = %s", (NEW,))
        # The other way round.
        with base.transaction() as connection:
            model_changes.retire(connection, model(base, NEW))
            storing = pool.submit(store, base, other, old=(1,), new=(1,))
            while watcher.execute(waiting).fetchone() is None:
                assert not storing.done(), "it did not wait"
        assert storing.result(30).kept
    found_rows = ledger.rows(base, "SELECT model_id FROM photo_embedding WHERE property_id = %s", place)
    assert [row["model_id"] for row in found_rows] == [OLD]


def purge(base: database.Database, model_id: str, limit: int = 2) -> dict[str, int]:
    deleted = {}
    whats: tuple[Any, ...] = ("embeddings", "pairs")
    for what in whats:
        after: tuple[str, int] | None = ("", 0)
        deleted[what] = 0
        while after is not None:
            with base.transaction() as connection:
                count, after = model_changes.purge(connection, model_id, what, after, limit)
            deleted[what] += count
    return deleted


def test_retiring_deletes_what_is_of_the_model_and_nothing_else(base: database.Database, place: str) -> None:
    fill(base, [place, ledger.new_property()], random.Random(1))
    with pytest.raises(errors.ConfigurationError, match="is active"):
        retire(base, OLD)
    activate(base, NEW)
    with pytest.raises(errors.ConfigurationError, match="2 properties still show"):
        retire(base, OLD)
    switch(base)
    retire(base, OLD)
    counts = (
        "SELECT (SELECT count(*) FROM {0} WHERE model_id = %s) AS old, (SELECT count(*) FROM {0}) AS every"
    )
    before = {table: ledger.rows(base, counts.format(table), OLD)[0] for table in ("photo_embedding", "pair")}
    assert all(0 < row["old"] < row["every"] for row in before.values()), before
    assert purge(base, OLD) == {
        "embeddings": before["photo_embedding"]["old"],
        "pairs": before["pair"]["old"],
    }
    for table, row in before.items():
        (after,) = ledger.rows(base, counts.format(table), OLD)
        assert after == {"old": 0, "every": row["every"] - row["old"]}
    with pytest.raises(errors.ConfigurationError, match="is retired; `dedup model add`"):
        activate(base, OLD)


def test_a_model_that_came_back_is_not_purged(base: database.Database, place: str) -> None:
    add(base, place, "a", 0, old=(1,), new=(1,))
    retire(base, NEW)
    with base.transaction() as connection:
        connection.execute("UPDATE model SET status = 'candidate' WHERE id = %s", (NEW,))
    assert purge(base, NEW) == {"embeddings": 0, "pairs": 0}


def fill(base: database.Database, places: Sequence[str], rng: random.Random) -> None:
    """Photos of random likeness by either model, some pairs judged by people, in random order of arrival."""
    for place in places:
        made = []
        for number in rng.sample(range(9), 9):
            angles = rng.uniform(0, 1.6), rng.uniform(0, 1.6)
            old, new = ((float(np.cos(angle)), float(np.sin(angle))) for angle in angles)
            made.append(add(base, place, f"{number}", number, old=old, new=new))
        for _ in range(2):
            one, other = rng.sample(made, 2)
            ids = groups.pair(one.photo_id, other.photo_id)
            if not ledger.rows(
                base,
                "SELECT FROM verdict WHERE property_id = %s AND (photo_a, photo_b) = (%s, %s)",
                place,
                *ids,
            ):
                ledger.verdict(base, one, other, rng.random() < 0.5)
        ledger.match(base, made[0])


def test_what_compare_foretells_is_what_the_change_brings(base: database.Database) -> None:
    places = [ledger.new_property() for _ in range(6)]
    fill(base, places, random.Random(5))
    lacking = add(base, places[0], "old only", 50, old=(0, 0, 0, 1))
    pages = list(model_comparison.pages(base, model(base, OLD), model(base, NEW)))
    assert sum(page.lacking for page in pages) == 1
    store(base, lacking, new=(0, 0, 0, 1))
    ledger.match(base, lacking)
    pages = list(model_comparison.pages(base, model(base, OLD), model(base, NEW)))
    changes = {(change.property_id, change.key): change for page in pages for change in page.changes}

    def on_record() -> dict[tuple[str, str], tuple[str, float]]:
        found = ledger.rows(base, "SELECT property_id, key, duplicate_of_key, score FROM listing_duplicates")
        return {(row["property_id"], row["key"]): (row["duplicate_of_key"], row["score"]) for row in found}

    before = on_record()
    activate(base, NEW)
    assert switch(base) == len(places)
    after = on_record()
    expected = {
        photo
        for photo in before.keys() | after.keys()
        if (before.get(photo) or ("",))[0] != (after.get(photo) or ("",))[0]
    }
    assert changes.keys() == expected
    assert {change.kind for change in changes.values()} == {"comes", "goes", "moves"}
    for photo, change in changes.items():
        nothing = (None, None)
        assert (change.old_duplicate_of, change.old_score) == before.get(photo, nothing)
        assert (change.new_duplicate_of, change.new_score) == after.get(photo, nothing)
    stayed = [photo for photo in before.keys() & after.keys() if before[photo][0] == after[photo][0]]
    assert sum(page.same for page in pages) == len(stayed)
    assert sum(page.properties for page in pages) == len(places)
    one = list(model_comparison.pages(base, model(base, NEW), model(base, OLD), places[2]))
    assert {change.key for page in one for change in page.changes} == {
        key for place, key in expected if place == places[2]
    }


def test_pages_of_a_comparison_cover_all_properties(
    base: database.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [ledger.new_property() for _ in range(5)]
    fill(base, places, random.Random(8))
    whole = [
        c for page in model_comparison.pages(base, model(base, OLD), model(base, NEW)) for c in page.changes
    ]
    monkeypatch.setattr(model_comparison, "PAGE_PROPERTIES", 2)
    pages = list(model_comparison.pages(base, model(base, OLD), model(base, NEW)))
    assert [page.properties for page in pages] == [2, 2, 1]
    assert [change for page in pages for change in page.changes] == whole


def test_no_property_ever_shows_two_models_and_the_feed_says_what_the_flags_are(
    base: database.Database, server: Server
) -> None:
    """Photos come, go and are matched while the active model changes back and forth under a reader's eyes."""
    places = [ledger.new_property() for _ in range(4)]
    fill(base, places, random.Random(11))
    done = threading.Event()
    seen: dict[str, set[str]] = {place: set() for place in places}
    mixed: list[Any] = []

    def read() -> None:
        look = (
            "SELECT property_id, shown.model_id, (SELECT array_agg(DISTINCT model_id) FROM duplicate_flag AS flag "
            "WHERE flag.property_id = shown.property_id) AS of_flags FROM property_model AS shown"
        )
        with psycopg.connect(server.url("test_model_changes"), autocommit=True) as connection:
            while not done.is_set():
                for place, shown_model, of in connection.execute(look).fetchall():
                    if of not in (None, [shown_model]):
                        mixed.append((place, shown_model, of))
                    if place in seen:
                        seen[place].add(shown_model)

    def upload(number: int) -> None:
        rng = random.Random(number)
        for step in range(12):
            name = f"live-{number}-{step % 4}"
            place = places[number]
            if step >= 8:
                ledger.apply(base, ledger.event(place, name, at=1000 + step, kind=events.Kind.REMOVED))
                continue
            photo = ledger.apply(base, ledger.event(place, name, at=100 + step, etag=f"e{step}")).photo
            vector = (rng.random(), rng.random())
            store(base, photo, etag=f"e{step}", old=vector, new=vector[::-1])
            ledger.match(base, photo)

    def change() -> None:
        for _ in range(3):
            for target in (NEW, OLD):
                activate(base, target)
                switch(base)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        reader = pool.submit(read)
        work = [pool.submit(upload, number) for number in range(4)] + [pool.submit(change)]
        try:
            for item in work:
                item.result(120)
        finally:
            done.set()
        reader.result(30)
    activate(base, NEW)
    switch(base)
    assert mixed == []
    assert all(models_seen == {OLD, NEW} for models_seen in seen.values()), seen
    for place in places:
        replayed: dict[str, str] = {}
        for name, duplicate_of in ledger.feed(base, place):
            if duplicate_of is None:
                assert replayed.pop(name, None) is not None, "takes back what it never gave"
            else:
                replayed[name] = duplicate_of
        assert replayed == ledger.flags(base, place)
        assert (shown(base, place), of_flags(base, place) <= {NEW}) == (NEW, True)


def test_a_model_is_found_by_id_beginning_and_name(base: database.Database) -> None:
    assert {model(base, name).id for name in (NEW, NEW[:4], "sharper")} == {NEW}
    with base.transaction() as connection:
        connection.execute("UPDATE model SET name = 'cosine' WHERE id = %s", (NEW,))
        with pytest.raises(errors.ConfigurationError, match=r"several .*Give its id"):
            models.find(connection, "cosine")
        with pytest.raises(
            errors.ConfigurationError, match=r"none of this id or name; it has: .*dedup model add"
        ):
            models.find(connection, "gone")


def test_how_far_a_model_is(base: database.Database, place: str) -> None:
    add(base, place, "a", 0, old=(1,), new=(1,))
    add(base, place, "b", 1, old=(1,))
    with base.transaction() as connection:
        standings = [models.standing(connection, item) for item in models.every(connection)]
    found = [dataclasses.astuple(item)[1:] for item in standings]
    assert [item.model.id for item in standings] == [OLD, NEW], "the active one first"
    assert found == [(2, 0, 1), (1, 1, 0)]


def test_no_two_embeddings_of_a_photo_are_of_two_pictures(base: database.Database, place: str) -> None:
    add(base, place, "a", 0, old=(1,), new=(1,))
    photo = add(base, place, "b", 1, old=(1,), new=(1,))
    # Other bytes, by a worker that has the active model only, and no event has told it yet.
    assert store(base, photo, old=(0, 1), sha256="other") == photos.Stored(True, (NEW,))
    found = "SELECT model_id FROM photo_embedding WHERE property_id = %s AND photo_id = %s"
    assert [row["model_id"] for row in ledger.rows(base, found, place, photo.photo_id)] == [OLD]
    assert ledger.rows(base, "SELECT * FROM pair WHERE property_id = %s", place) == []


class _Bundles(ledger.Bundles):
    """Those of the ledger, but for a model of a newer version."""

    def get(self, connection: database.Connection, model_id: str) -> Any:
        if model_id == NEW:
            raise errors.ConfigurationError("format 99")
        return super().get(connection, model_id)


def test_a_candidate_that_cannot_be_read_keeps_no_photo_from_the_active_model(
    base: database.Database, place: str
) -> None:
    add(base, place, "a", 0, old=(1,), new=(1,))
    photo = ledger.apply(base, ledger.event(place, "b", at=1)).photo
    store(base, photo, old=(1,), new=(1,))
    with base.transaction() as connection:
        matching.match(connection, place, photo.photo_id, _Bundles(), 10)
    assert ledger.flags(base, place) == {"b": "a"}
    assert ledger.row(base, photo)["matched_at"] is None, "the candidate has not seen it"
    activate(base, NEW)
    assert switch(base) == 0
