"""Memory that several threads share: who would take more than is left, waits."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator


class Budget:
    """So many bytes for all threads together.

    One after the other is let in, in the order in which they came, so that small ones do not keep a large one waiting
    for ever. Who asks for more than there is at all, gets it when nobody else holds any.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Wait for so many bytes and hold them while the block runs. Not to be nested: two would wait for ever."""
        amount = min(amount, self._total)
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()


_M_ARENA_MAX = -8  # mallopt(3)


def limit_arenas() -> None:
    """Let all threads share two of malloc's arenas, as MALLOC_ARENA_MAX=2 does; to be called before they start.

    glibc gives threads arenas of their own, each of which keeps what its largest picture took.
    """
    # Other C libraries have no such function and no such arenas.
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
