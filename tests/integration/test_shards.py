"""That the tables can be spread over many machines by property_id: each property's work touches one shard.

Citus does not run here. Hash partitions stand in: the migrations' own tables, each parted by the hash of property_id
into the same number of parts, so that a property's rows are in the parts of one number, as co-located shards are."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlglot
from sqlglot import expressions

from core import database, events, matching, properties, verdicts
from tests.integration import ledger
from tests.integration.conftest import Server

SHARDS = 8
MIGRATIONS = pathlib.Path(__file__).parents[2] / "migrations/versions"
SQL = [path.read_text(encoding="utf-8") for path in sorted(MIGRATIONS.glob("*.up.sql"))]
_TABLE = re.compile(r"^CREATE TABLE (\w+) \((.*?)\n\);", flags=re.MULTILINE | re.DOTALL)
TABLES = {name: body for text in SQL for name, body in _TABLE.findall(text)}
DISTRIBUTED = {
    name for name, body in TABLES.items() if re.search(r"^\s*property_id\s", body, flags=re.MULTILINE)
}
REFERENCE = set(TABLES) - DISTRIBUTED
QUERIES = database._queries()

EXEMPT = {
    name
    for name, text in QUERIES.items()
    if re.match(r"-- (Over all properties|Over two properties|Photos of several properties)\b", text)
}
"""Named queries that say themselves that they are over more than one property, and why."""

# Of the others, '1' is a value of any type that is compared with it.
VALUES: dict[str, Any] = {
    "embedding": "[1,0,0,0,0,0,0,0]", "etag": "e", "sequencer": "", "status": "pending", "score": 0.9,
    "similarity": 0.9, "decided_by": "ann", "model_id": ledger.Bundle.id, "reason": "corrupt", "message": "m",
    "keep_sha256": False, "again": None, "alone": False, "duplicate": True, "bucket": "photos", "key": "k",
    "key_a": "a", "key_b": "b", "bucket_a": None, "bucket_b": None, "occurred_at": "2026-01-01",
    "uploaded_at": "2026-01-01", "published_at": "2026-01-01", "since": None, "what": "all", "ids": [1, 2],
    "properties": ["p1", "p2"], "revisions": [1, 1], "keys": ["a"], "after": "", "last": "z", "prefix": "",
    "after_property": "", "after_id": 0, "old_property_id": "p2", "sha256": "s", "selection": "{}", "position": "",
    "tried_until": "2026-05-01",
    "digest": "d", "card": "{}", "untrained": False, "name": "n", "body": "b", "id": "0123456789abcdef",
    "known": [ledger.Bundle.id], "photo_ids": [1, 2], "unfit": ["none"], "models": [ledger.Bundle.id],
}  # fmt: skip


def sharded(text: str) -> str:
    """A migration whose distributed tables are parted by property_id."""

    def part(match: re.Match[str]) -> str:
        name = match[1]
        if name not in DISTRIBUTED:
            return match[0]
        parts = "".join(
            f"\nCREATE TABLE {name}_{number} PARTITION OF {name} "
            f"FOR VALUES WITH (MODULUS {SHARDS}, REMAINDER {number});"
            for number in range(SHARDS)
        )
        return match[0].removesuffix(";") + " PARTITION BY HASH (property_id);" + parts

    return _TABLE.sub(part, text)


@pytest.fixture(scope="module")
def base(server: Server) -> Iterator[database.Database]:
    """The migrations' tables in shards, and a model."""
    with server.database("test_shards", migrate=False) as url:
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE alembic_version (version_num text)")
            for text in SQL:
                connection.execute(sharded(text).encode())
        pool = database.Database(url)
        ledger.activate_model(pool)
        yield pool
        pool.close()


