from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pytest

from core import attempts, database, errors, events, models, photos
from tests.integration.ledger import (
    Bundle,
    activate_model,
    add,
    apply,
    embed,
    event,
    feed,
    flags,
    match,
    new_property,
    row,
    rows,
    vector,
    verdict,
)


@pytest.fixture(scope="module", autouse=True)
def _model(base: database.Database) -> None:
    activate_model(base)


@pytest.fixture
def property_id() -> str:
    return new_property()


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
    assert row(base, first.photo)["revision"] == 1
    # Uploaded once more: nothing to embed, but what was read before must not be kept.
    assert apply(base, event(property_id, "a", at=9)).outcome is photos.Outcome.IGNORED
    assert row(base, first.photo)["revision"] == 2


def test_a_replaced_picture_loses_its_flags_and_verdicts(base: database.Database, property_id: str) -> None:
    first = add(base, property_id, "a", 1, at=1)
    second = add(base, property_id, "b", 1, at=2)
    verdict(base, first, second, True)
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
    property_id = new_property()
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
    property_id = new_property()
    times = {0: "x", 10: "y", 20: "x"}
    history = [event(property_id, "a", at=at, etag=etag) for at, etag in times.items()]
    for index in np.random.default_rng(seed).permutation(len(history) * 2):
        applied = apply(base, history[index % len(history)])
    found = row(base, applied.photo)
    assert (found["etag"], found["uploaded_at"]) == ("x", history[-1].occurred_at)


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


def test_what_was_read_before_a_newer_event_is_dropped_though_that_brings_the_same_picture(
    base: database.Database, property_id: str
) -> None:
    before = apply(base, event(property_id, "a", at=0, sequencer="01", etag="x")).photo
    # Its worker reads while the object is gone, or another picture is there for a moment. The event of the
    # picture's return overtakes the one between.
    back = apply(base, event(property_id, "a", at=20, sequencer="03", etag="x"))
    assert back.outcome is photos.Outcome.PENDING
    with base.transaction() as connection:
        photos.fail(connection, before, "object_gone", "")
        photos.fail(connection, before, "corrupt", "")
    assert not embed(base, before, vector(0, 1), etag="y")
    assert embed(base, back.photo, vector(1), etag="x")
    late = event(property_id, "a", at=10, sequencer="02", kind=events.Kind.REMOVED)
    assert apply(base, late).outcome is photos.Outcome.IGNORED
    found = row(base, back.photo)
    assert (found["status"], found["etag"]) == ("embedded", "x")


def test_a_second_task_begun_before_a_newer_event_changes_nothing(
    base: database.Database, property_id: str
) -> None:
    before = add(base, property_id, "a", 1, at=0)
    assert apply(base, event(property_id, "a", at=20)).outcome is photos.Outcome.IGNORED
    assert not embed(base, before, vector(0, 1), etag="y")
    with base.transaction() as connection:
        photos.fail(connection, before, "object_gone", "")
    found = row(base, before)
    assert (found["status"], found["etag"], found["matched_at"] is None) == ("embedded", "e1", False)
    (kept,) = rows(base, "SELECT revision FROM photo_embedding WHERE property_id = %s", property_id)
    assert kept["revision"] == found["revision"]


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
        attempts.begin_attempt(connection, photo, known=[Bundle.id])
        attempts.excuse(connection, photo)
    assert row(base, photo)["attempts"] == 0
    for number in (1, 2):
        for _ in range(200):
            # A swarm of events, each with a task of its own, all of which gave up in the same outage.
            with base.transaction() as connection:
                assert attempts.postpone(connection, photo, number - 1) == number
    with base.transaction() as connection:
        assert attempts.postpone(connection, photo, 0) == 2, "a late copy of the first round"
    assert row(base, photo)["status"] == "pending"
    assert embed(base, photo, vector(1))
    assert row(base, photo)["postponed"] == 0


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
        assert attempts.begin_attempt(connection, photo, known=[Bundle.id]) is None
    assert apply(base, event(property_id, "a", at=1)).photo.revision == 2


