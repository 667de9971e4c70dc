"""Two models beside each other, and the change from one to the other, on the real tables."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import random
import threading
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from core import attempts, database, errors, events, matching, model_changes, models, photos
from tests.integration import ledger
from tests.integration.conftest import Server
from tests.integration.model_change import steps
from workers import switching


def test_each_model_is_matched_among_its_own_embeddings(base: database.Database, place: str) -> None:
    steps.add(base, place, "a", 0, old=(1,), new=(1,))
    # Alike by the new model alone; and what one has is near what the other has.
    steps.add(base, place, "b", 1, old=(0, 1), new=(1, 0.1))
    steps.add(base, place, "c", 2, old=(0, 0, 1))
    pairs = ledger.rows(base, "SELECT model_id, photo_a, photo_b FROM pair WHERE property_id = %s", place)
    assert [row["model_id"] for row in pairs] == [steps.NEW]
    assert ledger.flags(base, place) == {}, "the candidate decides nothing"
    assert steps.shown(base, place) == steps.OLD


def test_a_photo_says_which_models_it_lacks(base: database.Database, place: str) -> None:
    photo = ledger.apply(base, ledger.event(place, "a")).photo

    def begin(known: Sequence[str], unfit: Sequence[str] = (), again: str | None = None) -> attempts.Attempt:
        with base.transaction() as connection:
            found = attempts.begin_attempt(connection, photo, known=known, unfit=unfit, again=again)
        assert found is not None
        return found

    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    first = begin([steps.OLD])
    assert (first.lacking, first.active) == ((steps.OLD, steps.NEW), steps.OLD)
    assert ledger.row(base, photo)["attempts"] == 0, "not begun before all are known"
    assert begin([steps.OLD], unfit=[steps.NEW]).lacking == (steps.OLD,)
    assert ledger.row(base, photo)["attempts"] == 1
    assert steps.store(base, photo, old=(1,)) == photos.Stored(True, (steps.NEW,))
    assert begin([steps.OLD], unfit=[steps.NEW]).embedded
    assert begin([steps.OLD, steps.NEW]).lacking == (steps.NEW,)
    assert begin([steps.OLD, steps.NEW], again=later.isoformat()).lacking == (steps.OLD, steps.NEW)
    assert steps.store(base, photo, new=(1,)) == photos.Stored(True, ())
    assert begin([steps.OLD, steps.NEW]).embedded


def test_a_further_embedding_is_to_be_matched_too(base: database.Database, place: str) -> None:
    photo = steps.add(base, place, "a", 0, old=(1,))
    assert ledger.row(base, photo)["matched_at"] is not None
    steps.store(base, photo, new=(1,))
    assert ledger.row(base, photo)["matched_at"] is None
    ledger.match(base, photo)
    assert ledger.row(base, photo)["matched_at"] is not None


def test_an_embedding_that_comes_while_the_photo_is_matched_is_not_taken_for_matched(
    base: database.Database, server: Server, place: str
) -> None:
    photo = ledger.apply(base, ledger.event(place, "a")).photo
    steps.store(base, photo, old=(1,))
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with (
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        psycopg.connect(server.url("test_model_changes"), autocommit=True) as watcher,
    ):
        storing: list[concurrent.futures.Future[photos.Stored]] = []

        class Meanwhile(ledger.Bundles):
            """The further embedding comes after matching has read which there are."""

            def get(self, connection: database.Connection, model_id: str) -> ledger.Bundle:
                storing.append(pool.submit(steps.store, base, photo, new=(1,)))
                while not storing[0].done() and watcher.execute(waiting).fetchone() is None:
                    pass
                return super().get(connection, model_id)

        with base.transaction() as connection:
            matching.match(connection, place, photo.photo_id, Meanwhile(), 50)
        assert storing[0].result(30).kept
    assert ledger.row(base, photo)["matched_at"] is None


def test_activation_is_refused_while_photos_lack_the_model(base: database.Database, place: str) -> None:
    photo = steps.add(base, place, "a", 0, old=(1,))
    ledger.apply(base, ledger.event(place, "pending"))
    with pytest.raises(
        errors.ConfigurationError, match=f"1 photos lack .*dedup backfill --model {steps.NEW}"
    ):
        steps.activate(base, steps.NEW)
    assert steps.model(base, steps.OLD).status == "active"
    steps.store(base, photo, new=(1,))
    steps.activate(base, steps.NEW)
    assert (steps.model(base, steps.OLD).status, steps.model(base, steps.NEW).status) == (
        "candidate",
        "active",
    )


def test_a_property_switches_as_a_whole_when_all_its_photos_are_matched(
    base: database.Database, place: str
) -> None:
    steps.add(base, place, "a", 0, old=(1,), new=(1,))
    steps.add(base, place, "b", 1, old=(1, 0.1), new=(0, 1))
    late = steps.add(base, place, "c", 2, old=(0, 0, 1), new=(1, 0.8))
    assert ledger.flags(base, place) == {"b": "a"}
    # Embedded anew, and not matched yet.
    steps.store(base, late, new=(1, 0.8))
    steps.activate(base, steps.NEW)
    assert steps.switch(base) == 0
    assert (steps.shown(base, place), ledger.flags(base, place), steps.of_flags(base, place)) == (
        steps.OLD,
        {"b": "a"},
        {steps.OLD},
    )
    ledger.match(base, late)
    assert (steps.shown(base, place), ledger.flags(base, place), steps.of_flags(base, place)) == (
        steps.NEW,
        {"c": "a"},
        {steps.NEW},
    )
    assert ledger.feed(base, place) == [("b", "a"), ("b", None), ("c", "a")]
    assert steps.switch(base) == 0


def test_a_photo_without_the_new_embedding_keeps_its_property(base: database.Database, place: str) -> None:
    steps.add(base, place, "a", 0, old=(1,), new=(1,))
    steps.activate(base, steps.NEW)
    # Its worker began before the candidate was put on record, and was lost between its two stores.
    late = steps.add(base, place, "b", 1, old=(1,))
    assert steps.switch(base) == 0
    assert (steps.shown(base, place), ledger.flags(base, place)) == (steps.OLD, {"b": "a"})
    steps.store(base, late, new=(1,))
    ledger.match(base, late)
    assert (steps.shown(base, place), steps.of_flags(base, place)) == (steps.NEW, {steps.NEW})


@pytest.mark.parametrize("together", [False, True])
def test_photos_without_pairs_let_their_property_switch(
    base: database.Database, place: str, *, together: bool
) -> None:
    made = [steps.add(base, place, "a", 0, old=(1,)), steps.add(base, place, "b", 1, old=(0, 1))]
    for photo, content in zip(made, ((1,), (0, 1)), strict=True):
        steps.store(base, photo, new=content)
    steps.activate(base, steps.NEW)
    if together:
        with base.transaction() as connection:
            ids = [photo.photo_id for photo in made]
            assert matching.match_together(connection, place, ids, ledger.BUNDLES, 50) is not None
    else:
        for photo in made:
            ledger.match(base, photo)
    assert steps.shown(base, place) == steps.NEW


def test_a_new_property_shows_the_active_model(base: database.Database, place: str) -> None:
    steps.activate(base, steps.NEW)
    steps.add(base, place, "a", 0, old=(1,), new=(1,))
    assert steps.shown(base, place) == steps.NEW


def test_the_review_view_follows_the_property(base: database.Database, place: str) -> None:
    steps.add(base, place, "a", 0, old=(1,), new=(1,))
    steps.add(base, place, "b", 1, old=(0.8, 0.6), new=(0.5, 0.8))

    def review() -> list[float]:
        found = ledger.rows(base, "SELECT score FROM listing_review WHERE property_id = %s", place)
        return [round(row["score"], 1) for row in found]

    assert review() == [0.8]
    steps.activate(base, steps.NEW)
    assert review() == [0.8], "the model is active, the property has not switched"
    assert steps.switch(base) == 1
    assert review() == [0.5]


def test_going_back_gives_the_flags_from_before(base: database.Database, place: str) -> None:
    steps.fill(base, [place], random.Random(3))
    before = ledger.rows(base, "SELECT * FROM duplicate_flag WHERE property_id = %s ORDER BY photo_id", place)
    steps.activate(base, steps.NEW)
    steps.switch(base)
    changed = ledger.flags(base, place)
    steps.activate(base, steps.OLD)
    steps.switch(base)
    after = ledger.rows(base, "SELECT * FROM duplicate_flag WHERE property_id = %s ORDER BY photo_id", place)
    assert [{**row, "since": 0} for row in after] == [{**row, "since": 0} for row in before]
    assert changed != {row["photo_id"]: row["duplicate_of"] for row in before}


def test_a_flag_that_stays_is_not_told_twice(base: database.Database, place: str) -> None:
    a = steps.add(base, place, "a", 0, old=(1,), new=(1,))
    b = steps.add(base, place, "b", 1, old=(0, 1), new=(0, 1))
    ledger.verdict(base, a, b, True)
    ledger.match(base, b)
    told = ledger.feed(base, place)
    steps.activate(base, steps.NEW)
    assert steps.switch(base) == 1
    assert steps.of_flags(base, place) == {steps.NEW}
    assert ledger.feed(base, place) == told == [("b", "a")]


def test_properties_that_cannot_switch_keep_no_other_waiting(
    base: database.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switching, "_PAGE_PROPERTIES", 2)
    places = sorted(ledger.new_property() for _ in range(7))
    stuck = []
    for number, place in enumerate(places):
        photo = steps.add(base, place, "a", 0, old=(1,), new=(1,))
        if number < 5:
            steps.store(base, photo, new=(1,))
            stuck.append(photo)
    steps.activate(base, steps.NEW)
    switcher = switching.Switcher(base)
    looked = [switcher.page() for _ in range(4)]
    assert looked == [(2, 0), (2, 0), (2, 1), (1, 1)]
    assert [steps.shown(base, place) for place in places] == [steps.OLD] * 5 + [steps.NEW] * 2
    for photo in stuck:
        with base.transaction() as connection:
            matching.match(connection, photo.property_id, photo.photo_id, ledger.BUNDLES, 50)
    with base.transaction() as connection:
        assert model_changes.count_behind(connection) == 0


def test_one_who_is_stopped_loses_nothing(base: database.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switching, "_PAGE_PROPERTIES", 2)
    places = [ledger.new_property() for _ in range(5)]
    for place in places:
        steps.add(base, place, "a", 0, old=(1,), new=(1,))
    steps.activate(base, steps.NEW)
    stopped = switching.Switcher(base)
    assert stopped.page() == (2, 2)
    assert sorted(steps.shown(base, place) or "" for place in places) == sorted(
        [steps.NEW] * 2 + [steps.OLD] * 3
    )
    steps.activate(base, steps.NEW)
    assert steps.switch(base) == 3


def test_photos_that_hold_up_the_change_can_be_parked(base: database.Database, place: str) -> None:
    steps.add(base, place, "a", 0, old=(1,), new=(1,))
    good = steps.add(base, place, "b", 1, old=(1,), new=(1,))
    stuck = steps.add(base, place, "c", 2, old=(1,))
    assert ledger.flags(base, place) == {"b": "a", "c": "a"}

    def park(photo: photos.Revision) -> bool:
        with base.transaction() as connection:
            return photos.park_lacking(connection, photo, steps.NEW, tried_until)

    tried_until = ledger.row(base, stuck)["updated_at"] - datetime.timedelta(seconds=1)
    assert not park(stuck), "something happened to it since; it may not have been tried"
    tried_until = ledger.row(base, stuck)["updated_at"]
    assert [park(good), park(stuck), park(stuck)] == [False, True, False]
    row = ledger.row(base, stuck)
    assert (row["status"], row["failure"]) == ("failed", "lacks_model")
    assert ledger.flags(base, place) == {"b": "a"}
    steps.activate(base, steps.NEW)
    assert steps.switch(base) == 1


def test_no_property_ever_shows_two_models_and_the_feed_says_what_the_flags_are(
    base: database.Database, server: Server
) -> None:
    """Photos come, go and are matched while the active model changes back and forth under a reader's eyes."""
    places = [ledger.new_property() for _ in range(4)]
    steps.fill(base, places, random.Random(11))
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
            steps.store(base, photo, etag=f"e{step}", old=vector, new=vector[::-1])
            ledger.match(base, photo)

    def change() -> None:
        for _ in range(3):
            for target in (steps.NEW, steps.OLD):
                steps.activate(base, target)
                steps.switch(base)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        reader = pool.submit(read)
        work = [pool.submit(upload, number) for number in range(4)] + [pool.submit(change)]
        try:
            for item in work:
                item.result(120)
        finally:
            done.set()
        reader.result(30)
    steps.activate(base, steps.NEW)
    steps.switch(base)
    assert mixed == []
    assert all(models_seen == {steps.OLD, steps.NEW} for models_seen in seen.values()), seen
    for place in places:
        replayed: dict[str, str] = {}
        for name, duplicate_of in ledger.feed(base, place):
            if duplicate_of is None:
                assert replayed.pop(name, None) is not None, "takes back what it never gave"
            else:
                replayed[name] = duplicate_of
        assert replayed == ledger.flags(base, place)
        assert (steps.shown(base, place), steps.of_flags(base, place) <= {steps.NEW}) == (steps.NEW, True)


