from __future__ import annotations

import concurrent.futures
import itertools
import time

import numpy as np
import psycopg
import pytest

from core import database, errors, events, matching, photos, registry
from tests.integration import commits
from tests.integration.conftest import Server
from tests.integration.ledger import (
    BUNDLES,
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


def test_duplicates_are_flagged_to_the_earliest(base: database.Database, property_id: str) -> None:
    add(base, property_id, "late", 1, 0.1, at=10)
    add(base, property_id, "early", 1, at=1)
    add(base, property_id, "other", 0, 0, 1, at=5)
    assert flags(base, property_id) == {"late": "early"}
    assert feed(base, property_id) == [("late", "early")]


def test_only_what_readers_may_have_seen_waits_for_the_disk(
    base: database.Database, server: Server, property_id: str
) -> None:
    """A match that changes no flag is found undone by the sweep if a crash takes it along."""

    def waits(photo: photos.Revision) -> str:
        return commits.setting(
            base,
            lambda connection: matching.match(connection, property_id, photo.photo_id, BUNDLES, 50),
        )

    made = [apply(base, event(property_id, name, at=at)).photo for at, name in enumerate("abc")]
    with commits.told(server.url("test_matching")):
        found = []
        for photo, values in zip(made, ((1, 0), (0, 1), (1, 0.1)), strict=True):
            assert embed(base, photo, vector(*values))
            found.append(waits(photo))
        found.append(waits(made[0]))
        # Nothing is flagged by it, but that it was applied is told to whoever gave it.
        verdict(base, made[0], made[1], duplicate=False)
        photo = apply(base, event(property_id, "d", at=3)).photo
        assert embed(base, photo, vector(0, 0, 1))
        found.append(waits(photo))
    assert found == ["off", "off", "on", "on", "on"]
    assert flags(base, property_id) == {"c": "a"}
    with base.transaction() as connection:
        assert connection.execute("SHOW synchronous_commit").fetchone() == {"synchronous_commit": "on"}


def test_flags_do_not_depend_on_the_order_of_arrival(base: database.Database) -> None:
    content = {
        "a": (0.0, (1.0, 0.0)),
        "b": (1.0, (1.0, 0.3)),
        "c": (2.0, (1.0, 0.7)),
        "d": (3.0, (1.0, 0.05)),
    }
    results = []
    for order in itertools.permutations(content):
        property_id = new_property()
        for name in order:
            at, values = content[name]
            add(base, property_id, name, *values, at=at)
        results.append(flags(base, property_id))
    assert all(result == results[0] for result in results)
    assert results[0] == {"b": "a", "d": "a"}


def test_embeddings_arrive_as_they_were_stored(base: database.Database, property_id: str) -> None:
    stored = np.random.default_rng(4).normal(size=(3, len(vector(1)))).astype(np.float16)
    for name, values in zip("abc", stored, strict=True):
        assert embed(base, apply(base, event(property_id, name)).photo, values.astype(np.float32))
    with base.transaction() as connection:
        row = connection.execute(
            "SELECT count(*) AS n, string_agg(halfvec_send(embedding), '' ORDER BY photo_id) AS sent "
            "FROM photo_embedding WHERE property_id = %s",
            [property_id],
            binary=True,
        ).fetchone()
    assert row is not None
    np.testing.assert_array_equal(database.halfvecs(row["sent"], row["n"]), stored)


def test_every_finite_half_keeps_its_value() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = every[np.isfinite(every)].reshape(2, -1)
    heads = np.zeros((2, 2), dtype=np.float16)
    found = database.halfvecs(np.hstack([heads, halves]).astype(">f2").tobytes(), 2)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, halves.astype(np.float32))
    np.testing.assert_array_equal(np.signbit(found), np.signbit(halves))


def test_other_properties_are_not_compared(base: database.Database) -> None:
    one, other = new_property(), new_property()
    add(base, one, "a", 1)
    add(base, other, "b", 1)
    assert flags(base, one) == flags(base, other) == {}


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
            with psycopg.connect(server.url("test_matching"), autocommit=True) as watcher:
                deadline = time.monotonic() + 30
                while watcher.execute(waiting).fetchone() is None:
                    assert not second.done(), "it did not wait for the property's lock"
                    assert time.monotonic() < deadline
        second.result(30)
    assert flags(base, property_id) == ({"b": "a"} if change == "match" else {})