def plan(base: database.Database, statement: str, parameters: dict[str, Any]) -> set[int]:
    """The shards that a statement's plan reads or writes. A row's own shard of an INSERT is found when it is run."""
    with base.transaction() as connection:
        # Values in the statement itself, as Citus sees them when it decides where to send it.
        cursor = psycopg.ClientCursor(connection)
        cursor.execute("EXPLAIN (FORMAT JSON) " + statement, parameters)
        row = cursor.fetchone()
    assert row is not None
    return {
        int(found[1])
        for relation in re.findall(r'"Relation Name": "(\w+)"', json.dumps(row))
        if (found := re.fullmatch(r"\w+?_(\d+)", relation))
    }


def shards_of(base: database.Database, name: str, property_id: str) -> set[int]:
    text = re.sub(r"(%\(\w+\))b", r"\1s", QUERIES[name])
    optional = "%(property_id)s::text IS NULL" in text
    needed = {parameter: VALUES.get(parameter, "1") for parameter in re.findall(r"%\((\w+)\)", text)}
    if "property_id" in needed:
        needed["property_id"] = None if optional else property_id
    if isinstance(needed.get("id"), str) and ("rejected_event" in text or "backfill" in text):
        needed["id"] = "1"
    return plan(base, text, needed)


EXPLAINED = sorted(set(QUERIES) - {"lock_models", "read_consistently"})


@pytest.mark.parametrize("name", EXPLAINED)
def test_a_query_touches_one_shard_or_says_why_not(base: database.Database, name: str) -> None:
    found = [shards_of(base, name, property_id) for property_id in ("p1", "p2", "another")]
    if name in EXEMPT:
        return
    assert all(len(shards) <= 1 for shards in found), f"{name} touches the shards {found}"


def test_the_shards_differ_from_property_to_property(base: database.Database) -> None:
    found = {frozenset(shards_of(base, "decided_photos", f"p{number}")) for number in range(50)}
    assert found == {frozenset({number}) for number in range(SHARDS)}


def test_a_query_over_all_properties_is_seen_to_be_one(base: database.Database) -> None:
    assert len(shards_of(base, "overdue", "p1")) == SHARDS
    assert len(shards_of(base, "census", "p1")) == SHARDS


def test_no_exception_is_claimed_without_need(base: database.Database) -> None:
    """Each of these is known to docs/scale.md, which says what it costs on many machines."""
    several = {name for name in EXEMPT if len(shards_of(base, name, "p1")) > 1}
    assert several == EXEMPT
    document = (pathlib.Path(__file__).parents[2] / "docs/scale.md").read_text(encoding="utf-8")
    assert {name for name in EXEMPT if f"`{name}`" not in document} == set()


def test_every_table_has_its_place_in_the_statements() -> None:
    document = (pathlib.Path(__file__).parents[2] / "docs/scale.md").read_text(encoding="utf-8")
    assert {
        "photo", "photo_embedding", "pair", "verdict", "duplicate_flag", "flag_change",
    } | (DISTRIBUTED & {"property_model"}) == DISTRIBUTED  # fmt: skip
    for table in DISTRIBUTED:
        assert f"create_distributed_table('{table}', 'property_id'" in document
    for table in REFERENCE:
        assert f"`{table}`" in document


@pytest.mark.parametrize("name", sorted(QUERIES))
def test_a_parser_finds_the_property_in_each_query(name: str) -> None:
    """The same by reading: a query that names a distributed table also gives the property, to compare or to insert."""
    # The parser knows no operators of extensions.
    text = re.sub(r"%\((\w+)\)[sb]", r":\1", QUERIES[name]).replace("<#>", "-")
    (statement,) = sqlglot.parse(text, read="postgres")
    assert statement is not None
    if isinstance(statement, expressions.Command):
        assert text == "LOCK TABLE model IN SHARE ROW EXCLUSIVE MODE;"
        return
    inner = {cte.alias for cte in statement.find_all(expressions.CTE)}
    views = {"listing_duplicates"}
    tables = {table.name for table in statement.find_all(expressions.Table)} - inner - {"chosen"}
    assert tables <= DISTRIBUTED | REFERENCE | views, f"{name} names a table that no migration makes"
    if not tables & (DISTRIBUTED | views) or name in EXEMPT:
        return
    inserted = isinstance(statement, expressions.Insert) and "property_id" in [
        column.name for column in statement.this.expressions
    ]
    compared = any(
        isinstance(equal.left, expressions.Column)
        and equal.left.name == "property_id"
        and isinstance(equal.right, expressions.Placeholder)
        and equal.right.name == "property_id"
        for equal in statement.find_all(expressions.EQ)
    )
    assert inserted or compared, f"{name} does not say which property"


