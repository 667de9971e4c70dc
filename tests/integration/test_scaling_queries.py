"""What the autoscaler asks Postgres (deploy/kubernetes/scaling.yaml), asked for real by the workers' login."""

from __future__ import annotations

import pathlib

import pytest
import yaml

from core import database
from tests.integration import ledger

SCALING = pathlib.Path(__file__).parents[2] / "deploy/kubernetes/scaling.yaml"
QUERIES = {
    manifest["metadata"]["name"]: trigger["metadata"]["query"]
    for manifest in yaml.safe_load_all(SCALING.read_text(encoding="utf-8"))
    if manifest["kind"] == "ScaledObject"
    for trigger in manifest["spec"]["triggers"]
    if trigger["type"] == "postgresql"
}


def ask(base: database.Database, name: str) -> object:
    with base.transaction() as connection:
        (row,) = connection.execute(QUERIES[name]).fetchall()
    return next(iter(row.values()))


def age(base: database.Database, statement: str) -> None:
    with base.transaction() as connection:
        connection.execute(statement.encode())


def test_the_wait_of_the_oldest_photo(base: database.Database) -> None:
    ledger.empty(base)
    ledger.activate_model(base)
    assert {name: ask(base, name) for name in QUERIES} == {"embed": 0, "match": 0}
    property_id = ledger.new_property()
    for name in ("a", "b"):
        ledger.apply(base, ledger.event(property_id, name))
    age(base, "UPDATE photo SET updated_at = now() - interval '90 seconds' WHERE key LIKE '%a'")
    assert ask(base, "embed") == 90
    assert ask(base, "match") == 0
    age(
        base,
        "UPDATE photo SET status = 'embedded', updated_at = now() - interval '30 seconds' WHERE key LIKE '%b'",
    )
    assert ask(base, "match") == 30
    # What waits for hours is the sweep's, and more workers would not help it.
    age(base, "UPDATE photo SET updated_at = now() - interval '2 hours'")
    assert {name: ask(base, name) for name in QUERIES} == {"embed": 0, "match": 0}


def test_a_photo_that_gave_up_calls_for_no_workers(base: database.Database) -> None:
    ledger.empty(base)
    ledger.activate_model(base)
    for name in ("a", "b"):
        ledger.apply(base, ledger.event(ledger.new_property(), name))
    # As the sweep leaves one whose object the store refuses: published again minutes ago, for the fourth time.
    age(
        base,
        "UPDATE photo SET postponed = 4, updated_at = now() - interval '500 seconds' WHERE key LIKE '%a'",
    )
    age(base, "UPDATE photo SET updated_at = now() - interval '20 seconds' WHERE key LIKE '%b'")
    assert ask(base, "embed") == 20


@pytest.mark.parametrize("name", sorted(QUERIES))
def test_it_is_asked_of_an_index(base: database.Database, name: str) -> None:
    with base.transaction() as connection:
        connection.execute("SET LOCAL enable_seqscan = off")
        plan = [str(row["QUERY PLAN"]) for row in connection.execute("EXPLAIN " + QUERIES[name]).fetchall()]
    assert any("photo_unfinished" in line for line in plan), plan
