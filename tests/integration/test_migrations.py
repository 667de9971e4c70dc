from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from psycopg import sql

from core import database, errors, schema, settings
from tests.integration import ledger
from tests.integration.conftest import Server


@pytest.fixture
def owner(server: Server) -> Iterator[str]:
    with server.database("test_migrations", migrate=False) as url:
        yield url


def column(url: str, statement: str) -> list[object]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute(statement.encode()).fetchall()]


TABLES = """SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
            AND relkind IN ('r', 'v') AND relname <> 'alembic_version' ORDER BY relname"""


def test_up_down_and_up_again(owner: str) -> None:
    assert schema.current(owner) is None
    schema.upgrade(owner)
    assert schema.current(owner) == schema.head()
    tables = column(owner, TABLES)
    assert {"photo", "photo_embedding", "pair", "verdict", "duplicate_flag", "flag_change", "model"} < set(
        tables
    )
    schema.upgrade(owner)
    schema.downgrade(owner, "base")
    assert column(owner, TABLES) == []
    schema.upgrade(owner)
    assert column(owner, TABLES) == tables


def test_every_key_holds_the_property_or_a_reference_tables(owner: str) -> None:
    schema.upgrade(owner)
    keys = """SELECT conrelid::regclass::text || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
              WHERE contype IN ('p', 'u', 'f') AND connamespace = 'public'::regnamespace
              AND conrelid::regclass::text NOT IN ('model', 'rejected_event', 'backfill', 'alembic_version')"""
    found = [str(key) for key in column(owner, keys)]
    assert len(found) > 10
    for key in found:
        assert re.search(r"\(property_id[,)]", key) or "REFERENCES model(id)" in key, key
        if "PRIMARY KEY" in key:
            assert "(property_id," in key or "(property_id)" in key


def test_embeddings_are_halfvec_and_stored_in_place(owner: str) -> None:
    schema.upgrade(owner)
    form = """SELECT format_type(atttypid, atttypmod) || ' ' || attstorage::text FROM pg_attribute
              WHERE attrelid = 'photo_embedding'::regclass AND attname = 'embedding'"""
    assert column(owner, form) == ["halfvec p"]


def test_the_longest_property_id_fits_beside_an_embedding(owner: str) -> None:
    schema.upgrade(owner)
    with psycopg.connect(owner) as connection:
        connection.execute(
            "INSERT INTO model (id, digest, name, dims, duplicate_threshold, review_threshold, untrained, card)"
            " VALUES ('0123456789abcdef', 'd', 'n', 3904, 0.5, 0.5, false, '{}')"
        )
        connection.execute(
            "INSERT INTO photo (property_id, bucket, key, etag, sequencer, occurred_at, uploaded_at, status)"
            " VALUES (repeat('x', 200), 'b', 'k', '', '', now(), now(), 'pending')"
        )
        connection.execute(
            "INSERT INTO photo_embedding SELECT property_id, id, '0123456789abcdef', 1,"
            " array_fill(0.5, ARRAY[3904])::halfvec(3904) FROM photo"
        )


def test_a_migration_does_not_wait_behind_traffic_for_ever(
    owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.upgrade(owner)
    monkeypatch.setenv("DEDUP_MIGRATION_LOCK_TIMEOUT_SECONDS", "1")
    settings.get.cache_clear()
    try:
        with psycopg.connect(owner) as busy:
            busy.execute("LOCK TABLE photo, model IN ACCESS SHARE MODE")
            with pytest.raises(errors.TransientError, match="lock timeout"):
                schema.downgrade(owner, "base")
        assert schema.current(owner) == schema.head()
    finally:
        settings.get.cache_clear()


def test_two_migrators_at_once_take_turns(owner: str) -> None:
    command = [sys.executable, "-m", "workers", "migrate"]
    environment = {**os.environ, "DEDUP_DATABASE_URL": owner}
    migrators = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [migrator.wait(120) for migrator in migrators] == [0, 0, 0]
    assert schema.current(owner) == schema.head()


def test_a_login_without_rights_is_told_what_it_needs(owner: str, server: Server) -> None:
    schema.upgrade(owner)
    server.postgres.allow_login("dedup_reader")
    schema.downgrade(owner, "base")
    with pytest.raises(errors.ConfigurationError, match="DEDUP_MIGRATION_DATABASE_URL"):
        schema.upgrade(server.url("test_migrations", "dedup_reader"))


def answers(url: str) -> dict[str, list[str]]:
    views = ("listing_duplicates", "listing_duplicate_groups", "listing_review", "listing_flag_feed")
    every = sql.SQL("SELECT {0}::text FROM {0} ORDER BY 1")
    with psycopg.connect(url) as connection:
        return {
            view: [row[0] for row in connection.execute(every.format(sql.Identifier(view)))]
            for view in (*views, "property_model")
        }


def test_bringing_the_models_into_a_database_in_use_changes_no_answer(owner: str, server: Server) -> None:
    """From 0003 to 0004, with photos, flags and pairs to review in it."""
    schema.upgrade(owner)
    server.postgres.allow_login("dedup_worker")
    with contextlib.closing(database.Database(server.url("test_migrations", "dedup_worker"))) as base:
        ledger.activate_model(base)
        places = [ledger.new_property() for _ in range(3)]
        for place in places:
            # "b" is flagged to "a"; "c" is for review.
            for at, (name, angle) in enumerate((("a", 0.0), ("b", 0.2), ("c", 0.9))):
                ledger.add(base, place, name, np.cos(angle), np.sin(angle), at=at)
        before = answers(owner)
    assert all(len(rows) >= len(places) for rows in before.values()), before
    schema.downgrade(owner, "0003")
    assert column(owner, "SELECT to_regclass('property_model')") == [None]
    schema.upgrade(owner)
    assert answers(owner) == before
