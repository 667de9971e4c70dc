"""Photos that move to another property, and properties that are removed."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import re

import numpy as np
import pytest

from core import database, events, photos, properties
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
    row,
    rows,
    vector,
    verdict,
)


@pytest.fixture(scope="module", autouse=True)
def _model(base: database.Database) -> None:
    activate_model(base)


@pytest.fixture
def old() -> str:
    return new_property()


@pytest.fixture
def new() -> str:
    return new_property()


def to(property_id: str, change: events.Event) -> events.Event:
    """The same object by a key pattern that gives it to another property."""
    return dataclasses.replace(change, property_id=property_id)


def move(base: database.Database, property_id: str, change: events.Event, *values: float) -> photos.Revision:
    applied = apply(base, to(property_id, change))
    assert applied.outcome is photos.Outcome.PENDING
    assert embed(base, applied.photo, vector(*values))
    match(base, applied.photo)
    return applied.photo


def live(base: database.Database, change: events.Event) -> list[tuple[str, str]]:
    """Where an object is on record: property and status."""
    found = rows(
        base, "SELECT property_id, status FROM photo WHERE key = %s AND status <> 'removed'", change.key
    )
    return [(item["property_id"], item["status"]) for item in found]


def test_copied_and_deleted(base: database.Database, old: str, new: str) -> None:
    for at, name in enumerate(("a", "b", "c")):
        add(base, old, name, 1, at=at)
    add(base, new, "x", 1, at=1)
    assert flags(base, old) == {"b": "a", "c": "a"}
    add(base, new, "a", 1, at=9)
    apply(base, event(old, "a", at=10, kind=events.Kind.REMOVED))
    assert flags(base, old) == {"c": "b"}
    assert flags(base, new) == {"a": "x"}


def test_by_another_key_pattern(base: database.Database, old: str, new: str) -> None:
    for at, name in enumerate(("a", "b", "c")):
        add(base, old, name, 1, at=at)
    add(base, new, "x", 1, at=-1)
    photo = move(base, new, event(old, "a", at=5), 1)
    assert flags(base, old) == {"c": "b"}
    assert flags(base, new) == {"a": "x"}
    assert live(base, event(old, "a")) == [(new, "embedded")]
    assert rows(base, "SELECT 1 FROM photo_embedding WHERE property_id = %s", old) != []
    assert len(rows(base, "SELECT 1 FROM photo_embedding WHERE property_id = %s", old)) == 2
    # The same event once more changes nothing.
    again = apply(base, to(new, event(old, "a", at=5)))
    assert (again.outcome, again.photo) == (photos.Outcome.IGNORED, photo)
    assert flags(base, new) == {"a": "x"}
    assert feed(base, old)[-2:] == [("b", None), ("c", "b")]


@pytest.mark.parametrize("sequencers", [("0A", "0B"), ("", "")])
def test_there_and_back_again(
    base: database.Database, old: str, new: str, sequencers: tuple[str, str]
) -> None:
    add(base, old, "b", 1, at=9)
    first = event(old, "a", at=1, sequencer=sequencers[0])
    photo = apply(base, first).photo
    assert embed(base, photo, vector(1))
    match(base, photo)
    assert flags(base, old) == {"b": "a"}
    move(base, new, first, 1)
    assert flags(base, old) == {}
    back = move(base, old, first, 1)
    assert back.photo_id == photo.photo_id
    assert flags(base, old) == {"b": "a"}
    assert live(base, first) == [(old, "embedded")]
    # Its life goes on: a new picture, a removal.
    second = event(old, "a", at=2, etag="e2", sequencer=sequencers[1])
    move(base, new, second, 0, 1)
    apply(base, to(new, dataclasses.replace(second, kind=events.Kind.REMOVED, etag="", sequencer="")))
    assert live(base, first) == []


def test_a_late_event_brings_along_what_is_known_since(base: database.Database, old: str, new: str) -> None:
    apply(base, event(old, "a", sequencer="01"))
    apply(base, event(old, "a", sequencer="03", etag="e3"))
    late = apply(base, to(new, event(old, "a", sequencer="02", etag="e2")))
    assert late.outcome is photos.Outcome.PENDING
    found = row(base, late.photo)
    assert (found["etag"], found["sequencer"]) == ("e3", "03")
    gone = apply(base, to(new, event(old, "a", sequencer="02", kind=events.Kind.REMOVED)))
    assert gone.outcome is photos.Outcome.PENDING
    assert live(base, event(old, "a")) == [(new, "pending")]


def test_a_removal_reaches_the_photo_where_it_was(base: database.Database, old: str, new: str) -> None:
    add(base, old, "a", 1, at=1)
    add(base, old, "b", 1, at=2)
    apply(base, to(new, event(old, "a", at=5, kind=events.Kind.REMOVED)))
    assert live(base, event(old, "a")) == []
    assert flags(base, old) == {}


def test_verdicts_go_along_with_both_photos(base: database.Database, old: str, new: str) -> None:
    a, b, c = (
        add(base, old, name, *values, at=at)
        for at, (name, values) in enumerate({"a": (1,), "b": (1,), "c": (0, 1)}.items())
    )
    verdict(base, a, b, False)
    verdict(base, a, c, True)
    verdict(base, b, c, False)
    # Another picture by now: what was said of the old one stays behind.
    move(base, new, event(old, "b", at=8, etag="e2"), 1)
    move(base, new, event(old, "c", at=2), 0, 1)
    assert flags(base, new) == {}
    move(base, new, event(old, "a", at=0), 1)
    assert flags(base, new) == {"c": "a", "b": "a"}
    (found,) = rows(base, "SELECT duplicate, decided_by FROM verdict WHERE property_id = %s", new)
    assert (found["duplicate"], found["decided_by"]) == (True, "ann")


def test_photos_that_swap_their_properties_at_once(base: database.Database, old: str, new: str) -> None:
    names = [str(number) for number in range(12)]
    homes = {name: (old, new)[place % 2] for place, name in enumerate(names)}
    for name, home in homes.items():
        apply(base, event(home, name))
    changes = [
        to(new if home == old else old, event(home, name, at=number))
        for name, home in homes.items()
        for number in (1, 2)
    ]
    order = np.random.default_rng(0).permutation(len(changes))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for applied in pool.map(lambda index: apply(base, changes[index]), order):
            assert applied.outcome is photos.Outcome.PENDING
    for name, home in homes.items():
        assert live(base, event(home, name)) == [(new if home == old else old, "pending")]


def test_one_object_under_two_key_patterns_at_once(base: database.Database) -> None:
    for _ in range(10):
        homes = [new_property() for _ in range(4)]
        change = event(homes[0], "a")
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda home, change=change: apply(base, to(home, change)), homes))
        ((home, status),) = live(base, change)
        assert (home in homes, status) == (True, "pending")


def test_what_a_changed_key_pattern_moved_is_found(base: database.Database, old: str) -> None:
    for name in ("house-7-a", "house-7-b", "house-8-c", "none"):
        add(base, old, name, 1)
    pattern = events.KeyPattern(
        re.compile(rf"properties/{old}/photos/(?P<property>house-\d)-(?P<name>.+)"), frozenset({"photos"})
    )
    found: list[events.Event] = []
    unassigned = pages = 0
    last: tuple[str, int] | None = (old, 0)
    while last is not None:
        with base.transaction() as connection:
            page = properties.moved(connection, pattern, last, 3)
        found += page.moved
        unassigned += page.unassigned
        last = page.last
        pages += 1
    assert pages >= 2
    assert [(item.property_id, item.key.rpartition("-")[2], item.etag) for item in found] == [
        ("house-7", "a", "e1"),
        ("house-7", "b", "e1"),
        ("house-8", "c", "e1"),
    ]
    assert unassigned >= 1
    for change in found:
        move(base, change.property_id, change, 1)
    assert flags(base, "house-7") == {"house-7-b": "house-7-a"}
    assert flags(base, old) == {}
    with base.transaction() as connection:
        assert properties.moved(connection, pattern, (old, 0), 1000).moved == ()


def remove(base: database.Database, property_id: str) -> int:
    with base.transaction() as connection:
        return properties.remove(connection, property_id)


def test_a_removed_property_leaves_nothing_but_its_feed(base: database.Database, old: str, new: str) -> None:
    first = add(base, old, "a", 1, at=1)
    add(base, old, "b", 1, at=2)
    add(base, new, "a", 1, at=1)
    add(base, new, "b", 1, at=2)
    waiting = apply(base, event(old, "c", at=3)).photo
    assert remove(base, old) == 3
    assert flags(base, old) == {}
    assert feed(base, old) == [("b", "a"), ("b", None)]
    for table in ("photo_embedding", "pair", "duplicate_flag"):
        assert rows(base, f"SELECT 1 FROM {table} WHERE property_id = %s", old) == []  # noqa: S608 - from above
    assert (row(base, first)["status"], row(base, first)["failure"]) == ("removed", "property_removed")
    assert remove(base, old) == 0
    assert len(feed(base, old)) == 2
    assert not embed(base, waiting, vector(1)), "an embedding on its way comes too late"
    assert remove(base, "a property that never was") == 0
    assert flags(base, new) == {"b": "a"}


@pytest.mark.parametrize("sequencer", ["", "0A"])
def test_old_events_bring_no_removed_property_back_but_new_uploads_do(
    base: database.Database, old: str, sequencer: str
) -> None:
    known = event(old, "a", at=1, sequencer=sequencer)
    apply(base, known)
    remove(base, old)
    assert apply(base, known).outcome is photos.Outcome.IGNORED
    assert apply(base, event(old, "a", at=0, etag="e0")).outcome is photos.Outcome.IGNORED
    assert live(base, known) == []
    later = event(old, "a", at=10 * 365 * 86_400, etag="e2", sequencer=sequencer and "0B")
    assert apply(base, later).outcome is photos.Outcome.PENDING


def test_removed_while_its_photos_are_matched(base: database.Database) -> None:
    for _ in range(5):
        property_id = new_property()
        found = [add(base, property_id, name, 1, at=at) for at, name in enumerate(("a", "b", "c"))]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            matching = [pool.submit(match, base, photo) for photo in found]
            removed = [pool.submit(remove, base, property_id) for _ in range(2)]
            for one in matching:
                one.result(30)
            assert sorted(one.result(30) for one in removed) == [0, 3]
        assert flags(base, property_id) == {}
        assert rows(base, "SELECT 1 FROM pair WHERE property_id = %s", property_id) == []
