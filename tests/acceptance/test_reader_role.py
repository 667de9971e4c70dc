"""The listing system's login reads four views and can do nothing else."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from . import pictures
from . import system as acceptance

VIEWS = {"listing_duplicates", "listing_duplicate_groups", "listing_flag_feed", "listing_review"}

Connection = psycopg.Connection[tuple[object, ...]]


@pytest.fixture
def reader(system: acceptance.System) -> Iterator[Connection]:
    with psycopg.connect(system.stack.reader_url, autocommit=True) as connection:
        yield connection


def test_reads_the_views(system: acceptance.System, property_id: str, reader: Connection) -> None:
    system.upload(property_id, "a.jpg", pictures.jpeg("bedroom"))
    system.upload(property_id, "b.jpg", pictures.jpeg("bedroom", quality=60))
    system.settle()
    assert (
        reader.execute("SELECT * FROM listing_review WHERE property_id = %s", (property_id,)).fetchall() == []
    ), "these are flagged, and need no review"
    for view in VIEWS - {"listing_review"}:
        statement = sql.SQL("SELECT * FROM {} WHERE property_id = %s").format(sql.Identifier(view))
        acceptance.until(functools.partial(_has_row, reader, statement, property_id), f"a row in {view}")


def test_reads_nothing_else(system: acceptance.System, reader: Connection) -> None:
    relations = system.ask(
        "SELECT nspname AS schema, relname AS name FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
        "WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
    )
    names = {(row["schema"], row["name"]) for row in relations}
    assert {("public", "photo"), ("public", "rejected_event"), ("pgmq", "meta"), ("pgmq", "q_embed")} <= names
    for schema, name in sorted(names - {("public", view) for view in VIEWS}):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute(sql.SQL("SELECT FROM {} LIMIT 1").format(sql.Identifier(schema, name)))


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO {} (property_id) VALUES ('p')",
        "UPDATE {} SET property_id = 'p'",
        "DELETE FROM {}",
        "TRUNCATE {}",
        "DROP VIEW {}",
    ],
)
def test_writes_no_view(reader: Connection, statement: str) -> None:
    for view in VIEWS:
        with pytest.raises(psycopg.Error) as refused:
            reader.execute(sql.SQL(statement).format(sql.Identifier(view)))
        # A view over a join takes no rows from anybody, which Postgres may say first.
        assert isinstance(
            refused.value,
            psycopg.errors.InsufficientPrivilege
            | psycopg.errors.ObjectNotInPrerequisiteState
            | psycopg.errors.WrongObjectType
            | psycopg.errors.FeatureNotSupported,
        )


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (id integer)",
        "CREATE SCHEMA mine",
        "CREATE EXTENSION hstore",
        "CREATE ROLE mine",
        "SET ROLE dedup_worker",
        "SELECT pgmq.send('embed', '{}'::jsonb)",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY (SELECT 1) TO PROGRAM 'true'",
    ],
)
def test_may_do_nothing_else(reader: Connection, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute(statement.encode())


def _has_row(connection: Connection, statement: sql.Composed, property_id: str) -> bool:
    return connection.execute(statement, [property_id]).fetchone() is not None
