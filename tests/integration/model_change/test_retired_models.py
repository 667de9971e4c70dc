"""What goes with a model that is retired, on the real tables."""

from __future__ import annotations

import concurrent.futures
import random

import psycopg
import pytest

from core import database, errors, model_changes, photos
from tests.integration import ledger
from tests.integration.conftest import Server
from tests.integration.model_change import steps


def test_an_embedding_of_a_model_that_was_retired_meanwhile_is_not_kept(
    base: database.Database, place: str
) -> None:
    photo = ledger.apply(base, ledger.event(place, "a")).photo
    steps.retire(base, steps.NEW)
    assert steps.store(base, photo, old=(1,), new=(1,)) == photos.Stored(True, ())
    found = ledger.rows(base, "SELECT model_id FROM photo_embedding WHERE property_id = %s", place)
    assert [row["model_id"] for row in found] == [steps.OLD]


def test_retiring_waits_for_whoever_stores_and_whoever_stores_sees_it(
    base: database.Database, server: Server, place: str
) -> None:
    one, other = (ledger.apply(base, ledger.event(place, name)).photo for name in "ab")
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with (
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        psycopg.connect(server.url("test_retired_models"), autocommit=True) as watcher,
    ):
        with base.transaction() as connection:
            found = photos.Embedded({steps.NEW: ledger.vector(1)}, "e1", 4, 3, 100, "s")
            assert photos.store(connection, one, found).kept
            retiring = pool.submit(steps.retire, base, steps.NEW)
            while watcher.execute(waiting).fetchone() is None:
                assert not retiring.done(), "it did not wait"
        retiring.result(30)
        with base.transaction() as connection:
            assert steps.purge(base, steps.NEW) == {"embeddings": 1, "pairs": 0}
            connection.execute("UPDATE model SET status = 'candidate' WHERE id = %s", (steps.NEW,))
        # The other way round.
        with base.transaction() as connection:
            model_changes.retire(connection, steps.model(base, steps.NEW))
            storing = pool.submit(steps.store, base, other, old=(1,), new=(1,))
            while watcher.execute(waiting).fetchone() is None:
                assert not storing.done(), "it did not wait"
        assert storing.result(30).kept
    found_rows = ledger.rows(base, "SELECT model_id FROM photo_embedding WHERE property_id = %s", place)
    assert [row["model_id"] for row in found_rows] == [steps.OLD]


def test_retiring_deletes_what_is_of_the_model_and_nothing_else(base: database.Database, place: str) -> None:
    steps.fill(base, [place, ledger.new_property()], random.Random(1))
    with pytest.raises(errors.ConfigurationError, match="is active"):
        steps.retire(base, steps.OLD)
    steps.activate(base, steps.NEW)
    with pytest.raises(errors.ConfigurationError, match="2 properties still show"):
        steps.retire(base, steps.OLD)
    steps.switch(base)
    steps.retire(base, steps.OLD)
    counts = (
        "SELECT (SELECT count(*) FROM {0} WHERE model_id = %s) AS old, (SELECT count(*) FROM {0}) AS every"
    )
    before = {
        table: ledger.rows(base, counts.format(table), steps.OLD)[0] for table in ("photo_embedding", "pair")
    }
    assert all(0 < row["old"] < row["every"] for row in before.values()), before
    assert steps.purge(base, steps.OLD) == {
        "embeddings": before["photo_embedding"]["old"],
        "pairs": before["pair"]["old"],
    }
    for table, row in before.items():
        (after,) = ledger.rows(base, counts.format(table), steps.OLD)
        assert after == {"old": 0, "every": row["every"] - row["old"]}
    with pytest.raises(errors.ConfigurationError, match="is retired; `dedup model add`"):
        steps.activate(base, steps.OLD)


def test_a_model_that_came_back_is_not_purged(base: database.Database, place: str) -> None:
    steps.add(base, place, "a", 0, old=(1,), new=(1,))
    steps.retire(base, steps.NEW)
    with base.transaction() as connection:
        connection.execute("UPDATE model SET status = 'candidate' WHERE id = %s", (steps.NEW,))
    assert steps.purge(base, steps.NEW) == {"embeddings": 0, "pairs": 0}
