"""Who may work in a process at the same time: photos together, a suspicious one alone.

A process that dies takes every photo in its hands with it, and nobody knows which of them it was. So those photos
are tried alone from then on: a process that is lost with one photo only speaks against that photo.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from core import errors, photos

_PATIENCE_SECONDS = 60.0


class Gate:
    """Lets holders in together or one of them alone; those who wait to be alone come first. Thread-safe.

    `clock` gives seconds that never go back.
    """

    def __init__(
        self, patience_seconds: float = _PATIENCE_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._changed = threading.Condition()
        self._together = 0
        self._alone = False
        self._waiting = 0
        self._claimed: set[photos.Revision] = set()
        self._begun: dict[photos.Revision, float] = {}

    @contextlib.contextmanager
    def claim(self, photo: photos.Revision) -> Iterator[bool]:
        """Whether nobody else in this process has `photo` in hand; it is ours for the block then."""
        with self._changed:
            free = photo not in self._claimed
            self._claimed.add(photo)
        try:
            yield free
        finally:
            if free:
                with self._changed:
                    self._claimed.discard(photo)

    @contextlib.contextmanager
    def begun(self, photo: photos.Revision) -> Iterator[None]:
        """An attempt at a claimed photo, which has been counted, is under way during the block."""
        with self._changed:
            self._begun[photo] = self._clock()
        try:
            yield
        finally:
            with self._changed:
                self._begun.pop(photo, None)

    def begun_within(self, seconds: float) -> list[photos.Revision]:
        """Those whose attempts are under way, and have been for at most so long."""
        with self._changed:
            now = self._clock()
            return [photo for photo, since in self._begun.items() if now - since <= seconds]

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Work beside others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._waiting)
            self._together += 1
        try:
            yield
        finally:
            with self._changed:
                self._together -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Work with nobody beside.

        Raises:
            TransientError: others did not come to an end; one of them may hang, and must not hold up all.
        """
        with self._changed:
            self._waiting += 1
            try:
                free = self._changed.wait_for(
                    lambda: not self._alone and not self._together, self._patience_seconds
                )
                self._alone = free
            finally:
                self._waiting -= 1
                self._changed.notify_all()
        if not free:
            raise errors.TransientError(
                f"Other photos were in hand for {self._patience_seconds:.0f} s; this one must be tried alone."
            )
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
