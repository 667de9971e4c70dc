from __future__ import annotations

import json
import pathlib
import subprocess
from collections.abc import Iterator

import psycopg
import pytest

from core import bundle
from tests.integration.conftest import Server
from tests.integration.test_cli import dedup


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    with server.database("test_model_cli") as url:
        yield url


def run(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return dedup("model", *arguments, DEDUP_DATABASE_URL=url)


def test_what_a_person_is_told(url: str, tmp_path: pathlib.Path) -> None:
    empty = run(url, "list")
    assert (empty.returncode, "first embed worker" in empty.stderr) == (1, True)
    unknown = run(url, "add", "nobody")
    assert unknown.returncode == 78
    assert "no such folder, and no shipped bundle of that name (imagenet" in unknown.stderr
    nothing = run(url, "add", str(tmp_path))
    assert (nothing.returncode, "found no bundle.json" in nothing.stderr) == (78, True)
    refused = run(url, "add", "untrained")
    assert (refused.returncode, "this database is a real one" in refused.stderr) == (78, True)

    shipped = bundle.shipped()
    added = run(url, "add", "imagenet")
    assert added.returncode == 0, added.stderr
    assert f"imagenet ({shipped['imagenet'].id}) is candidate" in added.stdout
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE model SET status = 'active'")
    other = run(url, "add", "imagenet1k-v1", "--json")
    assert json.loads(other.stdout)["status"] == "candidate"
    assert run(url, "activate", "resnet").returncode == 78
    assert run(url, "compare", "imagenet", "imagenet1k-v1").returncode == 0
    assert "is active" in run(url, "retire", "imagenet").stderr
    done = run(url, "activate", "imagenet1k-v1")
    assert done.returncode == 0, done.stderr
    retired = run(url, "retire", shipped["imagenet"].id[:6])
    assert (retired.returncode, "is retired; 0 embeddings" in retired.stdout) == (0, True), retired.stderr
    shown = run(url, "list", "--json")
    found = {row["name"]: row["status"] for row in map(json.loads, shown.stdout.splitlines())}
    assert found == {"imagenet1k-v1": "active", "imagenet": "retired"}
    assert "retired" in run(url, "list").stdout
    backfill = dedup("backfill", "--model", "imagenet", "--dry-run", DEDUP_DATABASE_URL=url)
    assert (backfill.returncode, "is retired" in backfill.stderr) == (78, True)
    assert dedup("backfill", "--model", "imagenet", "--all", DEDUP_DATABASE_URL=url).returncode == 2
