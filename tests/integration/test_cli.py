from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest

from tests.integration.conftest import Server


@pytest.fixture(scope="module")
def database_url(server: Server) -> Iterator[str]:
    with server.database("test_cli") as url:
        with psycopg.connect(url) as connection:
            connection.execute(
                "INSERT INTO model (id, digest, name, dims, duplicate_threshold, review_threshold, untrained, card,"
                " status) VALUES ('0123456789abcdef', 'd', 'trial', 8, 0.9, 0.5, false, '{}', 'active')"
            )
            for name in ("a.jpg", "b.jpg"):
                connection.execute(
                    "INSERT INTO photo (property_id, bucket, key, etag, sequencer, occurred_at, uploaded_at, status)"
                    " VALUES ('42', 'photos', 'properties/42/photos/' || %s, '', '', now(), now(), 'embedded')",
                    (name,),
                )
            connection.execute(
                "INSERT INTO duplicate_flag (property_id, photo_id, duplicate_of, score, model_id, decided_by)"
                " SELECT '42', max(id), min(id), 0.97, '0123456789abcdef', 'model' FROM photo"
            )
        yield url


def dedup(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DEDUP_", "AWS_"))}
    return subprocess.run(
        [sys.executable, "-m", "workers", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**clean, **environment},
        check=False,
    )


def test_flags_of_a_property(database_url: str) -> None:
    shown = dedup("flags", "42", DEDUP_DATABASE_URL=database_url)
    assert shown.returncode == 0, shown.stderr
    assert (
        "properties/42/photos/b.jpg duplicates properties/42/photos/a.jpg (score 0.97, by model"
        in shown.stdout
    )
    as_json = dedup("flags", "42", "--json", DEDUP_DATABASE_URL=database_url)
    (flag,) = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert (flag["photo"], flag["decided_by"]) == ("properties/42/photos/b.jpg", "model")


def test_flags_by_the_readers_login(database_url: str, server: Server) -> None:
    shown = dedup("flags", "42", "--json", DEDUP_DATABASE_URL=server.url("test_cli", "dedup_reader"))
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["score"] == pytest.approx(0.97)


def test_a_login_without_rights_is_told_so(database_url: str, server: Server) -> None:
    reader = server.url("test_cli", "dedup_reader")
    shown = dedup("sweep", DEDUP_DATABASE_URL=reader)
    assert shown.returncode == 78
    assert "dedup_worker" in shown.stderr
    assert "Traceback" not in shown.stderr
    checks = dedup("doctor", "--json", DEDUP_DATABASE_URL=reader, DEDUP_BACKBONE_WEIGHTS="untrained")
    assert "Traceback" not in checks.stderr
    assert len(checks.stdout.splitlines()) == 10


def test_a_property_without_flags_is_exit_code_1(database_url: str) -> None:
    shown = dedup("flags", "43", DEDUP_DATABASE_URL=database_url)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert "No duplicates on record for property 43" in shown.stderr


def test_a_wrong_setting_is_exit_code_78_and_named() -> None:
    shown = dedup("ingest", DEDUP_MAX_PHOTO_PIXELS="many")
    assert shown.returncode == 78
    assert "DEDUP_MAX_PHOTO_PIXELS" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_database_that_is_away_is_exit_code_75() -> None:
    shown = dedup("migrate", DEDUP_DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing")
    assert shown.returncode == 75
    assert "Traceback" not in shown.stderr


def test_migrate_is_silent_when_there_is_nothing_to_do(database_url: str) -> None:
    shown = dedup("migrate", DEDUP_DATABASE_URL=database_url)
    assert (shown.returncode, shown.stdout) == (0, "")


def test_doctor_says_what_is_wrong_and_what_to_do(database_url: str, tmp_path: pathlib.Path) -> None:
    shown = dedup(
        "doctor",
        "--json",
        DEDUP_DATABASE_URL=database_url,
        DEDUP_BROKER_URL="amqp://127.0.0.1:1//",
        DEDUP_S3_ENDPOINT_URL="http://127.0.0.1:1",
        DEDUP_BACKBONE_WEIGHTS=str(tmp_path / "missing.pth"),
        AWS_ACCESS_KEY_ID="x",
        AWS_SECRET_ACCESS_KEY="y",
    )
    assert shown.returncode == 1, shown.stderr
    checks = {check["name"]: check for check in map(json.loads, shown.stdout.splitlines())}
    assert {name for name, check in checks.items() if check["ok"]} == {
        "settings", "database", "pgvector", "schema", "model", "device",
    }  # fmt: skip
    assert "DEDUP_BROKER_URL" in checks["broker"]["text"]
    assert "DEDUP_BUCKETS" in checks["buckets"]["text"]
    assert "Three remedies" in checks["weights"]["text"]


def test_doctor_before_the_first_migration(server: Server) -> None:
    with server.database("test_doctor", migrate=False) as url:
        shown = dedup("doctor", "--json", DEDUP_DATABASE_URL=url, DEDUP_BACKBONE_WEIGHTS="untrained")
    checks = {check["name"]: check for check in map(json.loads, shown.stdout.splitlines())}
    assert "dedup migrate" in checks["schema"]["text"]
    assert "dedup migrate" in checks["pgvector"]["text"]
    assert shown.returncode == 1


def test_scanning_nothing_is_an_error(tmp_path: pathlib.Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        shown = dedup(
            "scan", str(folder), DEDUP_BACKBONE_WEIGHTS="untrained", DEDUP_DATA_DIR=str(tmp_path / "data")
        )
        assert shown.returncode == 78
        assert str(folder) in shown.stderr


def flags_of(database_url: str, property_id: str) -> list[tuple[str, str]]:
    with psycopg.connect(database_url) as connection:
        return connection.execute(
            "SELECT key, decided_by FROM listing_duplicates WHERE property_id = %s ORDER BY key",
            [property_id],
        ).fetchall()


def test_a_verdict_moves_the_flags_at_once(database_url: str, server: Server) -> None:
    worker = server.url("test_cli", "dedup_worker")
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO photo (property_id, bucket, key, etag, sequencer, occurred_at, uploaded_at, status)"
            " SELECT '50', bucket, key, '', '', now(), now(), 'embedded'"
            " FROM (VALUES ('photos', 'a'), ('photos', 'b'), ('other', 'b')) AS place (bucket, key)"
        )
    ambiguous = dedup("verdict", "50", "a", "b", "duplicate", DEDUP_DATABASE_URL=worker)
    assert ambiguous.returncode == 78
    assert "in 2 buckets" in ambiguous.stderr
    said = dedup("verdict", "50", "a", "s3://other/b", "duplicate", "--by", "ann", DEDUP_DATABASE_URL=worker)
    assert said.returncode == 0, said.stderr
    assert flags_of(database_url, "50") == [("b", "person")]
    said = dedup("verdict", "50", "s3://other/b", "a", "different", DEDUP_DATABASE_URL=worker)
    assert said.returncode == 0, said.stderr
    assert flags_of(database_url, "50") == []
    unknown = dedup("verdict", "50", "a", "z", "different", DEDUP_DATABASE_URL=worker)
    assert unknown.returncode == 78
    assert "Property 50 has no photo with the key z" in unknown.stderr
    assert "Traceback" not in unknown.stderr
    assert dedup("verdict", "50", "a", "b", "maybe", DEDUP_DATABASE_URL=worker).returncode == 2


def test_a_property_is_removed_once(database_url: str, server: Server) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO photo (property_id, bucket, key, etag, sequencer, occurred_at, uploaded_at, status)"
            " SELECT '51', 'photos', 'properties/51/photos/' || name, '', '', now(), now(), 'pending'"
            " FROM unnest(ARRAY['a', 'b']) AS name"
        )
    for count in (2, 0):
        shown = dedup("remove-property", "51", DEDUP_DATABASE_URL=server.url("test_cli", "dedup_worker"))
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout == f"Property 51: {count} photos removed.\n"


def test_reassigning_leaves_what_belongs_to_no_property(database_url: str, server: Server) -> None:
    with psycopg.connect(database_url) as connection:
        counted = connection.execute("SELECT count(*) FROM photo WHERE status <> 'removed'").fetchone()
    assert counted is not None
    shown = dedup(
        "reassign",
        DEDUP_DATABASE_URL=server.url("test_cli", "dedup_worker"),
        DEDUP_KEY_PATTERN="nothing/(?P<property>.+)/(?P<name>.+)",
    )
    assert shown.returncode == 0, shown.stderr
    assert "0 photos moved" in shown.stdout
    assert f"{counted[0]} photos belong to no property" in shown.stdout
