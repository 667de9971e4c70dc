"""Memory that several threads share: who would take more than is left, waits."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Iterator

import threadpoolctl


class Budget:
    """So many bytes for all threads together.

    Who does not fit yet keeps its turn until it does, and the others wait for theirs, so that small ones cannot keep a
    large one waiting for ever. Whose turn is next is the lock's choice, not the order in which they came. Who asks for
    more than there is at all, gets it when nobody else holds any.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, amount: int, patience_seconds: float = threading.TIMEOUT_MAX) -> Iterator[bool]:
        """Wait for so many bytes and hold them while the block runs. Not to be nested: two would wait for ever.

        False for the block, which holds none then, when they were not free within `patience_seconds`.
        """
        amount = min(amount, self._total)
        if not self._take(amount, patience_seconds):
            yield False
            return
        try:
            yield True
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()

    def _take(self, amount: int, patience_seconds: float) -> bool:
        until = time.monotonic() + patience_seconds
        if not self._turn.acquire(timeout=patience_seconds):
            return False
        try:
            with self._changed:
                left = max(0.0, until - time.monotonic())
                if not self._changed.wait_for(lambda: self._free >= amount, left):
                    return False
                self._free -= amount
                return True
        finally:
            self._turn.release()


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # mallopt(3)
_KEPT_BYTES = 2**26


def limit_arenas() -> None:
    """Let all threads share two of malloc's arenas, as MALLOC_ARENA_MAX=2 does; to be called before they start.

    glibc gives threads arenas of their own, each of which keeps what its largest picture took.
    """
    _mallopt({_M_ARENA_MAX: 2})


def keep_freed() -> None:
    """Let malloc keep up to 64 MB that were freed, for processes that need arrays of the same sizes again and again.

    By default glibc gives arrays of 128 kB and more back at once, and each new one costs the kernel a fault a page.
    """
    _mallopt({_M_TRIM_THRESHOLD: _KEPT_BYTES, _M_MMAP_THRESHOLD: _KEPT_BYTES // 2})


def single_thread_blas() -> None:
    """Let numpy multiply matrices in the calling thread, for processes whose matrices are small.

    OpenBLAS's further threads, by default one a core, wait busily for the next product.
    """
    threadpoolctl.threadpool_limits(1, user_api="blas")


def _mallopt(options: dict[int, int]) -> None:
    # Other C libraries have no such function and no such options.
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        for option, value in options.items():
            library.mallopt(option, value)
