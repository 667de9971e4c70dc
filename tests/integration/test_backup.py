"""Backup and restore as docs/operations.md says, by Postgres' own programs."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess

import psycopg

from core import database
from tests import deployment
from tests.integration import ledger
from tests.integration.conftest import Server
from workers import embedded_programs


def commands(document: str) -> list[str]:
    """The lines of the section's blocks of commands, without what is said of them."""
    section = document.split("\n## Backup and restore\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```console\n(.*?)```", section, flags=re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]


def test_a_restored_database_is_the_one_that_was_backed_up(
    server: Server, base: database.Database, tmp_path: pathlib.Path
) -> None:
    ledger.activate_model(base)
    property_id = ledger.new_property()
    first = ledger.add(base, property_id, "a.jpg", 1)
    second = ledger.add(base, property_id, "b.jpg", 1, at=1)
    third = ledger.add(base, property_id, "c.jpg", 0, 1, at=2)
    ledger.verdict(base, first, third, duplicate=False)
    flags = ledger.flags(base, property_id)
    assert flags == {"b.jpg": "a.jpg"}

    lines = commands((deployment.ROOT / "docs/operations.md").read_text(encoding="utf-8"))
    assert [line.split()[0] for line in lines] == ["pg_dump", "pg_dumpall", "pg_restore", "psql", "dedup"]
    programs = embedded_programs.install(pathlib.Path("/"), None)

    def run(line: str, url: str) -> None:
        done = subprocess.run(
            ["/bin/sh", "-ec", line],
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{programs}:{os.environ['PATH']}",
                "DEDUP_MIGRATION_DATABASE_URL": url,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr

    dump, roles, restore, settle, _migrate = lines
    run(dump, server.url("test_backup"))
    run(roles, server.url("test_backup"))
    assert "dedup_worker" in (tmp_path / "roles.sql").read_text(encoding="utf-8")
    with server.database("test_backup_restored", migrate=False) as url:
        run(restore, url)
        run(settle, url)
        restored = database.Database(server.url("test_backup_restored", "dedup_worker"), pool_size=1)
        try:
            assert ledger.flags(restored, property_id) == flags
            assert ledger.row(restored, second) == ledger.row(base, second)
            assert len(ledger.rows(restored, "SELECT FROM verdict")) == 1
            assert ledger.feed(restored, property_id) == []
            # It works on: a photo that comes after the restore is flagged, and told.
            ledger.add(restored, property_id, "d.jpg", 0, 1, at=3)
            assert ledger.flags(restored, property_id) == {**flags, "d.jpg": "c.jpg"}
        finally:
            restored.close()
        with psycopg.connect(server.url("test_backup_restored", "dedup_reader")) as reader:
            assert len(reader.execute("SELECT FROM listing_duplicates").fetchall()) == 2
