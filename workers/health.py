"""How a process is: whether its work gets on, not whether it runs. Told over HTTP, one answer for two questions.

`/livez` asks whether starting the process anew would help: its loop stands still, or it has work in hand and ends none
of it. A database that is away makes no process unhealthy there, as none would be better off for a new start.
`/healthz` asks whether all is well: the same, and what the process stands on answers, too.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import socketserver
import threading
import time
import wsgiref.simple_server
import wsgiref.types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import structlog

from core import errors, settings

log = structlog.get_logger()

Probe = Callable[[], None]
"""Asks a part whether it answers, within seconds; raises `DedupError` if not."""


class Monitor:
    """What a process has in hand and when it last got on. Thread-safe; `clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._began = clock()
        self._ready = False
        self._in_hand: dict[str, dict[int, float]] = {}
        self._ended: dict[str, float] = {}
        self._loops: dict[str, tuple[float, float]] = {}
        self._threads: list[threading.Thread] = []
        self._away: dict[str, tuple[float, str]] = {}
        self._failing: dict[str, tuple[float, float, str]] = {}
        self.done = 0

    def ready(self) -> None:
        """The process is prepared for work."""
        self._ready = True

    @contextlib.contextmanager
    def working(self, kind: str = "photo") -> Iterator[None]:
        """A piece of work, well or badly ended: it is the standing still that counts."""
        number = next(self._numbers)
        with self._lock:
            self._in_hand.setdefault(kind, {})[number] = self._clock()
        try:
            yield
        finally:
            with self._lock:
                del self._in_hand[kind][number]
                self._ended[kind] = self._clock()
                self.done += 1

    def turned(self, loop: str, pause_seconds: float = 0.0) -> None:
        """A loop has come round once more; it may rest for so long until the next time."""
        with self._lock:
            self._loops[loop] = (self._clock(), pause_seconds)

    def waits(self, loop: str) -> None:
        """A loop stands still for a good reason, such as a broker that is away, until it turns again."""
        with self._lock:
            self._loops.pop(loop, None)

    def needs(self, thread: threading.Thread) -> None:
        """Without this thread the process does nothing."""
        self._threads.append(thread)

    def away(self, part: str, why: str) -> None:
        """A part does not answer; the first time tells since when."""
        with self._lock:
            first = part not in self._away
            self._away[part] = (self._clock() if first else self._away[part][0], why)
        if first:
            log.warning("part_away", part=part, error=why)

    def back(self, part: str) -> None:
        """A part answers."""
        with self._lock:
            gone = self._away.pop(part, None)
        if gone:
            log.info("part_back", part=part, seconds=round(self._clock() - gone[0], 1))

    def parts_away(self) -> dict[str, float]:
        """For how many seconds each part that does not answer has been away."""
        with self._lock:
            now = self._clock()
            return {part: now - since for part, (since, _) in self._away.items()}

    def failed(self, kind: str, why: str) -> None:
        """A piece of work came to nothing; told as long as none of its kind succeeds and more of them fail."""
        with self._lock:
            now = self._clock()
            self._failing[kind] = (self._failing.get(kind, (now,))[0], now, why)

    def succeeded(self, kind: str) -> None:
        """A piece of work came to what it was to come to."""
        with self._lock:
            self._failing.pop(kind, None)

    def stuck(self, seconds: float) -> list[str]:
        """Why the process ought to be started anew, in words; nothing has moved for at least `seconds`."""
        with self._lock:
            now = self._clock()
            reasons = [
                f"the thread {thread.name} has ended" for thread in self._threads if not thread.is_alive()
            ]
            for loop, (turned, pause) in self._loops.items():
                if now - turned > seconds + pause:
                    reasons.append(f"the {loop} loop has stood still for {now - turned:.0f} s")
            for kind, begun in self._in_hand.items():
                # Something else that ended later shows that work gets on.
                still = now - max(min(begun.values(), default=now), self._ended.get(kind, 0.0))
                if begun and still > seconds:
                    reasons.append(f"{len(begun)} {kind} in hand, and none was ended for {still:.0f} s")
            return reasons

    def unwell(self, seconds: float) -> list[str]:
        """What is not as it should be, in words: being stuck, and what a new start would not mend."""
        reasons = self.stuck(seconds)
        with self._lock:
            now = self._clock()
            if not self._ready:
                reasons.append(f"starting for {now - self._began:.0f} s")
            for kind, begun in self._in_hand.items():
                slow = [now - began for began in begun.values() if now - began > seconds]
                if slow and not any(kind in reason for reason in reasons):
                    reasons.append(
                        f"{len(slow)} {kind} in hand for up to {max(slow):.0f} s, while others pass"
                    )
            for part, (since, why) in sorted(self._away.items()):
                reasons.append(f"{part} away for {now - since:.0f} s: {why}")
            for kind, (since, last, why) in sorted(self._failing.items()):
                # After an outage the work may go to other processes; this one is idle then, and that is well.
                if now - last <= seconds:
                    reasons.append(f"no {kind} has succeeded for {now - since:.0f} s: {why}")
        return reasons


process = Monitor()
"""The one of this process."""


class _Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """As the parent's, but without asking a name server who we are."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(wsgiref.simple_server.WSGIRequestHandler):
    # A client that connects and says nothing must not keep a thread for ever.
    timeout = 10

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: a line every few seconds that all is well tells nobody anything."""


def application(
    monitor: Monitor, stuck_seconds: float, others: Mapping[str, wsgiref.types.WSGIApplication] | None = None
) -> wsgiref.types.WSGIApplication:
    """The WSGI application: `/livez`, `/healthz`, and `others` by their paths."""
    answers = {"/livez": monitor.stuck, "/healthz": monitor.unwell}

    def app(
        environ: wsgiref.types.WSGIEnvironment, start_response: wsgiref.types.StartResponse
    ) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if others and path in others:
            return others[path](environ, start_response)
        told: dict[str, Any]
        if path not in answers:
            status, told = "404 Not Found", {"paths": sorted([*answers, *(others or {})])}
        else:
            reasons = answers[path](stuck_seconds)
            status = "503 Service Unavailable" if reasons else "200 OK"
            told = {"status": "unwell" if reasons else "well", "reasons": reasons, "done": monitor.done}
        body = json.dumps(told, ensure_ascii=False).encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ]
        start_response(status, headers)
        return [body]

    return app


def serve(
    config: settings.Settings,
    probes: Mapping[str, Probe],
    others: Mapping[str, wsgiref.types.WSGIApplication] | None = None,
) -> None:
    """Tell how this process is from here on, where a port is set, and look every so often how its parts are.

    Args:
        config: host, port and patience.
        probes: what this process stands on, by name.
        others: more WSGI applications, by their paths.

    Raises:
        TransientError: the port cannot be had now.
    """
    if config.health_port is None:
        return
    try:
        server = wsgiref.simple_server.make_server(
            config.health_host,
            config.health_port,
            application(process, config.health_stuck_seconds, others),
            server_class=_Server6 if ":" in config.health_host else _Server,
            handler_class=_Handler,
        )
    except OSError as error:
        # Not one of configuration: the process that this one takes over from may still be ending.
        raise errors.TransientError(
            f"DEDUP_HEALTH_PORT: {config.health_host}:{config.health_port} cannot be had ({error.strerror}); each "
            "process of a host needs a port of its own."
        ) from error
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    for part, probe in probes.items():
        arguments = (part, probe, config.health_probe_seconds)
        threading.Thread(target=_look, args=arguments, name=f"probe of {part}", daemon=True).start()


def _look(part: str, probe: Probe, every_seconds: float) -> None:
    while True:
        try:
            probe()
        except Exception as error:  # noqa: BLE001 - whatever it raises, the part cannot be used
            process.away(part, str(error))
        else:
            process.back(part)
        time.sleep(every_seconds)
