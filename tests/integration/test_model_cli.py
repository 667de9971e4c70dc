from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator

import pytest

from core import bundle, database, models
from tests.integration.conftest import Server
from tests.integration.test_cli import dedup


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
