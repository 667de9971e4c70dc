"""A TCP proxy whose connections can be refused, frozen, cut and slowed down: the network between two parts."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType

_PIECE_BYTES = 65_536
HOST = "127.0.0.1"


class Proxy:
    """Passes everything on to `target` until told otherwise. A context manager; thread-safe."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._changed = threading.Condition()
        self._frozen = False
        self._closed = False
        self._pause_seconds = 0.0
        self._answer: bytes | None = None
        self._most_bytes: int | None = None
        self._sockets: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.port = 0
        self.accepted = 0

    def __enter__(self) -> Proxy:
        self._listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.refuse()

    def mend(self) -> None:
        """Pass everything on again; what hung goes on."""
        with self._changed:
            self._frozen, self._pause_seconds, self._answer, self._most_bytes = False, 0.0, None, None
            self._changed.notify_all()
        if self._listener is None:
            self._listen()

    def refuse(self) -> None:
        """Take no connection, and reset those that are open: nobody listens there any more."""
        listener, self._listener = self._listener, None
        if listener:
            # Wakes the thread that waits in accept; closing alone does not.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.cut()

    def freeze(self) -> None:
        """Take connections and bytes, and pass nothing on: a server, or a network, that stands still."""
        with self._changed:
            self._frozen = True

    def cut(self) -> None:
        """Reset the open connections; new ones are taken."""
        with self._changed:
            sockets, self._sockets = self._sockets, set()
        for one in sockets:
            _reset(one)

    def trickle(self, pause_seconds: float) -> None:
        """Pass on what the server says byte by byte."""
        with self._changed:
            self._pause_seconds = pause_seconds

    def cut_after(self, most_bytes: int) -> None:
        """Reset each new connection when the server has said so many bytes."""
        self.cut()
        with self._changed:
            self._most_bytes = most_bytes

    def answer(self, answer: bytes) -> None:
        """Answer in the server's place whatever is said on a new connection, then close it."""
        self.cut()
        with self._changed:
            self._answer = answer

    def _listen(self) -> None:
        listener = socket.create_server((HOST, self.port), reuse_port=False)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            with self._changed:
                self._changed.wait_for(lambda: self._closed or not self._frozen)
                answer, most_bytes = self._answer, self._most_bytes
            if answer is not None:
                client.recv(_PIECE_BYTES)
                client.sendall(answer)
                client.close()
                return
            server = socket.create_connection(self._target)
            with self._changed:
                self._sockets |= {client, server}
            threading.Thread(target=self._pump, args=(client, server, None, False), daemon=True).start()
            self._pump(server, client, most_bytes, True)
            return
        client.close()

    def _pump(
        self, source: socket.socket, sink: socket.socket, most_bytes: int | None, by_server: bool
    ) -> None:
        said = 0
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE_BYTES):
                if most_bytes is not None and said + len(data) > most_bytes:
                    sink.sendall(data[: most_bytes - said])
                    break
                said += len(data)
                self._pass_on(data, sink, by_server)
        with self._changed:
            # A frozen connection's end is not seen either.
            self._changed.wait_for(lambda: self._closed or not self._frozen)
            self._sockets -= {source, sink}
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _pass_on(self, data: bytes, sink: socket.socket, by_server: bool) -> None:
        while data:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or not self._frozen)
                pause = self._pause_seconds if by_server else 0.0
                if pause:
                    self._changed.wait(pause)
            piece = data[:1] if pause else data
            sink.sendall(piece)
            data = data[len(piece) :]


def _reset(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
