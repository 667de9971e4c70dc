"""Faults at random moments: processes killed, connections cut, the database stopped or killed."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import threading
import traceback
from collections.abc import Callable, Mapping

import psycopg

from core import errors
from workers import embedded

MEAN_PAUSE_SECONDS = 5.0

_KILLS = {"ingest": 3, "embed": 3, "match": 3, "sweep": 1}
"""How often a process of each kind is chosen, beside the other faults."""


class Chaos:
    """Injects faults into a stack from a thread of its own. A context manager."""

    def __init__(
        self, stack: embedded.Stack, rng: random.Random, broker_faults: Mapping[str, Callable[[], None]]
    ) -> None:
        """`broker_faults` are, by name, those of a broker that is not the database."""
        self.injected: collections.Counter[str] = collections.Counter()
        self.error: str | None = None
        self._stack = stack
        self._rng = rng
        self._broker_faults = broker_faults
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos", daemon=True)

    def __enter__(self) -> Chaos:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        faults: Mapping[Callable[[], str | None], int] = {
            **{self._killing(kind): often for kind, often in _KILLS.items()},
            self._stop_database: 1,
            self._kill_database: 1,
            self._cut_database: 1,
            **{self._of_broker(name): 1 for name in self._broker_faults},
        }
        while not self._stopping.wait(self._rng.expovariate(1 / MEAN_PAUSE_SECONDS)):
            fault = self._rng.choices(list(faults), list(faults.values()))[0]
            try:
                name = fault()
            except Exception:  # noqa: BLE001 - told by the harness, which ends the run
                self.error = traceback.format_exc()
                return
            if name:
                self.injected[name] += 1

    def _killing(self, kind: str) -> Callable[[], str | None]:
        def kill() -> str | None:
            running = self._stack._processes
            name = self._rng.choice(sorted(name for name in running if name.partition("-")[0] == kind))
            process = running[name]
            if process.poll() is not None:
                return None
            os.killpg(process.pid, signal.SIGKILL)
            return f"{kind} killed"

        return kill

    def _stop_database(self) -> str:
        self._stack.postgres.stop()
        return "database restarted"

    def _kill_database(self) -> str | None:
        postmaster = self._stack.postgres._postmaster()
        if postmaster is None or not self._stack.postgres.is_running():
            return None
        os.kill(postmaster[0], signal.SIGKILL)
        return "database killed"

    def _cut_database(self) -> str | None:
        with contextlib.suppress(psycopg.OperationalError, errors.ConfigurationError):
            with psycopg.connect(self._stack.postgres.url(), autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                )
            return "database connections cut"
        return None

    def _of_broker(self, name: str) -> Callable[[], str | None]:
        def inject() -> str | None:
            self._broker_faults[name]()
            return name

        return inject
