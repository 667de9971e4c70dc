from __future__ import annotations

import concurrent.futures
import random
import threading

import pytest

from core import errors, photos
from workers import isolation

A, B = (photos.Revision("42", number, 1) for number in (1, 2))


def test_whoever_is_alone_has_nobody_beside() -> None:
    gate = isolation.Gate()
    inside: list[str] = []
    lock = threading.Lock()
    beside: list[list[str]] = []
    kinds = ["together"] * 60 + ["alone"] * 20
    random.Random(0).shuffle(kinds)
    # All start at once, so that most of them meet.
    start = threading.Barrier(len(kinds))

    def work(kind: str) -> None:
        start.wait()
        with gate.alone() if kind == "alone" else gate.together():
            with lock:
                inside.append(kind)
                beside.append(list(inside))
            threading.Event().wait(0.001)
            with lock:
                inside.remove(kind)

    with concurrent.futures.ThreadPoolExecutor(len(kinds)) as pool:
        list(pool.map(work, kinds))
    assert len(beside) == len(kinds)
    assert all(seen == ["alone"] for seen in beside if "alone" in seen)
    assert max(len(seen) for seen in beside) > 1, "the others do work together"


def test_who_waits_to_be_alone_goes_first() -> None:
    gate = isolation.Gate()
    order: list[str] = []

    def later(kind: str) -> None:
        with gate.alone() if kind == "alone" else gate.together():
            order.append(kind)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        with gate.together():
            first = pool.submit(later, "alone")
            while not gate._waiting:
                pass
            second = pool.submit(later, "together")
        concurrent.futures.wait([first, second])
    assert order == ["alone", "together"]


def test_one_that_hangs_does_not_hold_up_all() -> None:
    gate = isolation.Gate(patience_seconds=0.05)
    with gate.together():
        with pytest.raises(errors.TransientError, match="alone"), gate.alone():
            pass
        with gate.together():
            pass


def test_a_name_is_claimed_once_at_a_time() -> None:
    gate = isolation.Gate()
    with gate.claim(A) as first, gate.claim(A) as second, gate.claim(B) as other:
        assert (first, second, other) == (True, False, True)
    with gate.claim(A) as again:
        assert again


def test_what_is_under_way_and_for_how_long() -> None:
    now = 0.0
    gate = isolation.Gate(clock=lambda: now)
    with gate.claim(A), gate.claim(B):
        assert gate.begun_within(10) == [], "they only wait"
        with gate.begun(A):
            now = 8.0
            with gate.begun(B):
                assert gate.begun_within(10) == [A, B]
                now = 11.0
                assert gate.begun_within(10) == [B]
            assert gate.begun_within(20) == [A]
    assert gate.begun_within(20) == []
