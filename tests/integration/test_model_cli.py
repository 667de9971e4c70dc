from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest

from core import backfills, bundle, database, models, photos
from tests.integration import ledger
from tests.integration.conftest import Server
from tests.integration.test_cli import dedup
from workers import sources


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    with server.database("test_model_cli") as url:
        yield url


def run(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return dedup("model", *arguments, DEDUP_DATABASE_URL=url)


def test_what_a_person_is_told(url: str) -> None:
    empty = run(url, "list")
    assert (empty.returncode, "first embed worker" in empty.stderr) == (1, True)
    unknown = run(url, "add", "nobody")
    assert unknown.returncode == 78
    assert "no such folder, and no shipped bundle of that name (imagenet" in unknown.stderr
    refused = run(url, "add", "untrained")
    assert (refused.returncode, "this database is a real one" in refused.stderr) == (78, True)

    old, new = bundle.shipped()["imagenet"], bundle.shipped()["imagenet1k-v1"]
    added = run(url, "add", "imagenet")
    assert added.returncode == 0, added.stderr
    assert f"imagenet ({old.id}) is candidate" in added.stdout
    base = database.Database(url, pool_size=1)
    with contextlib.closing(base), base.transaction() as connection:
        connection.execute("UPDATE model SET status = 'active'")
        models.add(connection, new)
    assert "none of this id or name" in run(url, "compare", "imagenet", "resnet").stderr
    done = run(url, "activate", "imagenet1k-v1")
    assert done.returncode == 0, done.stderr
    retired = run(url, "retire", old.id[:6])
    assert (retired.returncode, "is retired; 0 embeddings" in retired.stdout) == (0, True), retired.stderr
    shown = run(url, "list", "--json")
    found = {row["name"]: row["status"] for row in map(json.loads, shown.stdout.splitlines())}
    assert found == {"imagenet1k-v1": "active", "imagenet": "retired"}
    backfill = dedup("backfill", "--model", "imagenet", "--dry-run", DEDUP_DATABASE_URL=url)
    assert (backfill.returncode, "is retired" in backfill.stderr) == (78, True)


def test_what_was_tried_in_vain_is_parked_and_nothing_else(url: str) -> None:
    old, new = bundle.shipped()["imagenet"], bundle.shipped()["imagenet1k-v1"]
    with contextlib.closing(database.Database(url, pool_size=1)) as base:
        with base.transaction() as connection:
            models.add(connection, old)
            connection.execute("UPDATE model SET status = 'active'")
            models.add(connection, new)

        def upload(name: str) -> photos.Revision:
            photo = ledger.apply(base, ledger.event("42", name)).photo
            with base.transaction() as connection:
                vector = np.eye(1, old.dims, dtype=np.float32)[0]
                photos.store(connection, photo, photos.Embedded({old.id: vector}, "", 1, 1, 1, name))
                connection.execute("UPDATE photo SET matched_at = now()")
                connection.execute(
                    "INSERT INTO property_model (property_id, model_id) VALUES ('42', %s) ON CONFLICT DO NOTHING",
                    (old.id,),
                )
            return photo

        def backfill(model_id: str, *, finish: bool) -> None:
            source = sources.recorded(base, backfills.Selection("missing"), model_id)
            with base.transaction() as connection:
                started = backfills.start(connection, source.name)
                if finish:
                    backfills.finish(connection, started)

        def activate(*arguments: str) -> subprocess.CompletedProcess[str]:
            return run(url, "activate", new.id, *arguments)

        first = upload("a")
        for stands in ("no backfill", "one of the other model", "one that is under way"):
            if stands != "no backfill":
                backfill(old.id if "other" in stands else new.id, finish="other" in stands)
            refused = activate("--park-missing")
            assert refused.returncode == 78, stands
            assert f"dedup backfill --model {new.id}" in refused.stderr
            assert "was finished" in refused.stderr, stands
            assert ledger.row(base, first)["status"] == "embedded", stands
        backfill(new.id, finish=True)
        second = upload("b")
        refused = activate("--park-missing")
        assert (refused.returncode, "1 photos lack" in refused.stderr) == (78, True), refused.stderr
        assert ledger.row(base, first)["failure"] == "lacks_model"
        assert ledger.row(base, second)["status"] == "embedded", "nobody has tried it yet"

        # As if it had been stored in the very moment of the change.
        with base.transaction() as connection:
            connection.execute("UPDATE model SET status = 'candidate'")
            connection.execute("UPDATE model SET status = 'active' WHERE id = %s", (new.id,))
        waits = activate()
        assert waits.returncode == 0, waits.stderr
        assert "1 properties wait" in waits.stdout
        assert f"dedup backfill --model {new.id}" in waits.stdout
        assert f"activate {new.id} --park-missing" in waits.stdout
        backfill(new.id, finish=True)
        done = activate("--park-missing", "--json")
        assert done.returncode == 0, done.stderr
        # The property follows as the photo that held it up goes.
        assert json.loads(done.stdout) == {"model": new.id, "switched": 0, "waiting": 0, "parked": 1}

        assert run(url, "retire", old.id).returncode == 0
        assert run(url, "add", "imagenet").returncode == 0
        upload("c")
        back = run(url, "activate", old.id, "--park-missing")
        assert (back.returncode, "was finished" in back.stderr) == (78, True), "its embeddings went with it"
