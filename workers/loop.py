"""The loop by which a Celery worker takes messages, as its health sees it: connected or not, turning or not."""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.worker import state

from core import settings
from workers import health, stopping

_NAME = "consumer"
_TURN_SECONDS = 1.0


class Loop(bootsteps.StartStopStep):
    """Started by Celery for each new connection to the broker, stopped when it is lost."""

    requires = ("celery.worker.consumer.connection:Connection",)
    _watched = False

    def start(self, parent: Any) -> None:
        """The broker answers. From here on a timer of the loop, or the loop itself, tells that it turns."""
        health.process.back("broker")
        health.process.took()
        health.process.turned(_NAME)
        health.process.ready()
        if not self._watched:
            self._watched = True
            # From here on, and not from the end of the loop on: work in hand may keep it from ending in time.
            stopping.process.gives_back(
                lambda: parent.connection and parent.connection.default_channel.close()
            )
            stopping.process.watch(settings.get().stop_seconds, _ends, exit_code)
        if parent.hub is not None:
            # Dropped by Celery with the connection.
            parent.timer.call_repeatedly(_TURN_SECONDS, health.process.turned, (_NAME,))
            return

        # Without a hub the timer has a thread of its own, which proves nothing of the loop.
        work = type(parent).perform_pending_operations

        def turn() -> None:
            health.process.turned(_NAME)
            work(parent)

        parent.perform_pending_operations = turn

    def stop(self, parent: Any) -> None:
        """The connection is lost, or the worker ends: then its tasks have a while to come to their end."""
        health.process.waits(_NAME)
        if _ends():
            stopping.process.told = True
        else:
            health.process.away("broker", "the connection was lost")


def exit_code() -> int:
    """What the worker is to end with: 0, unless it is unfit."""
    return int(state.should_stop or 0)


def _ends() -> bool:
    # An exit code, which may be 0; None and False say that nobody asked for the end.
    return any(code is not None and code is not False for code in (state.should_stop, state.should_terminate))