def test_a_verdict_wins_over_the_model(base: database.Database, property_id: str) -> None:
    first, second = add(base, property_id, "a", 1, at=1), add(base, property_id, "b", 1, at=2)
    third = add(base, property_id, "c", 0, 1, at=3)
    verdict(base, first, second, False)
    verdict(base, first, third, True)
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


def test_without_a_models_bundle_matching_is_put_off(base: database.Database, property_id: str) -> None:
    add(base, property_id, "a", 1)
    photo = apply(base, event(property_id, "b")).photo
    embed(base, photo, vector(1))
    with base.transaction() as connection, pytest.raises(errors.TransientError, match=Bundle.id):
        matching.match(connection, property_id, photo.photo_id, registry.Registry(), 10)


def test_the_feed_holds_back_what_an_older_transaction_could_still_precede(
    base: database.Database, server: Server, property_id: str
) -> None:
    with psycopg.connect(server.url("test_matching")) as slow:
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


def test_pairs_between_the_bands_are_for_review_until_somebody_decides(
    base: database.Database, property_id: str
) -> None:
    first = add(base, property_id, "a", 1, 0)
    second = add(base, property_id, "b", 0.8, 0.6, at=1)
    add(base, property_id, "c", 1, 0.01, at=2)
    add(base, property_id, "d", 0, 0, 1, at=3)

    def review() -> list[tuple[str, str]]:
        found = rows(base, "SELECT key_a, key_b FROM listing_review WHERE property_id = %s", property_id)
        return sorted((row["key_a"][-1], row["key_b"][-1]) for row in found)

    assert review() == [("a", "b"), ("b", "c")]
    verdict(base, first, second, duplicate=False)
    assert review() == [("b", "c")]


def test_a_pair_that_is_none_any_more_goes(base: database.Database, property_id: str) -> None:
    add(base, property_id, "a", 1, at=1)
    photo = add(base, property_id, "b", 1, at=2)
    assert flags(base, property_id) == {"b": "a"}
    # Other bytes, and no event has told it yet.
    assert embed(base, photo, vector(0, 1), sha256="other")
    match(base, photo)
    assert rows(base, "SELECT * FROM pair WHERE property_id = %s", property_id) == []
    assert flags(base, property_id) == {}


def test_photos_are_marked_by_their_key_though_nothing_was_unfinished_once(
    base: database.Database, server: Server
) -> None:
    """By the index of unfinished photos, each mark would go through all of a heap that came since."""
    del base
    with psycopg.connect(server.url("test_matching"), autocommit=True) as owner:
        owner.execute(
            "INSERT INTO photo (property_id, bucket, key, etag, sequencer, occurred_at, uploaded_at, status, "
            "matched_at) SELECT 'many', 'photos', number::text, '', '', now(), now(), 'embedded', now()"
            " FROM generate_series(1, 3000) AS number"
        )
        owner.execute("UPDATE photo SET matched_at = now() WHERE matched_at IS NULL")
        owner.execute("VACUUM (ANALYZE) photo")
        # As match workers have it planned.
        owner.execute("SET plan_cache_mode = force_generic_plan")
        statement = (
            database.query("matched").replace(b"%(property_id)s", b"$1").replace(b"%(photo_ids)s", b"$2")
        )
        owner.execute(b"PREPARE matched (text, bigint[]) AS " + statement)
        plan = [line for (line,) in owner.execute("EXPLAIN EXECUTE matched ('many', '{1}')").fetchall()]
    assert any("photo_pkey" in line for line in plan), plan


@pytest.mark.parametrize("together", [False, True])
def test_what_people_said_of_a_photo_that_is_flagged_nowhere_goes_with_its_bytes(
    base: database.Database, property_id: str, *, together: bool
) -> None:
    made = {name: add(base, property_id, name, *np.eye(4)[at], at=at) for at, name in enumerate("acxb")}
    for one, other, duplicate in (("a", "c", True), ("c", "x", True), ("x", "b", True), ("a", "x", False)):
        verdict(base, made[one], made[other], duplicate)
    match(base, made["a"])
    assert flags(base, property_id) == {"c": "a", "b": "a"}
    # No event has told of it yet. The photo has no pair, and no flag speaks of it.
    assert embed(base, made["x"], vector(*np.eye(5)[4]), sha256="other")
    _match(base, [made["x"]], together=together)
    assert flags(base, property_id) == {"c": "a"}


