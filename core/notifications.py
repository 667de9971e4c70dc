"""Waiting for a notification of Postgres instead of asking again and again."""

from __future__ import annotations

import contextlib
import time
from types import TracebackType

import psycopg
from psycopg import sql

from core import database, deadlines

_LISTEN_SECONDS = 10.0


class Listener:
    """Waits on one channel, over a connection of its own that comes back after an outage. A context manager.

    A notification is a hint and may be lost (an outage, a pooler that shares connections): who waits looks at the
    tables after every wait, however it ended.
    """

    def __init__(self, url: str, channel: str) -> None:
        self._url = url
        self._channel = channel
        self._connection: psycopg.Connection | None = None

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def wait(self, seconds: float) -> bool:
        """Wait for a notification, at most so long; returns whether there may be something to look at.

        A new connection counts as a notification: what came before it would have been missed.
        """
        deadline = time.monotonic() + seconds
        try:
            if self._connection is None:
                self._connection = psycopg.connect(
                    self._url, autocommit=True, **(database.CONNECTION | {"connect_timeout": 5})
                )
                with deadlines.process.limit(self._connection, _LISTEN_SECONDS):
                    self._connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
                return True
            return any(True for _ in self._connection.notifies(timeout=seconds, stop_after=1))
        except psycopg.OperationalError:
            self._close()
            time.sleep(max(0.0, deadline - time.monotonic()))
            return False

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.OperationalError):
                self._connection.close()
            self._connection = None
