"""A photo whose match always fails comes to an end, with its reason; one whose match was not tried waits."""

from __future__ import annotations

import pytest

from core import attempts, database, errors, failures, photos, settings
from tests.integration import ledger
from workers import match, regrouping, sweep, switching, tasks

ROUNDS = 2
CONFIG = settings.Settings(sweep_rounds=ROUNDS)


@pytest.fixture(scope="module", autouse=True)
def _model(base: database.Database) -> None:
    ledger.activate_model(base)
    tasks.prepare(CONFIG, base)


@pytest.fixture
def unmatched(base: database.Database) -> photos.Revision:
    """A photo beside two that are duplicates."""
    property_id = ledger.new_property()
    for number, name in enumerate(("a", "b")):
        ledger.add(base, property_id, name, 1, at=number)
    photo = ledger.apply(base, ledger.event(property_id, "c", at=2)).photo
    assert ledger.embed(base, photo, ledger.vector(1))
    return photo


def gives_up(photo: photos.Revision, postponed: int, error: Exception) -> None:
    """What Celery calls after the last attempt of a match."""
    arguments: dict[str, object] = {"property_id": photo.property_id, "photo_id": photo.photo_id}
    if postponed:
        arguments["postponed"] = postponed
    match.match_photo.on_failure(error, "task", (), arguments, None)


def test_a_match_that_always_fails_is_parked_with_its_reason(
    base: database.Database, unmatched: photos.Revision
) -> None:
    for number in range(ROUNDS):
        for _ in range(3):
            # A task, and copies of it.
            gives_up(unmatched, number, ValueError("no \x00 number"))
        found = ledger.row(base, unmatched)
        assert (found["status"], found["postponed"]) == ("embedded", number + 1)
    gives_up(unmatched, ROUNDS, ValueError("no \x00 number"))
    choice = failures.Choice("unmatched", unmatched.property_id)
    with base.transaction() as connection:
        (failure,) = failures.find(connection, choice, 10)
    assert failure.message is not None
    assert failure.message.startswith("ValueError: no ")
    assert ledger.flags(base, unmatched.property_id) == {"b": "a"}, "the others keep theirs"
    # Put back, it begins anew.
    with base.transaction() as connection:
        (back,) = failures.put_back(connection, choice, None, 10)
    assert ledger.embed(base, back, ledger.vector(1))
    ledger.match(base, back)
    assert ledger.flags(base, unmatched.property_id) == {"b": "a", "c": "a"}


def test_a_match_that_comes_through_ends_the_count(
    base: database.Database, unmatched: photos.Revision
) -> None:
    gives_up(unmatched, 0, ValueError("once"))
    ledger.match(base, unmatched)
    assert ledger.row(base, unmatched)["postponed"] == 0
    gives_up(unmatched, ROUNDS, ValueError("a late copy"))
    found = ledger.row(base, unmatched)
    assert (found["status"], found["postponed"]) == ("embedded", 0)


def test_among_many_only_the_one_that_fails_is_counted(
    base: database.Database, unmatched: photos.Revision, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ledger.apply(base, ledger.event(unmatched.property_id, "d", at=3)).photo
    assert ledger.embed(base, other, ledger.vector(1))

    def fails(property_id: str, photo_id: int) -> None:
        if photo_id == unmatched.photo_id:
            raise ValueError("this one")

    monkeypatch.setattr(match, "_match", fails)
    both = [(photo.property_id, photo.photo_id, None) for photo in (unmatched, other)]
    match.match_many.apply(kwargs={"photos": both}, throw=True)
    assert [ledger.row(base, photo)["postponed"] for photo in (unmatched, other)] == [1, 0]


def test_the_sweep_tells_the_round_and_parks_nobody_that_was_not_tried(
    base: database.Database, unmatched: photos.Revision, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []

    def publish(property_id: str, photo_id: int, *, postponed: int) -> None:
        if photo_id == unmatched.photo_id:
            told.append(postponed)

    monkeypatch.setattr(sweep, "publish_match", publish)
    config = CONFIG.model_copy(update={"sweep_after_seconds": 0.0})
    for _ in range(ROUNDS + 2):
        sweep.sweep(config, base, switching.Switcher(base))
    assert told == [0] * (ROUNDS + 2)
    assert ledger.row(base, unmatched)["status"] == "embedded"
    with base.transaction() as connection:
        assert attempts.match_failed(connection, unmatched.property_id, unmatched.photo_id, 0) == (
            unmatched,
            1,
        )
    sweep.sweep(config, base, switching.Switcher(base))
    assert told[-1] == 1


def test_locked_properties_keep_nothing_that_is_overdue(
    base: database.Database, unmatched: photos.Revision, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[int] = []

    def locked(base: database.Database) -> int:
        raise errors.TransientError("lock timeout")

    monkeypatch.setattr(regrouping, "apply_waiting", locked)
    monkeypatch.setattr(sweep, "publish_match", lambda _, photo_id, postponed: published.append(photo_id))
    with pytest.raises(errors.TransientError, match="lock timeout"):
        sweep.sweep(CONFIG.model_copy(update={"sweep_after_seconds": 0.0}), base, switching.Switcher(base))
    assert unmatched.photo_id in published
