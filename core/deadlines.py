"""An end to waiting for a server that does not answer, where the client's library knows none.

TCP finds out that a host is gone (keepalives, user timeout), but not that the server behind an open connection, or
behind a proxy that still takes every byte, has stopped. A wait that lasts too long is ended by shutting its socket.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Protocol

_LOOK_SECONDS = 0.25


class Connection(Protocol):
    """Something over a socket."""

    def fileno(self) -> int:
        """The socket's file descriptor; raises when there is none any more."""


class Deadlines:
    """Shuts the sockets of connections whose block lasts too long. Thread-safe; one thread for all of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids = itertools.count()
        self._open: dict[int, tuple[float, Connection]] = {}
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def limit(self, connection: Connection, seconds: float) -> Iterator[None]:
        """Bound a block that works with a connection; what waits on it then fails as on a lost connection."""
        number = next(self._ids)
        with self._lock:
            self._open[number] = (time.monotonic() + seconds, connection)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="deadlines", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._open.pop(number, None)

    def _watch(self) -> None:
        while True:
            time.sleep(_LOOK_SECONDS)
            # Under the lock: after its block a connection may be closed, and its number be another file's.
            with self._lock:
                now = time.monotonic()
                for number, (deadline, connection) in list(self._open.items()):
                    if now >= deadline:
                        del self._open[number]
                        _shut(connection)


def _shut(connection: Connection) -> None:
    # Whatever the library raises for a connection that has just ended by itself.
    with contextlib.suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as copy:
        copy.shutdown(socket.SHUT_RDWR)


process = Deadlines()
"""The one of this process."""
