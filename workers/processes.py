"""What a process and the one that started it must agree on: exit codes, and ending together."""

from __future__ import annotations

import os
import signal
import threading
import time

from core import errors

SUPERVISED = "LISTING_DEDUP_SUPERVISED"
"""Environment variable: the process id of a supervisor; the process ends when that one does."""

EXIT_AWAY = 75  # EX_TEMPFAIL of sysexits.h: something is away, try again later
EXIT_CONFIGURATION = 78  # EX_CONFIG of sysexits.h: starting it again would not help

BULK_NICENESS = 19
"""A backfill takes what processor time live uploads leave over."""

_LOOK_SECONDS = 0.5


class UnfitProcessError(errors.ConfigurationError):
    """Nothing that this process does can succeed any more: it is to give back its work and end with `exit_code`."""

    def __init__(self, message: str, exit_code: int = EXIT_CONFIGURATION) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def end_with_supervisor() -> None:
    """Have this process end with its supervisor, where it has one.

    It asks for its parent rather than for a signal at the parent's death (prctl), since that signal comes
    already when the thread that started it ends.
    """
    supervisor = os.environ.get(SUPERVISED)
    if supervisor:
        threading.Thread(target=_watch, args=(int(supervisor),), name="supervised", daemon=True).start()


def _watch(supervisor: int) -> None:
    while os.getppid() == supervisor:
        time.sleep(_LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
