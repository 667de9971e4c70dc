from __future__ import annotations

import concurrent.futures
import datetime
import itertools
import time
from typing import Any

import numpy as np
import psycopg
import pytest

from core import database, errors, events, groups, matching, models, photos
from tests.integration.conftest import Server

START = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
DIMS = 8
_properties = (f"property-{number}" for number in itertools.count())


class Cosine:
    """Stands in for the trained network: the score is the cosine, so that a test can set it by its vectors."""

    def score(self, a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        scores: np.ndarray[Any, Any] = np.clip((a * b).sum(axis=1), 0, 1).astype(np.float32)
        return scores


class Bundle:
    id = "0123456789abcdef"
    classifier = Cosine()


BUNDLES: dict[str, Any] = {Bundle.id: Bundle()}


@pytest.fixture(scope="module", autouse=True)
def _model(base: database.Database) -> None:
    with base.transaction() as connection:
        connection.execute(
            "INSERT INTO model (id, digest, name, dims, duplicate_threshold, review_threshold, untrained, card, status)"
            " VALUES (%s, 'd', 'cosine', 8, 0.9, 0.5, false, '{}', 'active')",
            (Bundle.id,),
        )


@pytest.fixture
def property_id() -> str:
    return next(_properties)


def event(
    property_id: str,
    name: str,
    *,
    at: float = 0,
    etag: str = "e1",
    sequencer: str = "",
    kind: events.Kind = events.Kind.CREATED,
) -> events.Event:
    return events.Event(
        kind=kind,
        bucket="photos",
        key=f"properties/{property_id}/photos/{name}",
        property_id=property_id,
        etag="" if kind is events.Kind.REMOVED else etag,
        size=100,
        sequencer=sequencer,
        occurred_at=START + datetime.timedelta(seconds=at),
    )


def apply(base: database.Database, change: events.Event) -> photos.Applied:
    with base.transaction() as connection:
        return photos.apply_event(connection, change)


def vector(*values: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    full = np.zeros(DIMS, dtype=np.float32)
    full[: len(values)] = values
    return full / np.float32(np.linalg.norm(full))


def embed(
    base: database.Database,
    photo: photos.Revision,
    embedding: np.ndarray[Any, Any],
    *,
    etag: str = "e1",
    sha256: str = "s",
) -> bool:
    with base.transaction() as connection:
        found = photos.Embedded(embedding, etag=etag, width=4, height=3, bytes=100, sha256=sha256)
        return photos.store(connection, photo, Bundle.id, found)


def match(base: database.Database, photo: photos.Revision, neighbours: int = 50) -> int:
    with base.transaction() as connection:
        return matching.match(connection, photo.property_id, photo.photo_id, BUNDLES, neighbours)


def add(
    base: database.Database, property_id: str, name: str, *values: float, at: float = 0
) -> photos.Revision:
    photo = apply(base, event(property_id, name, at=at)).photo
    assert embed(base, photo, vector(*values))
    match(base, photo)
    return photo


def rows(base: database.Database, statement: str, *parameters: object) -> list[database.Row]:
    with base.transaction() as connection:
        return connection.execute(statement.encode(), parameters).fetchall()


def flags(base: database.Database, property_id: str) -> dict[str, str]:
    with base.transaction() as connection:
        return {
            row["photo"].rpartition("/")[2]: row["duplicate_of"].rpartition("/")[2]
            for row in matching.flags(connection, property_id)
        }


def row(base: database.Database, photo: photos.Revision) -> database.Row:
    (found,) = rows(
        base, "SELECT * FROM photo WHERE property_id = %s AND id = %s", photo.property_id, photo.photo_id
    )
    return found


def feed(base: database.Database, property_id: str) -> list[tuple[str, str | None]]:
    return [
        (
            change["key"].rpartition("/")[2],
            change["duplicate_of_key"] and change["duplicate_of_key"].rpartition("/")[2],
        )
        for change in rows(
            base,
            "SELECT * FROM listing_flag_feed WHERE property_id = %s ORDER BY transaction_id, id",
            property_id,
        )
    ]


def test_a_new_photo_waits_to_be_embedded(base: database.Database, property_id: str) -> None:
    applied = apply(base, event(property_id, "a"))
    assert applied.outcome is photos.Outcome.PENDING
    assert row(base, applied.photo)["status"] == "pending"


def test_the_same_event_twice_leaves_one_photo_and_one_revision(
    base: database.Database, property_id: str
) -> None:
    first = apply(base, event(property_id, "a"))
    again = apply(base, event(property_id, "a"))
    # Still pending: published again, in case the first task was lost; the task itself does it once.
    assert again == first
    assert embed(base, first.photo, vector(1))
    assert apply(base, event(property_id, "a")).outcome is photos.Outcome.IGNORED
    assert apply(base, event(property_id, "a", at=9)).outcome is photos.Outcome.IGNORED
    assert row(base, first.photo)["revision"] == 1


def test_duplicates_are_flagged_to_the_earliest(base: database.Database, property_id: str) -> None:
    add(base, property_id, "late", 1, 0.1, at=10)
    add(base, property_id, "early", 1, at=1)
    add(base, property_id, "other", 0, 0, 1, at=5)
    assert flags(base, property_id) == {"late": "early"}
    assert feed(base, property_id) == [("late", "early")]


def test_flags_do_not_depend_on_the_order_of_arrival(base: database.Database) -> None:
    content = {
        "a": (0.0, (1.0, 0.0)),
        "b": (1.0, (1.0, 0.3)),
        "c": (2.0, (1.0, 0.7)),
        "d": (3.0, (1.0, 0.05)),
    }
    results = []
    for order in itertools.permutations(content):
        property_id = next(_properties)
        for name in order:
            at, values = content[name]
            add(base, property_id, name, *values, at=at)
        results.append(flags(base, property_id))
    assert all(result == results[0] for result in results)
    assert results[0] == {"b": "a", "d": "a"}


def test_other_properties_are_not_compared(base: database.Database) -> None:
    one, other = next(_properties), next(_properties)
    add(base, one, "a", 1)
    add(base, other, "b", 1)
    assert flags(base, one) == flags(base, other) == {}


def test_a_replaced_picture_loses_its_flags_and_verdicts(base: database.Database, property_id: str) -> None:
    first = add(base, property_id, "a", 1, at=1)
    second = add(base, property_id, "b", 1, at=2)
    pair = groups.pair(first.photo_id, second.photo_id)
    rows(
        base,
        "INSERT INTO verdict (property_id, photo_a, photo_b, duplicate, decided_by) VALUES (%s, %s, %s, true, 'ann')"
        " RETURNING 1",
        property_id,
        *pair,
    )
    applied = apply(base, event(property_id, "b", at=5, etag="e2"))
    assert applied.outcome is photos.Outcome.PENDING
    assert applied.photo.revision == 2
    assert flags(base, property_id) == {}
    assert rows(base, "SELECT 1 FROM verdict WHERE property_id = %s", property_id) == []
    assert rows(base, "SELECT 1 FROM pair WHERE property_id = %s", property_id) == []
    assert not embed(base, second, vector(1)), "the old revision's embedding comes too late"
    assert embed(base, applied.photo, vector(0, 1))
    match(base, applied.photo)
    assert flags(base, property_id) == {}
    assert feed(base, property_id) == [("b", "a"), ("b", None)]


def test_removing_the_canonical_photo_repairs_its_group(base: database.Database, property_id: str) -> None:
    for number, name in enumerate(("a", "b", "c")):
        add(base, property_id, name, 1, at=number)
    assert flags(base, property_id) == {"b": "a", "c": "a"}
    removed = apply(base, event(property_id, "a", at=9, kind=events.Kind.REMOVED))
    assert removed.outcome is photos.Outcome.REMOVED
    assert flags(base, property_id) == {"c": "b"}
    assert row(base, removed.photo)["status"] == "removed"


def test_a_removal_that_overtakes_its_creation_wins(base: database.Database, property_id: str) -> None:
    gone = apply(base, event(property_id, "a", sequencer="0A", kind=events.Kind.REMOVED))
    late = apply(base, event(property_id, "a", at=99, sequencer="09"))
    assert late.outcome is photos.Outcome.IGNORED
    assert row(base, gone.photo)["status"] == "removed"
    back = apply(base, event(property_id, "a", sequencer="0B"))
    assert back.outcome is photos.Outcome.PENDING
    assert back.photo.revision == gone.photo.revision + 1


@pytest.mark.parametrize("seed", range(20))
def test_shuffled_and_repeated_events_end_the_same(base: database.Database, seed: int) -> None:
    rng = np.random.default_rng(seed)
    property_id = next(_properties)
    history = [
        event(property_id, "a", at=1, sequencer="01", etag="x"),
        event(property_id, "a", at=2, sequencer="02", etag="y"),
        event(property_id, "a", at=3, sequencer="03", kind=events.Kind.REMOVED),
        event(property_id, "a", at=4, sequencer="031", etag="z"),
    ]
    for index in rng.permutation(len(history) * 2):
        applied = apply(base, history[index % len(history)])
    found = row(base, applied.photo)
    assert (found["status"], found["etag"], found["sequencer"]) == ("pending", "z", "031")
    assert found["uploaded_at"] == history[-1].occurred_at


@pytest.mark.parametrize("seed", range(10))
def test_a_picture_that_comes_back_ends_the_same(base: database.Database, seed: int) -> None:
    property_id = next(_properties)
    times = {0: "x", 10: "y", 20: "x"}
    history = [event(property_id, "a", at=at, etag=etag) for at, etag in times.items()]
    for index in np.random.default_rng(seed).permutation(len(history) * 2):
        applied = apply(base, history[index % len(history)])
    found = row(base, applied.photo)
    assert (found["etag"], found["uploaded_at"]) == ("x", history[-1].occurred_at)


def verdict(base: database.Database, one: photos.Revision, other: photos.Revision, duplicate: bool) -> None:
    rows(
        base,
        "INSERT INTO verdict (property_id, photo_a, photo_b, duplicate, decided_by)"
        " VALUES (%s, %s, %s, %s, 'ann') RETURNING 1",
        one.property_id,
        *groups.pair(one.photo_id, other.photo_id),
        duplicate,
    )


def test_looking_again_at_the_same_bytes_keeps_what_people_said(
    base: database.Database, property_id: str
) -> None:
    first, second = add(base, property_id, "a", 1, at=1), add(base, property_id, "b", 0, 1, at=2)
    verdict(base, first, second, True)
    again = apply(base, event(property_id, "a", at=9, etag=""))
    assert again.outcome is photos.Outcome.PENDING
    assert apply(base, event(property_id, "a", at=9, etag="")).photo == again.photo, "the same event twice"
    assert embed(base, again.photo, vector(1))
    match(base, again.photo)
    assert flags(base, property_id) == {"b": "a"}


def test_looking_again_at_other_bytes_drops_what_people_said(
    base: database.Database, property_id: str
) -> None:
    first, second = add(base, property_id, "a", 1, at=1), add(base, property_id, "b", 0, 1, at=2)
    verdict(base, first, second, True)
    again = apply(base, event(property_id, "a", at=9, etag=""))
    assert embed(base, again.photo, vector(1), sha256="other")
    match(base, again.photo)
    assert flags(base, property_id) == {}
    assert rows(base, "SELECT 1 FROM verdict WHERE property_id = %s", property_id) == []


def test_bytes_newer_than_their_event_are_not_taken_for_known(
    base: database.Database, property_id: str
) -> None:
    photo = apply(base, event(property_id, "a", at=0, etag="x")).photo
    assert embed(base, photo, vector(1), etag="y")
    back = apply(base, event(property_id, "a", at=20, etag="x"))
    assert back.outcome is photos.Outcome.PENDING
    assert back.photo.revision == 2


def test_a_stored_photo_is_not_failed_by_a_late_copy_of_its_task(
    base: database.Database, property_id: str
) -> None:
    photo = add(base, property_id, "a", 1)
    with base.transaction() as connection:
        photos.fail(connection, photo, "gave_up", "")
    assert row(base, photo)["status"] == "embedded"


def test_an_outage_is_not_the_photos_fault(base: database.Database, property_id: str) -> None:
    photo = apply(base, event(property_id, "a")).photo
    with base.transaction() as connection:
        photos.begin_attempt(connection, photo, Bundle.id)
        photos.excuse(connection, photo)
    assert row(base, photo)["attempts"] == 0
    for number in (1, 2):
        with base.transaction() as connection:
            assert photos.postpone(connection, photo) == number
    assert row(base, photo)["status"] == "pending"
    assert embed(base, photo, vector(1))
    assert row(base, photo)["postponed"] == 0


@pytest.mark.parametrize("change", ["match", "remove", "overwrite"])
def test_a_property_is_worked_on_by_one_at_a_time(
    base: database.Database, server: Server, property_id: str, change: str
) -> None:
    photo = add(base, property_id, "a", 1)
    other = apply(base, event(property_id, "b", at=5)).photo
    assert embed(base, other, vector(1))
    work = {
        "match": lambda: match(base, photo),
        "remove": lambda: apply(base, event(property_id, "a", at=9, kind=events.Kind.REMOVED)),
        "overwrite": lambda: apply(base, event(property_id, "a", at=9, etag="e2")),
    }[change]
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with base.transaction() as connection:
            matching.match(connection, property_id, other.photo_id, BUNDLES, 50)
            second = pool.submit(work)
            with psycopg.connect(server.url("test_photos"), autocommit=True) as watcher:
                deadline = time.monotonic() + 30
                while watcher.execute(waiting).fetchone() is None:
                    assert not second.done(), "it did not wait for the property's lock"
                    assert time.monotonic() < deadline
        second.result(30)
    assert flags(base, property_id) == ({"b": "a"} if change == "match" else {})


def test_a_failed_photo_keeps_its_reason_and_a_new_upload_starts_over(
    base: database.Database, property_id: str
) -> None:
    photo = apply(base, event(property_id, "a")).photo
    with base.transaction() as connection:
        photos.fail(connection, photo, "corrupt", "bad \x00 bytes")
    found = row(base, photo)
    assert (found["status"], found["failure"]) == ("failed", "corrupt")
    assert "bad" in found["failure_message"]
    with base.transaction() as connection:
        assert photos.begin_attempt(connection, photo, Bundle.id) is None
    assert apply(base, event(property_id, "a", at=1)).photo.revision == 2


def test_an_object_that_is_gone_is_a_removal(base: database.Database, property_id: str) -> None:
    add(base, property_id, "a", 1, at=1)
    second = add(base, property_id, "b", 1, at=2)
    with base.transaction() as connection:
        photos.fail(connection, second, "object_gone", "")
    assert flags(base, property_id) == {}
    found = row(base, second)
    assert (found["status"], found["failure"]) == ("removed", "object_gone")


def test_attempts_are_counted_until_success(base: database.Database, property_id: str) -> None:
    photo = apply(base, event(property_id, "a")).photo
    for number in (1, 2):
        with base.transaction() as connection:
            attempt = photos.begin_attempt(connection, photo, Bundle.id)
        assert attempt is not None
        assert (attempt.number, attempt.embedded) == (number, False)
    assert embed(base, photo, vector(1))
    with base.transaction() as connection:
        attempt = photos.begin_attempt(connection, photo, Bundle.id)
    assert attempt is not None
    assert (attempt.number, attempt.embedded) == (1, True)


def test_a_verdict_wins_over_the_model(base: database.Database, property_id: str) -> None:
    first, second = add(base, property_id, "a", 1, at=1), add(base, property_id, "b", 1, at=2)
    third = add(base, property_id, "c", 0, 1, at=3)
    for one, other, duplicate in ((first, second, False), (first, third, True)):
        pair = groups.pair(one.photo_id, other.photo_id)
        rows(
            base,
            "INSERT INTO verdict (property_id, photo_a, photo_b, duplicate, decided_by)"
            " VALUES (%s, %s, %s, %s, 'ann') RETURNING 1",
            property_id,
            *pair,
            duplicate,
        )
    match(base, second)
    assert flags(base, property_id) == {"c": "a"}
    (flag,) = rows(base, "SELECT * FROM duplicate_flag WHERE property_id = %s", property_id)
    assert (flag["decided_by"], flag["score"]) == ("person", 1.0)


def test_matching_again_changes_nothing(base: database.Database, property_id: str) -> None:
    add(base, property_id, "a", 1, at=1)
    photo = add(base, property_id, "b", 1, 0.2, at=2)
    before = rows(base, "SELECT * FROM duplicate_flag WHERE property_id = %s", property_id)
    changes = feed(base, property_id)
    match(base, photo)
    assert rows(base, "SELECT * FROM duplicate_flag WHERE property_id = %s", property_id) == before
    assert feed(base, property_id) == changes


def test_pairs_below_the_review_threshold_are_not_kept(base: database.Database, property_id: str) -> None:
    add(base, property_id, "a", 1, at=1)
    add(base, property_id, "b", 0.7, 0.7, at=2)
    add(base, property_id, "c", 0, 0, 1, at=3)
    kept = rows(base, "SELECT score FROM pair WHERE property_id = %s", property_id)
    assert [round(pair["score"], 1) for pair in kept] == [0.7]
    assert flags(base, property_id) == {}


def test_only_the_nearest_neighbours_are_compared(base: database.Database, property_id: str) -> None:
    add(base, property_id, "far", 0.8, 0.6, at=1)
    add(base, property_id, "near", 1, 0.1, at=2)
    photo = apply(base, event(property_id, "new", at=3)).photo
    embed(base, photo, vector(1))
    assert match(base, photo, neighbours=1) == 1
    assert flags(base, property_id) == {"new": "near"}


def test_without_the_active_models_bundle_matching_is_put_off(
    base: database.Database, property_id: str
) -> None:
    photo = add(base, property_id, "a", 1)
    with base.transaction() as connection, pytest.raises(errors.TransientError, match=Bundle.id):
        matching.match(connection, property_id, photo.photo_id, {}, 10)


def test_overdue_photos_are_given_out_once_oldest_first(base: database.Database, property_id: str) -> None:
    waiting = [apply(base, event(property_id, name)).photo for name in ("a", "b", "c")]
    unmatched = apply(base, event(property_id, "d")).photo
    embed(base, unmatched, vector(1))
    fresh = apply(base, event(property_id, "e")).photo
    add(base, property_id, "done", 0, 1)
    for age, photo in enumerate([*waiting, unmatched], 1):
        rows(
            base,
            "UPDATE photo SET updated_at = now() - make_interval(days => %s) WHERE property_id = %s AND id = %s"
            " RETURNING 1",
            10 - age,
            property_id,
            photo.photo_id,
        )

    def overdue(limit: int) -> tuple[list[photos.Revision], list[photos.Revision]]:
        with base.transaction() as connection:
            return photos.overdue(connection, 86_400, limit)

    assert overdue(2) == (waiting[:2], [])
    assert overdue(10) == (waiting[2:], [unmatched])
    assert overdue(10) == ([], [])
    assert fresh not in waiting


def test_the_feed_holds_back_what_an_older_transaction_could_still_precede(
    base: database.Database, server: Server, property_id: str
) -> None:
    with psycopg.connect(server.url("test_photos")) as slow:
        slow.execute("SELECT pg_current_xact_id()")
        add(base, property_id, "a", 1, at=1)
        add(base, property_id, "b", 1, at=2)
        assert flags(base, property_id) == {"b": "a"}
        assert feed(base, property_id) == []
    assert feed(base, property_id) == [("b", "a")]


def test_the_groups_view(base: database.Database, property_id: str) -> None:
    for number, name in enumerate(("a", "b", "c")):
        add(base, property_id, name, 1, at=number)
    (group,) = rows(base, "SELECT * FROM listing_duplicate_groups WHERE property_id = %s", property_id)
    assert group["canonical_key"].endswith("/a")
    assert [key.rpartition("/")[2] for key in group["duplicate_keys"]] == ["b", "c"]
    assert group["photos"] == 3


def test_rejections_are_kept_with_their_reason(base: database.Database) -> None:
    with base.transaction() as connection:
        photos.reject(connection, events.Rejection("no_property", "why", 'body "\x00"'))
    (found,) = rows(base, "SELECT * FROM rejected_event")
    assert (found["reason"], found["message"], found["body"]) == ("no_property", "why", 'body "\\u0000"')


def test_an_untrained_bundle_is_refused_by_a_real_database(base: database.Database) -> None:
    class Untrained(Bundle):
        untrained = True

    bundle: Any = Untrained()
    with base.transaction() as connection, pytest.raises(errors.ConfigurationError, match="untrained"):
        models.register(connection, bundle)


def test_a_database_that_is_away_is_a_transient_error() -> None:
    away = database.Database("postgresql://nobody@127.0.0.1:1/nothing", wait_seconds=0.5)
    with pytest.raises(errors.TransientError), away.transaction():
        pass
    away.close()
