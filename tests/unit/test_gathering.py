from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Sequence

import pytest

from workers import gathering


class Work:
    """Doubles numbers; remembers the goes; held up while its gate is closed; fails where a 13 is among them."""

    def __init__(self) -> None:
        self.goes: list[list[int]] = []
        self.begun = threading.Event()
        self.gate = threading.Event()

    def __call__(self, items: Sequence[int]) -> Sequence[int]:
        self.goes.append(list(items))
        self.begun.set()
        assert self.gate.wait(60)
        if 13 in items:
            raise ValueError("thirteen")
        return [2 * item for item in items]


def gathered(work: Work, first: int, later: Sequence[int], most: int) -> list[concurrent.futures.Future[int]]:
    """The results of one item, and of those that come while its go is under way."""
    gatherer = gathering.Gatherer(work, most, linger_seconds=0.0)
    with concurrent.futures.ThreadPoolExecutor(1 + len(later)) as pool:
        futures = [pool.submit(gatherer.do, first)]
        assert work.begun.wait(60)
        futures += [pool.submit(gatherer.do, item) for item in later]
        while len(gatherer._waiting) < len(later):
            pass
        work.gate.set()
    return futures


def test_what_comes_during_a_go_is_done_together_in_the_next_one() -> None:
    work = Work()
    results = [future.result() for future in gathered(work, 0, range(1, 9), most=64)]
    assert results == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert work.goes[0] == [0]
    assert sorted(work.goes[1]) == list(range(1, 9))
    assert len(work.goes) == 2


def test_a_go_is_never_larger_than_said() -> None:
    work = Work()
    results = [future.result() for future in gathered(work, 0, range(1, 8), most=3)]
    assert results == [2 * item for item in range(8)]
    assert [len(go) for go in work.goes] == [1, 3, 3, 1]


def test_a_go_waits_for_company_until_it_is_full() -> None:
    work = Work()
    work.gate.set()
    gatherer = gathering.Gatherer(work, most=3, linger_seconds=30)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        assert list(pool.map(gatherer.do, range(3), timeout=60)) == [0, 2, 4]
    assert [sorted(go) for go in work.goes] == [[0, 1, 2]]


def test_a_go_that_fails_is_told_to_each_of_it_and_to_nobody_else() -> None:
    work = Work()
    first, *later = gathered(work, 0, [1, 13], most=64)
    assert first.result() == 0
    for future in later:
        with pytest.raises(ValueError, match="thirteen"):
            future.result()


def test_a_go_that_is_broken_off_leaves_nobody_waiting() -> None:
    def work(items: Sequence[int]) -> Sequence[int]:
        raise KeyboardInterrupt

    gatherer = gathering.Gatherer(work)
    with pytest.raises(KeyboardInterrupt):
        gatherer.do(1)
    assert not gatherer._waiting
    assert not gatherer._busy
