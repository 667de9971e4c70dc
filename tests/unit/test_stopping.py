"""How a process ends whose work outlasts the order to stop: real processes, since they end for good."""

from __future__ import annotations

import subprocess
import sys

import pytest

from workers import processes

ASKED = """
import sys, threading
from celery.worker import state
from workers import loop, stopping
stopping.process.gives_back(lambda: print("given back", flush=True))
stopping.process.watch(0.01, loop._ends, loop.exit_code)
state.should_stop = int(sys.argv[1])
threading.Event().wait()
"""

TOLD = """
import os, signal, threading
from workers import stopping
stopping.process.gives_back(lambda: print("given back", flush=True))
stopping.process.on_signals(0.01)
with stopping.process.in_hand():
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait()
"""


def run(script: str, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("code", [0, processes.EXIT_AWAY, processes.EXIT_CONFIGURATION])
def test_an_unfit_process_ends_with_its_code_though_work_lasts_longer(code: int) -> None:
    ended, said = run(ASKED, str(code))
    assert ended == code
    assert "given back" in said


def test_a_process_that_was_told_to_stop_ends_well_though_work_lasts_longer() -> None:
    ended, said = run(TOLD)
    assert ended == 0
    assert "given back" in said
