"""Moto's queues, made safe for clients that come at once, and fit for a heap of messages.

Its server answers every request in a thread of its own, while its queues are lists without a lock: two receivers
were given the same message, and a message sent while another was being deleted vanished with its event. And it counts
a whole queue several times for every message that it hands out, to look up how long the queue keeps messages.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

from moto.sqs import models

GUARDED: dict[type, tuple[str, ...]] = {
    models.Queue: ("add_message", "delete_message"),
    models.SQSBackend: ("receive_message", "change_message_visibility", "purge_queue"),
}


def guard() -> None:
    """Let one change of a queue happen at a time, for all queues of this process."""
    lock = threading.RLock()

    def alone(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            with lock:
                return method(*args, **kwargs)

        return guarded

    for kind, names in GUARDED.items():
        for name in names:
            setattr(kind, name, alone(getattr(kind, name)))
    models.SQSBackend.is_message_valid_based_on_retention_period = _is_retained  # type: ignore[method-assign]
    receive = models.SQSBackend.receive_message

    @functools.wraps(receive)
    def receive_message(
        self: models.SQSBackend, queue_name: str, count: int, wait_seconds_timeout: int, *rest: Any
    ) -> list[models.Message]:
        deadline = time.monotonic() + wait_seconds_timeout
        while True:
            found: list[models.Message] = receive(self, queue_name, count, 0, *rest)
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            # Without our lock: who waits for a message must not keep it from being sent.
            self.get_queue(queue_name).wait_for_messages(min(1, left))  # type: ignore[arg-type]

    models.SQSBackend.receive_message = receive_message  # type: ignore[assignment, method-assign]


def _is_retained(self: models.SQSBackend, queue_name: str, message: models.Message) -> bool:
    seconds: float = self.get_queue(queue_name).message_retention_period  # type: ignore[attr-defined]
    return message.sent_timestamp / 1000 + seconds > time.time()  # type: ignore[operator]