def test_a_model_is_found_by_id_beginning_and_name(base: database.Database) -> None:
    assert {steps.model(base, name).id for name in (steps.NEW, steps.NEW[:4], "sharper")} == {steps.NEW}
    with base.transaction() as connection:
        connection.execute("UPDATE model SET name = 'cosine' WHERE id = %s", (steps.NEW,))
        with pytest.raises(errors.ConfigurationError, match=r"several .*Give its id"):
            models.find(connection, "cosine")
        with pytest.raises(
            errors.ConfigurationError, match=r"none of this id or name; it has: .*dedup model add"
        ):
            models.find(connection, "gone")


def test_how_far_a_model_is(base: database.Database, place: str) -> None:
    steps.add(base, place, "a", 0, old=(1,), new=(1,))
    steps.add(base, place, "b", 1, old=(1,))
    with base.transaction() as connection:
        standings = [models.standing(connection, item) for item in models.every(connection)]
    found = [dataclasses.astuple(item)[1:] for item in standings]
    assert [item.model.id for item in standings] == [steps.OLD, steps.NEW], "the active one first"
    assert found == [(2, 0, 1), (1, 1, 0)]


def test_no_two_embeddings_of_a_photo_are_of_two_pictures(base: database.Database, place: str) -> None:
    steps.add(base, place, "a", 0, old=(1,), new=(1,))
    photo = steps.add(base, place, "b", 1, old=(1,), new=(1,))
    # Other bytes, by a worker that has the active model only, and no event has told it yet.
    assert steps.store(base, photo, old=(0, 1), sha256="other") == photos.Stored(True, (steps.NEW,))
    found = "SELECT model_id FROM photo_embedding WHERE property_id = %s AND photo_id = %s"
    assert [row["model_id"] for row in ledger.rows(base, found, place, photo.photo_id)] == [steps.OLD]
    assert ledger.rows(base, "SELECT * FROM pair WHERE property_id = %s", place) == []


class _Bundles(ledger.Bundles):
    """Those of the ledger, but for a model of a newer version."""

    def get(self, connection: database.Connection, model_id: str) -> Any:
        if model_id == steps.NEW:
            raise errors.ConfigurationError("format 99")
        return super().get(connection, model_id)


def test_a_candidate_that_cannot_be_read_keeps_no_photo_from_the_active_model(
    base: database.Database, place: str
) -> None:
    steps.add(base, place, "a", 0, old=(1,), new=(1,))
    photo = ledger.apply(base, ledger.event(place, "b", at=1)).photo
    steps.store(base, photo, old=(1,), new=(1,))
    with base.transaction() as connection:
        matching.match(connection, place, photo.photo_id, _Bundles(), 10)
    assert ledger.flags(base, place) == {"b": "a"}
    assert ledger.row(base, photo)["matched_at"] is None, "the candidate has not seen it"
    steps.activate(base, steps.NEW)
    assert steps.switch(base) == 0