@pytest.mark.parametrize("together", [False, True])
def test_only_who_finds_no_pair_commits_at_once(
    base: database.Database, property_id: str, *, together: bool
) -> None:
    for name, values, status in (
        ("first", (1,), "INTRANS"),  # its property shows no model yet
        ("other", (0, 1), "IDLE"),
        ("pair", (1,), "INTRANS"),
    ):
        photo = apply(base, event(property_id, name)).photo
        assert embed(base, photo, vector(*values))
        with base.transaction() as connection:
            if together:
                matching.match_together(connection, property_id, [photo.photo_id], BUNDLES, 50)
            else:
                matching.match(connection, property_id, photo.photo_id, BUNDLES, 50)
            assert connection.info.transaction_status.name == status
        assert row(base, photo)["matched_at"] is not None


def test_a_commit_that_fails_leaves_the_photo_unmatched(
    base: database.Database, server: Server, property_id: str
) -> None:
    add(base, property_id, "a", 1)
    photo = apply(base, event(property_id, "b")).photo
    assert embed(base, photo, vector(0, 1))
    with commits.refused(server.url("test_matching")), pytest.raises(psycopg.errors.RaiseException):
        match(base, photo)
    assert row(base, photo)["matched_at"] is None
    assert match(base, photo) == 0
    assert row(base, photo)["matched_at"] is not None


@pytest.mark.parametrize("seed", range(6))
def test_flags_that_are_left_alone_are_what_deciding_anew_gives(
    base: database.Database, property_id: str, seed: int
) -> None:
    """A match that finds no pairs does not read what its property's flags are worked out from."""
    random = np.random.default_rng(seed)
    there: dict[str, photos.Revision] = {}
    judged: set[tuple[str, str]] = set()
    unmatched: set[str] = set()
    waits, compared = False, 0
    for step in range(200):
        what = random.choice(["new", "other bytes", "other bytes", "removed", "verdict", *["matched"] * 4])
        name = str(random.choice(sorted(there))) if there else ""
        if what == "new":
            name = f"{step}"
            there[name] = apply(base, event(property_id, name, at=int(random.integers(100)))).photo
        elif not there:
            continue
        if what in {"new", "other bytes"}:
            content = vector(*np.eye(8)[random.integers(8)])
            assert embed(base, there[name], content, sha256=f"{step}")
            unmatched.add(name)
        if what == "removed":
            apply(base, event(property_id, name, at=1000 + step, kind=events.Kind.REMOVED))
            unmatched.discard(name)
            del there[name]
        if what in {"removed", "other bytes"}:
            judged = {pair for pair in judged if name not in pair}
        if what == "verdict" and len(there) > 1:
            one, other = sorted(str(chosen) for chosen in random.choice(sorted(there), 2, replace=False))
            if (one, other) not in judged:
                judged.add((one, other))
                verdict(base, there[one], there[other], duplicate=bool(random.integers(2)))
                waits = True
        if what == "matched" and (unmatched or waits):
            wanted = [there[str(one)] for one in random.permutation(sorted(unmatched or {name}))]
            _match(base, wanted, together=bool(random.integers(2)))
            unmatched, waits = set(), False
            left = _flag_rows(base, property_id)
            with base.transaction() as connection:
                matching.follow(connection, property_id)
            assert _flag_rows(base, property_id) == left
            compared += bool(left)
    assert compared > 3


def _match(base: database.Database, wanted: list[photos.Revision], *, together: bool) -> None:
    if together:
        with base.transaction() as connection:
            ids = [photo.photo_id for photo in wanted]
            assert matching.match_together(connection, wanted[0].property_id, ids, BUNDLES, 50) is not None
    else:
        for photo in wanted:
            match(base, photo)


def _flag_rows(base: database.Database, property_id: str) -> list[database.Row]:
    found = "SELECT photo_id, duplicate_of, score, decided_by, model_id FROM duplicate_flag WHERE property_id = %s"
    return rows(base, found + " ORDER BY photo_id", property_id)
