"""What several threads want done at the same time, done in one go: a group commit, by whoever comes first."""

from __future__ import annotations

import collections
import concurrent.futures
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST = 64
"""Most items in one go: what one waits for is bounded, whatever gathers."""


class Gatherer(Generic[Item, Result]):
    """Does items for many threads, those that wait together.

    The first thread begins at once, with its own item alone; what comes meanwhile is the next go, so goes grow with
    the load by themselves and a lone item waits for nobody. What waits is one item for each thread that calls `do`.
    """

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Result]], most: int = MOST) -> None:
        """`work` does at most `most` items and gives the result of each, in their order."""
        self._work = work
        self._most = most
        self._waiting: collections.deque[tuple[Item, concurrent.futures.Future[Result]]] = collections.deque()
        self._turn = threading.Lock()

    def do(self, item: Item) -> Result:
        """The result of an item; blocks until its go is done.

        Raises:
            Exception: whatever `work` raised, for each item of that go; which of them was to blame is not known.
        """
        future: concurrent.futures.Future[Result] = concurrent.futures.Future()
        self._waiting.append((item, future))
        with self._turn:
            while not future.done():
                self._go()
        return future.result()

    def _go(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        try:
            results = self._work([item for item, _ in batch])
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)
        except BaseException as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, Exception):
                raise
