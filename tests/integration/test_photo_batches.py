"""Photos that are put on record together end as they would one by one, and none of them waits for another's."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from core import database, errors, matching, photo_batches, photos, settings
from tests.integration import ledger
from workers import app, match, recording, tasks, traces

BEGINNING = photo_batches.Beginning(known=[ledger.Bundle.id], unfit=[], again=None)


@pytest.fixture(scope="module", autouse=True)
def _model(base: database.Database) -> None:
    ledger.activate_model(base)


@pytest.fixture
def waiting(base: database.Database) -> list[photos.Revision]:
    """Photos of three properties that wait to be embedded."""
    places = [ledger.new_property() for _ in range(3)]
    return [
        ledger.apply(base, ledger.event(place, f"{number}")).photo
        for number, place in itertools.product(range(2), places)
    ]


def embedded(number: int, sha256: str = "s", dims: int = ledger.DIMS) -> photos.Embedded:
    values = np.zeros(dims, np.float32)
    values[number % dims] = 1
    return photos.Embedded({ledger.Bundle.id: values}, etag="e1", width=4, height=3, bytes=100, sha256=sha256)


def on_record(base: database.Database, wanted: list[photos.Revision]) -> list[tuple[Any, ...]]:
    statement = (
        "SELECT status, attempts, etag, sha256, embedding FROM photo LEFT JOIN photo_embedding "
        "ON photo_embedding.property_id = photo.property_id AND photo_id = id "
        "WHERE photo.property_id = %s AND id = %s"
    )
    found = []
    for photo in wanted:
        (row,) = ledger.rows(base, statement, photo.property_id, photo.photo_id)
        vector = row.pop("embedding")
        found.append((*row.values(), None if vector is None else tuple(vector.to_list())))
    return found


def test_together_is_as_one_by_one(base: database.Database, waiting: list[photos.Revision]) -> None:
    with base.transaction() as connection:
        begun = photo_batches.begin_attempts(connection, dict.fromkeys(waiting, BEGINNING))
    assert begun.keys() == set(waiting)
    assert {(attempt.lost, attempt.lacking, attempt.embedded) for attempt in begun.values()} == {
        (0, (ledger.Bundle.id,), False)
    }
    assert [row[1] for row in on_record(base, waiting)] == [1] * 6, "each is counted"
    half = waiting[:3]
    with base.transaction() as connection:
        wanted = {photo: embedded(number) for number, photo in enumerate(half)}
        stored = photo_batches.store(connection, wanted)
    assert stored == dict.fromkeys(half, photos.Stored(kept=True))
    for number, photo in enumerate(waiting[3:]):
        with base.transaction() as connection:
            assert photos.store(connection, photo, embedded(number)).kept
    found = on_record(base, waiting)
    assert found[:3] == found[3:]
    assert {row[:4] for row in found} == {("embedded", 0, "e1", "s")}


def test_what_is_gone_replaced_or_of_other_bytes_is_left_to_its_own_transaction(
    base: database.Database, waiting: list[photos.Revision]
) -> None:
    gone, replaced, other_bytes, plain = waiting[:4]
    with base.transaction() as connection:
        photos.remove(connection, gone, reason=None)
    ledger.apply(base, ledger.event(replaced.property_id, "0", at=5, etag="e2"))
    assert ledger.embed(base, other_bytes, ledger.vector(1), sha256="before")
    with base.transaction() as connection:
        wanted = {photo: embedded(number) for number, photo in enumerate(waiting[:4])}
        assert photo_batches.store(connection, wanted).keys() == {plain}
        begun = photo_batches.begin_attempts(connection, dict.fromkeys(waiting[:4], BEGINNING))
    assert begun.keys() == {other_bytes, plain}
    assert on_record(base, [other_bytes])[0][3] == "before"


def test_a_photo_that_somebody_works_on_keeps_no_other_one_waiting(
    base: database.Database, waiting: list[photos.Revision]
) -> None:
    busy, *free = waiting
    recorder = recording.Recorder(base, FakeModels(), "match", 16)  # type: ignore[arg-type]
    with concurrent.futures.ThreadPoolExecutor(len(waiting)) as pool:
        with base.transaction() as connection:
            held = {"property_id": busy.property_id, "photo_id": busy.photo_id}
            connection.execute(
                "SELECT FROM photo WHERE property_id = %(property_id)s AND id = %(photo_id)s FOR UPDATE", held
            )
            late = pool.submit(recorder.store, busy, embedded(0))
            others = [pool.submit(recorder.store, photo, embedded(1)) for photo in free]
            assert all(future.result(60).kept for future in others)
            assert not late.done()
        assert late.result(60).kept
    assert {row[0] for row in on_record(base, waiting)} == {"embedded"}


class FakeModels:
    """What a recorder asks of the embedders, without a backbone."""

    known = frozenset({ledger.Bundle.id})
    unfit: frozenset[str] = frozenset()

    def check_active(self, model_id: str | None) -> None:
        assert model_id == ledger.Bundle.id


def test_one_that_cannot_be_stored_fails_alone(
    base: database.Database, waiting: list[photos.Revision], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = recording.Recorder(base, FakeModels(), "match", 16)  # type: ignore[arg-type]
    for photo in waiting:
        attempt = recorder.begin(photo, alone=False, again=None)
        assert attempt is not None
        assert attempt.lost == 0
    bad, *good = waiting
    # No halfvec has so many dimensions.
    wanted = [(bad, embedded(0, dims=17_000)), *((photo, embedded(0)) for photo in good)]
    assert recorder._store_together(wanted) == [None] * len(waiting)
    with concurrent.futures.ThreadPoolExecutor(len(waiting)) as pool:
        first, *others = [pool.submit(recorder.store, *each) for each in wanted]
    assert all(future.result().kept for future in others)
    with pytest.raises(Exception, match="dimensions"):
        first.result()
    assert [row[0] for row in on_record(base, waiting)] == ["pending"] + ["embedded"] * 5


@pytest.fixture
def asked(base: database.Database, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], str]]:
    """What a match worker on this database asks for: photo ids and queue."""
    found: list[tuple[list[int], str]] = []
    config = settings.Settings(_env_file=None)
    monkeypatch.setattr(match, "_worker", match.Worker(config, base, ledger.BUNDLES), raising=False)  # type: ignore[arg-type]
    monkeypatch.setattr(
        match,
        "publish_matches",
        lambda wanted, queue: found.append(([one.photo_id for one in wanted], queue)),
    )
    for name, value in {"database": base, "most_deliveries": 5, "most_postponements": 3}.items():
        monkeypatch.setattr(tasks.PhotoTask, name, value, raising=False)
    return found


def stored(base: database.Database, count: int) -> list[photos.Revision]:
    place = ledger.new_property()
    found = [ledger.apply(base, ledger.event(place, f"{number}", at=number)).photo for number in range(count)]
    for photo in found:
        assert ledger.embed(base, photo, ledger.vector(1))
    return found


def test_photos_of_one_task_are_all_matched(
    base: database.Database, asked: list[tuple[list[int], str]]
) -> None:
    found = stored(base, 4)
    each = [[photo.property_id, photo.photo_id, "c"] for photo in found]
    match.match_many.apply(kwargs={"photos": each}, throw=True)
    assert ledger.flags(base, found[0].property_id) == {"1": "0", "2": "0", "3": "0"}
    assert asked == []


@pytest.mark.parametrize(("key", "queue"), [("match", "match"), ("0.0.1.match.bulk", "match.bulk")])
def test_what_may_work_later_goes_on_in_tasks_of_their_own(
    base: database.Database,
    asked: list[tuple[list[int], str]],
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    queue: str,
) -> None:
    one, broken, away, last = stored(base, 4)
    whole = matching.match

    def faulty(connection: database.Connection, property_id: str, photo_id: int, *rest: Any) -> int:
        if photo_id == broken.photo_id:
            raise ValueError("no other photo's fault")
        if photo_id == away.photo_id:
            raise errors.TransientError("away")
        return whole(connection, property_id, photo_id, *rest)

    def faulty_together(*_: Any) -> dict[int, int] | None:
        raise ValueError("some photo's fault")

    monkeypatch.setattr(matching, "match", faulty)
    monkeypatch.setattr(matching, "match_together", faulty_together)
    each = [[photo.property_id, photo.photo_id, None] for photo in (one, broken, away, last)]
    match.match_many.apply(kwargs={"photos": each}, routing_key=key, throw=True)
    assert asked == [([away.photo_id], queue), ([last.photo_id], queue)]
    matched = [ledger.row(base, photo)["matched_at"] is not None for photo in (one, broken, away, last)]
    assert matched == [True, False, False, False]
    assert [ledger.row(base, photo)["postponed"] for photo in (broken, away)] == [1, 0], (
        "only its own fault counts"
    )


def test_photos_of_a_property_are_matched_at_once(
    base: database.Database, asked: list[tuple[list[int], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    both, alone = [stored(base, 2) for _ in range(2)], stored(base, 1)
    whole, calls = matching.match_together, []

    def counted(
        connection: database.Connection, property_id: str, photo_ids: list[int], *rest: Any
    ) -> dict[int, int] | None:
        calls.append((property_id, photo_ids))
        return whole(connection, property_id, photo_ids, *rest)

    monkeypatch.setattr(matching, "match_together", counted)
    mixed = [both[0][0], both[1][0], alone[0], both[0][1], both[1][1]]
    each = [[photo.property_id, photo.photo_id, None] for photo in mixed]
    match.match_many.apply(kwargs={"photos": each}, throw=True)
    expected = [(photos_[0].property_id, [photo.photo_id for photo in photos_]) for photos_ in both]
    assert sorted(calls) == sorted(expected)
    assert all(ledger.row(base, photo)["matched_at"] is not None for photo in mixed)
    assert [ledger.flags(base, photos_[0].property_id) for photos_ in both] == [{"1": "0"}] * 2
    assert asked == []


def test_photos_of_a_large_property_are_matched_one_by_one(
    base: database.Database, asked: list[tuple[list[int], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings.Settings(_env_file=None, match_neighbours=2)
    monkeypatch.setattr(match, "_worker", match.Worker(config, base, ledger.BUNDLES))  # type: ignore[arg-type]
    found = stored(base, 4)
    each = [[photo.property_id, photo.photo_id, None] for photo in found]
    match.match_many.apply(kwargs={"photos": each}, throw=True)
    assert all(ledger.row(base, photo)["matched_at"] is not None for photo in found)
    pairs = ledger.rows(base, "SELECT 1 FROM pair WHERE property_id = %s", found[0].property_id)
    # Each with the two nearest; of all alike, the ones that came first.
    assert len(pairs) == 5


def test_a_property_that_cannot_be_matched_now_is_put_off_whole(
    base: database.Database, asked: list[tuple[list[int], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> dict[int, int] | None:
        raise errors.TransientError("away")

    monkeypatch.setattr(matching, "match_together", away)
    found = stored(base, 2)
    each = [[photo.property_id, photo.photo_id, None] for photo in found]
    match.match_many.apply(kwargs={"photos": each}, routing_key="match", throw=True)
    assert asked == [([photo.photo_id], "match") for photo in found]
    assert [ledger.row(base, photo)["postponed"] for photo in found] == [0, 0]


def test_photos_of_a_task_that_comes_again_go_on_in_tasks_of_their_own(
    base: database.Database, asked: list[tuple[list[int], str]]
) -> None:
    found = stored(base, 3)
    each = [[photo.property_id, photo.photo_id, None] for photo in found]
    match.match_many.push_request(delivery_info={"redelivered": True, "routing_key": "match"})
    match.match_many.run(photos=each)
    match.match_many.pop_request()
    assert asked == [([photo.photo_id], "match") for photo in found]
    assert all(ledger.row(base, photo)["matched_at"] is None for photo in found)


def test_what_is_ready_together_goes_out_in_few_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(
        app.app, "send_task", lambda task, kwargs, **options: sent.append((task, {**kwargs, **options}))
    )
    app.publish_matches([app.Match("p", number, f"c{number}") for number in range(18)], "match")
    app.publish_matches([app.Match("p", 18, "c18")], "match")
    assert [task for task, _ in sent] == ["dedup.match_many", "dedup.match_many", "dedup.match"]
    assert [len(message.get("photos", "?")) for _, message in sent] == [16, 2, 1]
    assert sent[1][1]["photos"] == [("p", 16, "c16", None), ("p", 17, "c17", None)]
    assert sent[2][1]["root_id"] == "c18"


def test_photos_of_one_task_keep_each_its_own_trace(
    base: database.Database, asked: list[tuple[list[int], str]], spans: InMemorySpanExporter
) -> None:
    wanted = []
    for photo in stored(base, 2):
        with traces.span("embed", {}, photo_id=photo.photo_id):
            carried = traces.headers()["traceparent"]
        wanted.append(app.Match(photo.property_id, photo.photo_id, None, carried))
    match.match_many.apply(kwargs={"photos": [dataclasses.astuple(one) for one in wanted]}, throw=True)
    finished = [(span.name, dict(span.attributes or {}), span) for span in spans.get_finished_spans()]
    for one in wanted:
        embed, found = (
            span
            for name, attributes, span in finished
            if name in {"embed", "match"} and attributes.get("dedup.photo_id") == one.photo_id
        )
        assert found.parent is not None
        assert found.parent.span_id == embed.context.span_id
    assert asked == []


def test_spans_of_photos_without_a_trace_of_their_own_belong_to_the_task(
    base: database.Database, asked: list[tuple[list[int], str]], spans: InMemorySpanExporter
) -> None:
    each = [[photo.property_id, photo.photo_id, None] for photo in stored(base, 3)]
    with traces.span("task", {}):
        match.match_many.apply(kwargs={"photos": each}, throw=True)
    found = [span for span in spans.get_finished_spans() if span.name == "match"]
    assert len(found) == 3
    assert len({span.parent and span.parent.span_id for span in found}) == 1
    assert asked == []
