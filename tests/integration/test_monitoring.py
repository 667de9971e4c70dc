"""How the database stands, by queries that stay cheap: exact where photos are few, bounded or estimated where not."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import psycopg
import pytest

from core import database, events, monitoring, observations, photos
from tests.integration import ledger
from tests.integration.conftest import Server
from workers import collectors


@pytest.fixture(scope="module", autouse=True)
def _model(base: database.Database) -> None:
    ledger.activate_model(base)


@pytest.fixture(autouse=True)
def _empty(base: database.Database) -> None:
    with base.transaction() as connection:
        connection.execute("DELETE FROM photo")
        connection.execute("DELETE FROM rejected_event")


@dataclasses.dataclass(frozen=True)
class Standing:
    """All of it."""

    waiting: monitoring.Unfinished
    failed: dict[str, int]
    rejected: int
    total: monitoring.Total


def look(base: database.Database) -> Standing:
    with base.transaction() as connection:
        waiting, failed = monitoring.unfinished(connection), monitoring.failed(connection)
        total = monitoring.total(connection, waiting, failed)
        return Standing(waiting, failed, monitoring.rejected(connection), total)


def populate(base: database.Database) -> None:
    """Of one property: 2 pending, 3 embedded of which 1 is matched, 2 failed, 1 removed."""
    property_id = ledger.new_property()
    applied = [ledger.apply(base, ledger.event(property_id, f"{number}.jpg")).photo for number in range(8)]
    for number, photo in enumerate(applied[2:5]):
        ledger.embed(base, photo, ledger.vector(*np.eye(3)[number]))
    ledger.match(base, applied[2])
    with base.transaction() as connection:
        photos.fail(connection, applied[5], "corrupt", "it cannot be decoded")
        photos.fail(connection, applied[6], "too_large", "it is too large")
    ledger.apply(base, ledger.event(property_id, "7.jpg", at=1, kind=events.Kind.REMOVED))
    with base.transaction() as connection:
        connection.execute(
            "UPDATE photo SET updated_at = now() - interval '1 hour', postponed = 2 WHERE id = %s",
            (applied[1].photo_id,),
        )
        connection.execute(
            "UPDATE photo SET updated_at = now() - interval '2 hours' WHERE id = %s", (applied[4].photo_id,)
        )
        photos.reject(connection, events.Rejection("not_understood", "no JSON", "?"))


def test_of_nothing_there_is_nothing(base: database.Database) -> None:
    found = look(base)
    assert found.total.photos == {"pending": 0, "embedded": 0, "failed": 0, "removed": 0}
    assert (found.waiting.to_embed, found.waiting.to_match) == (monitoring.Waiting(), monitoring.Waiting())
    assert (found.failed, found.rejected) == ({}, 0)


def test_few_photos_are_counted(base: database.Database) -> None:
    populate(base)
    found = look(base)
    assert found.total.exact
    assert found.total.photos == {"pending": 2, "embedded": 3, "failed": 2, "removed": 1}
    assert (found.waiting.to_embed.photos, found.waiting.to_embed.postponed) == (2, 1)
    assert (found.waiting.to_embed.long, found.waiting.to_match.long) == (1, 1)
    assert found.waiting.to_embed.oldest_seconds == pytest.approx(3600, abs=300)
    assert (found.waiting.to_match.photos, found.waiting.to_match.postponed) == (2, 0)
    assert found.waiting.to_match.oldest_seconds == pytest.approx(7200, abs=300)
    assert found.failed == {"corrupt": 1, "too_large": 1}
    assert found.rejected == 1


def test_counts_end_at_the_bound(base: database.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    populate(base)
    monkeypatch.setattr(monitoring, "COUNTED", 1)
    monkeypatch.setattr(monitoring, "EXACT", 0)
    found = look(base)
    # Of what waits the oldest one is counted: it waits for its match.
    assert (found.waiting.to_embed.photos, found.waiting.to_match.photos) == (0, 1)
    assert sum(found.failed.values()) == 1


def test_what_is_not_counted_to_its_end_is_estimated(
    base: database.Database, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with base.transaction() as connection:
        connection.execute(
            "INSERT INTO photo (property_id, bucket, key, etag, sequencer, occurred_at, uploaded_at, status)"
            " SELECT 'p' || number / 20, 'photos', number::text, 'e', '', now(), now(), 'pending'"
            " FROM generate_series(1, 2000) AS number",
        )
    with psycopg.connect(server.url("test_monitoring"), autocommit=True) as owner:
        owner.execute("ANALYZE photo")
    monkeypatch.setattr(monitoring, "COUNTED", 100)
    monkeypatch.setattr(monitoring, "EXACT", 1000)
    found = look(base)
    assert found.waiting.to_embed.photos == 100
    assert not found.total.exact, "a backlog does not pass for few photos"
    assert found.total.photos["pending"] == pytest.approx(2000, rel=0.05)


def test_a_measure_that_takes_too_long_leaves_the_others_alone(
    server: Server, base: database.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    populate(base)
    real = database.query
    monkeypatch.setattr(
        database, "query", lambda name: b"SELECT pg_sleep(60)" if name == "monitor_photos" else real(name)
    )
    parts = collectors.Asked()
    with contextlib.closing(
        database.Database(server.url("test_monitoring", user="dedup_worker"), 1, statement_seconds=2)
    ) as impatient:
        parts.add("database", lambda: collectors.of_database(impatient))
        told = {family.name: family for family in parts.collect()}
    (ok,) = told["dedup_scrape_ok"].samples
    assert ok.value == 0
    (model,) = told["dedup_model"].samples
    assert (model.labels["model"], model.labels["status"]) == (ledger.Bundle.id, "active")
    assert {sample.value for sample in told["dedup_photos_waiting"].samples} == {2}
    assert {sample.value for sample in told["dedup_photos_waiting_long"].samples} == {1}
    assert "dedup_photos" not in told


def test_many_photos_are_estimated_and_not_counted(
    base: database.Database, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with base.transaction() as connection:
        connection.execute(
            "INSERT INTO photo (property_id, bucket, key, etag, sequencer, occurred_at, uploaded_at, status,"
            " matched_at)"
            " SELECT 'p' || number / 20, 'photos', number::text, 'e', '', now(), now(),"
            " CASE WHEN number % 10 = 0 THEN 'removed' ELSE 'embedded' END, now()"
            " FROM generate_series(1, 20000) AS number",
        )
    with psycopg.connect(server.url("test_monitoring"), autocommit=True) as owner:
        owner.execute("ANALYZE photo")
    monkeypatch.setattr(monitoring, "EXACT", 10_000)
    executed: list[str] = []
    real = database.execute

    def watch(connection: database.Connection, name: str, /, **parameters: object) -> object:
        executed.append(name)
        return real(connection, name, **parameters)

    monkeypatch.setattr(database, "execute", watch)
    found = look(base)
    assert not found.total.exact
    assert "monitor_photos" not in executed, "the whole table is not read"
    assert found.total.photos["embedded"] == pytest.approx(18_000, rel=0.05)
    assert found.total.photos["removed"] == pytest.approx(2_000, rel=0.15)
    assert (found.total.photos["pending"], found.total.photos["failed"]) == (0, 0)


@pytest.mark.parametrize(
    ("name", "index"), [("monitor_unfinished", "photo_unfinished"), ("monitor_failed", "photo_failed")]
)
def test_what_waits_or_failed_is_found_by_its_index(base: database.Database, name: str, index: str) -> None:
    with base.transaction() as connection:
        connection.execute("SET LOCAL enable_seqscan = off")
        rows = connection.execute(
            b"EXPLAIN "
            + database.query(name).replace(b"%(limit)s", b"1000").replace(b"%(long_seconds)s", b"300")
        ).fetchall()
    plan = [row["QUERY PLAN"] for row in rows]
    (limit,) = (number for number, line in enumerate(plan) if "Limit" in line)
    assert f"using {index}" in plan[limit + 1], "the index alone gives what is wanted, in its order"


def test_what_happens_is_told_after_its_commit(
    base: database.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[observations.Observation] = []
    monkeypatch.setattr(observations, "_listeners", [told.append])
    property_id = ledger.new_property()
    first, second, third = (
        ledger.apply(base, ledger.event(property_id, f"{number}.jpg", at=number)).photo for number in range(3)
    )
    assert told == []
    for photo in (first, second):
        ledger.embed(base, photo, ledger.vector(1))
    ages = [item.age_seconds for item in told if isinstance(item, observations.PhotoEmbedded)]
    with base.transaction() as connection:
        row = connection.execute(
            "SELECT extract(epoch FROM now() - uploaded_at)::float8 AS age FROM photo WHERE id = %s",
            (second.photo_id,),
        ).fetchone()
    assert row is not None
    assert ages == [pytest.approx(row["age"], abs=60)] * 2
    told.clear()
    ledger.match(base, second)
    scored, flags, matched = told
    assert isinstance(scored, observations.PairsScored)
    assert (scored.model_id, scored.scores.tolist()) == (ledger.Bundle.id, pytest.approx([1.0]))
    assert isinstance(matched, observations.PhotoMatched)
    assert flags == observations.FlagsChanged(added=1, removed=0, changed=0)
    told.clear()
    with base.transaction() as connection:
        photos.fail(connection, third, "corrupt", "it cannot be decoded")
        assert told == [], "not before the commit"
    assert told == [observations.PhotoFailed("corrupt")]
    told.clear()
    ledger.apply(base, ledger.event(property_id, "0.jpg", at=9, kind=events.Kind.REMOVED))
    assert told == [observations.FlagsChanged(added=0, removed=1, changed=0)]
