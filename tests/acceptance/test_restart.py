"""`dedup up` as a user runs it: killed at any moment, started twice, ended by Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from workers import embedded

from . import pictures
from . import system as acceptance

PROPERTY = "42"
CTRL_C_SECONDS = 60.0
"""It takes a few; the machine may have much else to do."""


@pytest.mark.slow
def test_killed_stack_goes_on_where_it_was(data_dir: pathlib.Path) -> None:
    system = acceptance.System(embedded.Stack(data_dir / "up"))
    with _up(data_dir):
        for number in range(8):
            system.upload(PROPERTY, f"{number}-a.jpg", pictures.jpeg(pictures.SUBJECTS[number % 5]))
        acceptance.until(lambda: _in_hand(system), "a photo is in the hands of the embed worker")
        _kill_all(data_dir)
    assert not acceptance.processes_of(data_dir)

    with _up(data_dir) as up:
        assert system.s3.list_objects_v2(Bucket="photos")["KeyCount"] == 8
        acceptance.until(lambda: _statuses(system) == ["embedded"] * 8, "every photo is embedded")
        # Five pictures under eight names.
        acceptance.until(lambda: len(system.flags(PROPERTY)) == 3, "the duplicates are flagged")

        second = subprocess.run(
            acceptance.command("up"),
            cwd=acceptance.ROOT,
            env=_environment(data_dir),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert second.returncode == 78
        assert f"{data_dir / 'up'} is in use by process {up.pid}" in second.stderr
        assert "Traceback" not in second.stderr
        assert up.poll() is None
        system.upload(PROPERTY, "8-a.jpg", pictures.jpeg(pictures.SUBJECTS[3], quality=60))
        acceptance.until(lambda: len(system.flags(PROPERTY)) == 4, "the first one goes on")

        # A supervisor alone that is killed leaves no worker and no store behind; the database is taken over.
        up.kill()
        up.wait()
        acceptance.until(
            lambda: not [line for line in acceptance.processes_of(data_dir).values() if "workers" in line],
            "its workers and its store end with it",
        )

    with _up(data_dir) as up:
        assert len(system.flags(PROPERTY)) == 4
        started = time.monotonic()
        up.send_signal(signal.SIGINT)
        assert up.wait(CTRL_C_SECONDS) == 0
        assert time.monotonic() - started < CTRL_C_SECONDS
        assert not acceptance.processes_of(data_dir)
    log = (data_dir / "up.log").read_text(encoding="utf-8")
    assert "Traceback" not in log


@contextlib.contextmanager
def _up(data_dir: pathlib.Path) -> Iterator[subprocess.Popen[bytes]]:
    """`dedup up` until the block ends, from when it has said where everything is."""
    log = data_dir / "up.log"
    log.touch()
    said = log.stat().st_size
    with acceptance.process(log, "up", **_environment(data_dir)) as up:

        def ready() -> bool:
            assert up.poll() is None, log.read_text(encoding="utf-8")
            return b"Ctrl-C stops it" in log.read_bytes()[said:]

        acceptance.until(ready, "dedup up says that it is up")
        yield up


def _environment(data_dir: pathlib.Path) -> dict[str, str]:
    return {**os.environ, **acceptance.stack_environment(), "DEDUP_DATA_DIR": str(data_dir)}


def _statuses(system: acceptance.System) -> list[str]:
    return list(system.statuses(PROPERTY).values())


def _in_hand(system: acceptance.System) -> list[acceptance.Row]:
    return system.ask("SELECT id FROM photo WHERE status = 'pending' AND attempts > 0")


def _kill_all(data_dir: pathlib.Path) -> None:
    """kill -9 of everything that runs over `data_dir`, again until nothing new appears."""

    def gone() -> bool:
        found = acceptance.processes_of(data_dir)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found

    acceptance.until(gone, "all processes are gone")
