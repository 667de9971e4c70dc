"""`dedup scan` on photos of real homes, against what people said of them."""

from __future__ import annotations

import collections
import csv
import itertools
import json
import os
import pathlib
import shutil
import subprocess

import psycopg
import pytest

from workers import embedded_postgres

from . import system as acceptance

SHARED = acceptance.ROOT.parent / "shared"
PHOTOS = SHARED / "photos"
WEIGHTS = SHARED / "weights" / "resnet50-imagenet.safetensors"

pytestmark = [
    pytest.mark.skipif(
        not (PHOTOS.is_dir() and WEIGHTS.is_file()),
        reason="needs the photos of ../shared/photos and the weights of ../shared/weights beside the checkout",
    ),
    pytest.mark.timeout(900),
]

Pair = tuple[str, frozenset[str]]


@pytest.mark.parametrize("properties", [10, pytest.param(None, id="all", marks=pytest.mark.slow)])
def test_scan_finds_the_duplicates_among_real_photos(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, properties: int | None
) -> None:
    photos = tmp_path / "photos"
    for folder in sorted(folder for folder in PHOTOS.iterdir() if folder.is_dir())[:properties]:
        shutil.copytree(folder, photos / folder.name)
    environment = {
        **os.environ,
        "DEDUP_DATA_DIR": str(data_dir),
        "DEDUP_BACKBONE_WEIGHTS": str(WEIGHTS),
    }
    scan = subprocess.run(
        acceptance.command("scan", str(photos), "--json"),
        cwd=acceptance.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert scan.returncode == 0, scan.stderr
    flags = [json.loads(line) for line in scan.stdout.splitlines()]
    assert all(set(flag) == {"property", "photo", "duplicate_of", "score"} for flag in flags)

    groups: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
    for flag in flags:
        groups[flag["property"], flag["duplicate_of"]] |= {flag["photo"], flag["duplicate_of"]}
    found = {
        (property_id, frozenset(pair))
        for (property_id, _), names in groups.items()
        for pair in itertools.combinations(names, 2)
    }
    with (PHOTOS / "duplicates.csv").open(encoding="utf-8", newline="") as file:
        true: set[Pair] = {
            (row["property"], frozenset((row["a"], row["b"])))
            for row in csv.DictReader(file)
            if (photos / row["property"]).is_dir()
        }
    precision, recall = len(found & true) / len(found), len(found & true) / len(true)
    print(f"precision {precision:.3f}, recall {recall:.3f}, {len(found)} pairs found, {len(true)} true")
    assert precision >= 0.95, sorted((name, sorted(pair)) for name, pair in found - true)
    assert recall >= 0.90, sorted((name, sorted(pair)) for name, pair in true - found)

    assert _statuses(data_dir) == {"embedded": sum(1 for _ in photos.glob("*/*.jpg"))}
    assert not acceptance.processes_of(data_dir)


def _statuses(data_dir: pathlib.Path) -> dict[str, int]:
    """How many photos have each status, in the database that the scan left."""
    (home,) = (data_dir / "scan").iterdir()
    postgres = embedded_postgres.EmbeddedPostgres(home)
    postgres.start()
    try:
        with psycopg.connect(postgres.url()) as connection:
            rows = connection.execute("SELECT status, count(*) FROM photo GROUP BY status")
            return {str(status): int(count) for status, count in rows}
    finally:
        postgres.stop()