def test_an_object_that_is_gone_is_a_removal(base: database.Database, property_id: str) -> None:
    add(base, property_id, "a", 1, at=1)
    second = add(base, property_id, "b", 1, at=2)
    with base.transaction() as connection:
        photos.fail(connection, second, "object_gone", "")
    assert flags(base, property_id) == {}
    found = row(base, second)
    assert (found["status"], found["failure"]) == ("removed", "object_gone")


def test_a_photo_that_was_lost_is_counted_again_only_when_it_is_tried_alone(
    base: database.Database, property_id: str
) -> None:
    photo = apply(base, event(property_id, "a")).photo

    def begin(*, alone: bool = False, again: str | None = None) -> attempts.Attempt:
        with base.transaction() as connection:
            attempt = attempts.begin_attempt(connection, photo, known=[Bundle.id], alone=alone, again=again)
        assert attempt is not None
        return attempt

    losses = [begin().lost for _ in range(3)]
    assert losses == [0, 1, 1], "lost with its company once, however often"
    assert [begin(alone=True).lost for _ in range(3)] == [1, 2, 3]
    with base.transaction() as connection:
        attempts.excuse(connection, photo)
    assert row(base, photo)["attempts"] == 3
    assert embed(base, photo, vector(1))
    again = begin()
    assert (again.lost, again.embedded) == (0, True)
    assert row(base, photo)["attempts"] == 0, "a copy of its task counts nothing"
    embedded_at = row(base, photo)["updated_at"]
    assert begin(again=embedded_at.isoformat()).embedded, "anew, and that it is"
    assert not begin(again=(embedded_at + datetime.timedelta(seconds=1)).isoformat()).embedded
    assert row(base, photo)["attempts"] == 1


@pytest.mark.parametrize("end", ["outage", "corrupt", "embedded"])
def test_copies_of_a_task_in_many_processes_are_no_losses(
    base: database.Database, property_id: str, end: str
) -> None:
    photo = apply(base, event(property_id, "a")).photo
    losses = []
    for _ in range(4):
        with base.transaction() as connection:
            attempt = attempts.begin_attempt(connection, photo, known=[Bundle.id], alone=True)
        assert attempt
        losses.append(attempt.lost)
    assert losses == [0, 1, 2, 3], "three are at work on it, and the fourth takes them for lost"
    with base.transaction() as connection:
        photos.fail(connection, photo, "killed_worker", "lost 3 times")
    if end == "embedded":
        assert embed(base, photo, vector(1))
    else:
        with base.transaction() as connection:
            if end == "outage":
                attempts.excuse(connection, photo)
            else:
                photos.fail(connection, photo, "corrupt", "")
    found = row(base, photo)
    expected = {"outage": ("pending", None), "corrupt": ("failed", "corrupt"), "embedded": ("embedded", None)}
    assert (found["status"], found["failure"]) == expected[end]


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

    def overdue(limit: int) -> tuple[list[photos.Overdue], list[photos.Overdue]]:
        with base.transaction() as connection:
            return photos.overdue(connection, 86_400, limit)

    with base.transaction() as connection:
        attempts.postpone(connection, waiting[1], 4)
    assert overdue(2) == ([photos.Overdue(waiting[0], 0), photos.Overdue(waiting[1], 5)], [])
    assert overdue(10) == ([photos.Overdue(waiting[2], 0)], [photos.Overdue(unmatched, 0)])
    assert overdue(10) == ([], [])
    assert fresh not in waiting


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
        models.add(connection, bundle)


def test_a_database_that_is_away_is_a_transient_error() -> None:
    away = database.Database("postgresql://nobody@127.0.0.1:1/nothing", wait_seconds=0.5)
    with pytest.raises(errors.TransientError), away.transaction():
        pass
    away.close()
