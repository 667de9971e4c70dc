"""`dedup scan` of a folder that changes between two scans."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess

import pytest

from . import pictures
from . import system as acceptance

pytestmark = pytest.mark.timeout(600)


def scan(folder: pathlib.Path, data_dir: pathlib.Path) -> tuple[set[tuple[str, str, str]], str]:
    """The flags as (property, photo, duplicate of), and what went to stderr."""
    done = subprocess.run(
        acceptance.command("scan", str(folder), "--json"),
        cwd=acceptance.ROOT,
        env={
            **os.environ,
            "DEDUP_DATA_DIR": str(data_dir),
            "DEDUP_BACKBONE_WEIGHTS": "untrained",
            # A scan's keys are its own; the user's pattern is for the user's bucket.
            "DEDUP_KEY_PATTERN": "(?P<property>[0-9]+)/(?P<name>.+)",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    flags = [json.loads(line) for line in done.stdout.splitlines()]
    return {(flag["property"], flag["photo"], flag["duplicate_of"]) for flag in flags}, done.stderr


def test_sigterm_leaves_nothing_running(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    house = tmp_path / "photos" / "1"
    house.mkdir(parents=True)
    (house / "01.jpg").write_bytes(pictures.jpeg("bedroom"))
    variables = {"DEDUP_DATA_DIR": str(data_dir), "DEDUP_BACKBONE_WEIGHTS": "untrained"}
    with acceptance.process(tmp_path / "log", "scan", str(tmp_path / "photos"), **variables) as process:
        acceptance.until(
            lambda: any("postgres" in line for line in acceptance.processes_of(data_dir).values()),
            "Postgres runs",
        )
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert not acceptance.processes_of(data_dir)


@pytest.mark.slow
def test_a_second_scan_sees_what_changed(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    house = tmp_path / "photos" / "house 1 [é]"
    house.mkdir(parents=True)
    (house / "01.jpg").write_bytes(pictures.jpeg("bedroom"))
    (house / "02.jpg").write_bytes(pictures.jpeg("exterior"))
    (house / "again [copy].jpg").write_bytes(pictures.jpeg("bedroom", 70))
    (house / "broken.jpg").write_bytes(b"no picture")
    flags, errors = scan(tmp_path / "photos", data_dir)
    assert flags == {("house 1 [é]", "again [copy].jpg", "01.jpg")}
    assert "broken.jpg: unsupported" in errors

    # One file replaced, and nothing else: the old answer must not pass for the new one.
    (house / "again [copy].jpg").write_bytes(pictures.jpeg("exterior", 70))
    flags, _ = scan(tmp_path / "photos", data_dir)
    assert flags == {("house 1 [é]", "again [copy].jpg", "02.jpg")}
