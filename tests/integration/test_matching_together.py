"""Photos of a property that are matched together end as they would one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from core import database, errors, events, matching, photos
from tests.integration import commits, ledger
from tests.integration.conftest import Server

OTHER_MODEL = "fedcba9876543210"
NAMES = "abcdefghi"


@pytest.fixture(scope="module", autouse=True)
def _models(base: database.Database) -> None:
    ledger.activate_model(base)
    with base.transaction() as connection:
        connection.execute(
            "INSERT INTO model (id, digest, name, dims, duplicate_threshold, review_threshold, untrained, card, status)"
            " VALUES (%s, 'e', 'cosine', 8, 0.8, 0.4, false, '{}', 'candidate')",
            (OTHER_MODEL,),
        )


def together(
    base: database.Database, wanted: Sequence[photos.Revision], neighbours: int = 50, bundles: Any = None
) -> dict[int, int] | None:
    with base.transaction() as connection:
        return matching.match_together(
            connection,
            wanted[0].property_id,
            [photo.photo_id for photo in wanted],
            bundles or ledger.BUNDLES,
            neighbours,
        )


def arrived(base: database.Database, property_id: str, seed: int) -> list[photos.Revision]:
    """Nine photos, the first three of them matched; each embedded by one model, the other, or both."""
    random = np.random.default_rng(seed)
    found = []
    for number, name in enumerate(NAMES):
        photo = ledger.apply(base, ledger.event(property_id, name, at=int(random.integers(100)))).photo
        models = [(ledger.Bundle.id, OTHER_MODEL), (ledger.Bundle.id,), (OTHER_MODEL,)][random.integers(3)]
        assert ledger.embed(base, photo, ledger.vector(*random.random(3)), model_ids=models)
        found.append(photo)
        if number < 3:
            ledger.match(base, photo)
    return found


def record(base: database.Database, property_id: str) -> list[list[tuple[Any, ...]]]:
    """Pairs, flags and what is matched, by the photos' names."""
    statements = (
        "SELECT right(a.key, 1) AS a, right(b.key, 1) AS b, model_id, round(score::numeric, 5) AS score FROM pair "
        "JOIN photo AS a ON a.property_id = pair.property_id AND a.id = photo_a "
        "JOIN photo AS b ON b.property_id = pair.property_id AND b.id = photo_b "
        "WHERE pair.property_id = %s ORDER BY 3, 1, 2",
        "SELECT right(photo.key, 1) AS name, right(original.key, 1) AS original, model_id, decided_by "
        "FROM duplicate_flag JOIN photo ON id = photo_id AND photo.property_id = duplicate_flag.property_id "
        "JOIN photo AS original ON original.id = duplicate_of AND original.property_id = photo.property_id "
        "WHERE photo.property_id = %s ORDER BY 1",
        "SELECT right(key, 1) AS name, matched_at IS NOT NULL AS matched FROM photo WHERE property_id = %s ORDER BY 1",
    )
    return [
        [tuple(row.values()) for row in ledger.rows(base, statement, property_id)] for statement in statements
    ]


@pytest.mark.parametrize("seed", range(5))
def test_it_ends_as_one_by_one(base: database.Database, seed: int) -> None:
    one_by_one, at_once = ledger.new_property(), ledger.new_property()
    for photo in arrived(base, one_by_one, seed)[2:]:
        ledger.match(base, photo)
    found = arrived(base, at_once, seed)
    pairs = together(base, found[2:])
    assert record(base, at_once) == record(base, one_by_one)
    on_record, _, matched = record(base, at_once)
    assert on_record
    assert all(done for _, done in matched)
    assert pairs == {
        photo.photo_id: sum(name in {a, b} for a, b, *_ in on_record)
        for photo, name in zip(found[2:], NAMES[2:], strict=True)
    }


