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
LINGER_SECONDS = 0.003
"""How long a go waits for company: photos of one forward pass are done with it within a millisecond or two."""


class Gatherer(Generic[Item, Result]):
    """Does items for many threads, those that wait together.

    The first thread waits a moment for others, and begins; what comes meanwhile is the next go, so goes grow with the
    load by themselves. What waits is one item for each thread that calls `do`.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        most: int = MOST,
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        """`work` does at most `most` items, who then wait for nobody, and gives the result of each, in their order."""
        self._work = work
        self._most = most
        self._linger_seconds = linger_seconds
        self._full = threading.Event()
        self._waiting: collections.deque[tuple[Item, concurrent.futures.Future[Result]]] = collections.deque()
        self._busy = False
        self._changed = threading.Condition()

    def do(self, item: Item) -> Result:
        """The result of an item; blocks until its go is done.

        Raises:
            Exception: whatever `work` raised, for each item of that go; which of them was to blame is not known.
        """
        future: concurrent.futures.Future[Result] = concurrent.futures.Future()
        self._waiting.append((item, future))
        if len(self._waiting) >= self._most:
            self._full.set()
        while self._is_next(future):
            try:
                self._go()
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
        return future.result()

    def _is_next(self, future: concurrent.futures.Future[Result]) -> bool:
        """Whether the next go is this thread's; not once another thread's go has done its item."""
        with self._changed:
            self._changed.wait_for(lambda: future.done() or not self._busy)
            if future.done():
                return False
            self._busy = True
            return True

    def _go(self) -> None:
        self._full.clear()
        if len(self._waiting) < self._most:
            self._full.wait(self._linger_seconds)
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