def test_keys_hold_the_property_or_belong_to_a_reference_table(base: database.Database) -> None:
    with base.transaction() as connection:
        found = connection.execute(
            "SELECT indrelid::regclass::text AS table, indexrelid::regclass::text AS name,"
            " pg_get_indexdef(indexrelid) AS definition FROM pg_index"
            " WHERE indisunique AND indrelid::regclass::text = ANY(%s)",
            [[*DISTRIBUTED]],
        ).fetchall()
        foreign = connection.execute(
            "SELECT conname, pg_get_constraintdef(oid) AS definition, confrelid::regclass::text AS target"
            " FROM pg_constraint WHERE contype = 'f' AND conparentid = 0 AND conrelid::regclass::text = ANY(%s)",
            [[*DISTRIBUTED]],
        ).fetchall()
    assert {row["table"] for row in found} == DISTRIBUTED
    for row in found:
        assert "(property_id" in row["definition"], row
    for row in foreign:
        assert row["target"] in REFERENCE or "FOREIGN KEY (property_id, " in row["definition"], row
    assert {row["target"] for row in foreign} == {"photo", "model"}


def touched(connection: database.Connection) -> set[int]:
    """The shards that the open transaction has read rows of or written to, in its functions and views, too.

    Not those whose index it asked in vain: `elsewhere` does so with each event (docs/scale.md).
    """
    found = connection.execute(
        "SELECT relname FROM pg_stat_xact_user_tables"
        " WHERE n_tup_ins + n_tup_upd + n_tup_del + coalesce(idx_tup_fetch, 0) + seq_tup_read > 0"
    ).fetchall()
    return {int(match[1]) for row in found if (match := re.fullmatch(r"\w+?_(\d+)", row["relname"]))}


def life(base: database.Database, property_id: str) -> None:
    """Uploads, embeddings, matches, a verdict and removals."""
    with contextlib.closing(base):
        ledger.add(base, property_id, "a", 1)
        ledger.add(base, property_id, "b", 1, 0.1, at=1)
        ledger.add(base, property_id, "c", 0, 1, at=2)
        assert ledger.flags(base, property_id) == {"b": "a"}
        with base.transaction() as connection:
            key = f"properties/{property_id}/photos/"
            verdicts.record(connection, property_id, key + "a", key + "c", duplicate=True, decided_by="ann")
        with base.transaction() as connection:
            matching.regroup(connection, property_id)
        assert ledger.flags(base, property_id) == {"b": "a", "c": "a"}
        ledger.apply(base, ledger.event(property_id, "a", at=9, kind=events.Kind.REMOVED))
        with base.transaction() as connection:
            assert properties.remove(connection, property_id) == 2


def test_the_life_of_a_property_touches_one_shard(
    base: database.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[int]] = []
    commit = psycopg.Connection.commit

    def watched(connection: psycopg.Connection[Any]) -> None:
        if connection.info.dbname == "test_shards" and connection.info.transaction_status != 0:
            seen.append(touched(connection))
        commit(connection)

    # A pool's connection commits by its context manager, which calls this.
    monkeypatch.setattr(psycopg.Connection, "commit", watched)
    for property_id in ("house-1", "house-2", "house-3"):
        seen.clear()
        # A session of its own: what it counts is not set back at the end of a transaction.
        life(database.Database(base._url, pool_size=1), property_id)
        assert len(seen) > 8
        assert {len(shards) for shards in seen if shards} == {1}
        assert len(set().union(*seen)) == 1
