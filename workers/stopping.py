"""Being told to stop: what is in hand comes to its end, nothing further is taken, and all of it in bounded time.

Whoever runs the processes kills them after a while (`stop_grace_period`, `terminationGracePeriodSeconds`). So what does
not come to its end soon enough is given back before that.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import structlog

log = structlog.get_logger()

LAST_SECONDS = 5.0
"""For each step of giving back, whose database or broker may be away."""

_LOOK_SECONDS = 0.5


class Stop:
    """Whether this process was `told` to stop, and what it does before it ends with work in hand."""

    def __init__(self) -> None:
        # No threading.Event: a signal that came while the main thread waits for one could not set it.
        self.told = False
        self._busy = False
        self._watched = False
        self._last: list[Callable[[], object]] = []

    def gives_back(self, step: Callable[[], object]) -> None:
        """Have `step` called should the process end with work in hand; those added last are called last."""
        self._last.append(step)

    def watch(
        self,
        seconds: float,
        asked: Callable[[], bool] = lambda: False,
        exit_code: Callable[[], int] = lambda: 0,
    ) -> None:
        """Once it is told to stop, or `asked`, work in hand has so many seconds. To be called at the start.

        `exit_code`: what the process ends with should it end with work in hand.
        """
        if self._watched:
            return
        self._watched = True
        threading.Thread(target=self._end, args=(seconds, asked, exit_code), name="stop", daemon=True).start()

    def on_signals(self, seconds: float) -> None:
        """For a process that works in its main thread: SIGTERM and Ctrl-C end it, at once or after `in_hand`."""

        def told(number: int, frame: FrameType | None) -> None:
            del number, frame
            self.told = True
            if not self._busy:
                raise SystemExit(0)

        # Not by the handler: what it interrupts may hold the locks that a new thread needs.
        self.watch(seconds)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, told)

    @contextlib.contextmanager
    def in_hand(self) -> Iterator[None]:
        """A piece of work of the main thread, which a signal does not cut short."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _end(self, seconds: float, asked: Callable[[], bool], exit_code: Callable[[], int]) -> None:
        while not (self.told or asked()):
            time.sleep(_LOOK_SECONDS)
        self.told = True
        time.sleep(seconds)
        log.warning("stopped_with_work_in_hand", seconds=seconds)
        for step in self._last:
            thread = threading.Thread(target=step, daemon=True)
            thread.start()
            thread.join(LAST_SECONDS)
        sys.stderr.flush()
        os._exit(exit_code())


process = Stop()
"""The one of this process."""