def test_each_pair_is_scored_once(base: database.Database) -> None:
    place = ledger.new_property()
    found = [ledger.apply(base, ledger.event(place, name)).photo for name in NAMES]
    for photo in found:
        assert ledger.embed(base, photo, ledger.vector(1))
    scored = 0

    class Counting(ledger.Cosine):
        def score(self, a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            nonlocal scored
            scored += len(b)
            return super().score(a, b)

    class Bundles:
        def get(self, connection: database.Connection, model_id: str) -> Any:
            bundle = ledger.Bundle()
            bundle.classifier = Counting()
            return bundle

    together(base, found[:4], bundles=Bundles())
    # Three, two and one among the four, and each of them with the five others.
    assert scored == 3 + 2 + 1 + 4 * 5


def test_where_not_all_are_neighbours_nothing_is_done(base: database.Database) -> None:
    place = ledger.new_property()
    found = [ledger.apply(base, ledger.event(place, name)).photo for name in NAMES]
    for photo in found:
        assert ledger.embed(base, photo, ledger.vector(1))
    assert together(base, found[:2], neighbours=7) is None
    assert record(base, place)[0] == []
    assert together(base, found[:2], neighbours=8) == {photo.photo_id: 8 for photo in found[:2]}


def test_a_photo_that_is_gone_is_left_out(base: database.Database) -> None:
    place = ledger.new_property()
    found = [ledger.apply(base, ledger.event(place, name)).photo for name in "abc"]
    for photo in found:
        assert ledger.embed(base, photo, ledger.vector(1))
    ledger.apply(base, ledger.event(place, "b", at=9, kind=events.Kind.REMOVED))
    assert together(base, found) == {photo.photo_id: 1 for photo in (found[0], found[2])}
    assert ledger.flags(base, place) == {"c": "a"}
    assert together(base, found[1:2]) == {}


def test_a_photo_that_no_live_model_has_embedded_is_not_matched(base: database.Database) -> None:
    place = ledger.new_property()
    found = [ledger.apply(base, ledger.event(place, name)).photo for name in "abc"]
    for photo in found:
        assert ledger.embed(base, photo, ledger.vector(1))
    with base.transaction() as connection:
        connection.execute("DELETE FROM photo_embedding WHERE photo_id = %s", (found[1].photo_id,))
    together(base, found)
    assert record(base, place)[2] == [("a", True), ("b", False), ("c", True)]


def test_a_candidate_that_cannot_be_read_keeps_only_its_own_photos_unmatched(
    base: database.Database,
) -> None:
    class Bundles:
        def get(self, connection: database.Connection, model_id: str) -> ledger.Bundle:
            if model_id == OTHER_MODEL:
                raise errors.ConfigurationError("of a newer version")
            return ledger.Bundle()

    place = ledger.new_property()
    both, beside, active = [ledger.apply(base, ledger.event(place, name)).photo for name in "abc"]
    for photo in (both, beside):
        assert ledger.embed(base, photo, ledger.vector(1), model_ids=(ledger.Bundle.id, OTHER_MODEL))
    assert ledger.embed(base, active, ledger.vector(1))
    together(base, [both, active], bundles=Bundles())
    assert record(base, place)[2] == [("a", False), ("b", False), ("c", True)]
    assert ledger.flags(base, place) == {"b": "a", "c": "a"}


def test_a_model_of_photos_that_are_not_matched_now_is_not_asked(base: database.Database) -> None:
    class Bundles:
        def get(self, connection: database.Connection, model_id: str) -> ledger.Bundle:
            assert model_id == ledger.Bundle.id
            return ledger.Bundle()

    place = ledger.new_property()
    embedded, pending = [ledger.apply(base, ledger.event(place, name)).photo for name in "ab"]
    assert ledger.embed(base, embedded, ledger.vector(1))
    assert ledger.embed(base, pending, ledger.vector(1), model_ids=(OTHER_MODEL,))
    with base.transaction() as connection:
        connection.execute("UPDATE photo SET status = 'pending' WHERE id = %s", (pending.photo_id,))
    assert together(base, [embedded, pending], bundles=Bundles()) == {embedded.photo_id: 0}


def test_pairs_that_are_none_any_more_go(base: database.Database) -> None:
    place = ledger.new_property()
    found = [ledger.add(base, place, name, 1, at=at) for at, name in enumerate("abcd")]
    # The same bytes, embedded anew.
    for photo in found[2:]:
        assert ledger.embed(base, photo, ledger.vector(0, 1))
    together(base, found[2:])
    assert ledger.flags(base, place) == {"b": "a", "d": "c"}
    assert [row[:2] for row in record(base, place)[0]] == [("a", "b"), ("c", "d")]


def test_it_waits_for_the_disk_where_no_sweep_would_do_it_again(
    base: database.Database, server: Server
) -> None:
    place = ledger.new_property()
    found = [ledger.apply(base, ledger.event(place, name)).photo for name in "abcd"]
    for photo, values in zip(found, ((1,), (0.7, 0.7), (0, 0, 1), (0, 0, 0.7, 0.7)), strict=True):
        assert ledger.embed(base, photo, ledger.vector(*values))

    def waits(wanted: Sequence[photos.Revision]) -> str:
        ids = [photo.photo_id for photo in wanted]
        return commits.setting(
            base,
            lambda connection: matching.match_together(connection, place, ids, ledger.BUNDLES, 50),
        )

    with commits.told(server.url("test_matching_together")):
        assert [waits(found[:2]), waits(found[1:3]), waits(found[2:])] == ["off", "on", "on"]
