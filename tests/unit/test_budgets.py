from __future__ import annotations

import os
import subprocess
import sys
import threading

from core import budgets


def held(
    budget: budgets.Budget, amount: int, entered: threading.Event, leave: threading.Event
) -> threading.Thread:
    def run() -> None:
        with budget.hold(amount):
            entered.set()
            assert leave.wait(60)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_who_would_take_more_than_is_left_waits_until_it_is_given_back() -> None:
    budget = budgets.Budget(10)
    events = [threading.Event() for _ in range(4)]
    first = held(budget, 6, events[0], events[1])
    assert events[0].wait(60)
    second = held(budget, 5, events[2], events[3])
    assert not events[2].wait(0.1)
    events[1].set()
    assert events[2].wait(60)
    events[3].set()
    first.join()
    second.join()


def test_more_than_there_is_goes_alone() -> None:
    budget = budgets.Budget(10)
    with budget.hold(1000):
        assert budget._free == 0
    assert budget._free == 10


def test_who_has_no_more_patience_holds_nothing() -> None:
    budget = budgets.Budget(10)
    entered, leave = threading.Event(), threading.Event()
    with budget.hold(6):
        with budget.hold(5, 0.0) as had:
            assert not had
        assert budget._free == 4
        # It is this one's turn, and it waits, too.
        turn = held(budget, 5, entered, leave)
        while not budget._turn.locked():
            pass
        with budget.hold(1, 0.0) as had:
            assert not had
        with budget.hold(1, 0.01) as had:
            assert not had
    assert entered.wait(60)
    leave.set()
    turn.join()
    with budget.hold(10, 0.0) as had:
        assert had
    assert budget._free == 10


def test_an_error_gives_back_what_was_held() -> None:
    budget = budgets.Budget(10)
    try:
        with budget.hold(10):
            raise ValueError
    except ValueError:
        assert budget._free == 10


def test_matrices_are_multiplied_in_one_thread() -> None:
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import numpy, threadpoolctl; from core import budgets; budgets.single_thread_blas();"
            "print({found['num_threads'] for found in threadpoolctl.threadpool_info()})",
        ],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "{1}"
