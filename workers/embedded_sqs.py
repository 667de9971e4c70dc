"""Moto's queues, made safe for clients that come at once, and fit for a heap of messages.

Its server answers every request in a thread of its own, while its queues are lists without a lock: two receivers
were given the same message, and a message sent while another was being deleted vanished with its event. And for
every message that it takes or hands out it asks for all attributes of a queue, three of which count all messages.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

from moto.core.utils import camelcase_to_underscores
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


def count_only_when_asked() -> None:
    """Keep the numbers of messages out of a queue's attributes, but for who asks for them."""
    counts = {name for name in models.Queue.BASE_ATTRIBUTES if name.startswith("ApproximateNumberOf")}
    models.Queue.BASE_ATTRIBUTES = [name for name in models.Queue.BASE_ATTRIBUTES if name not in counts]
    tell = models.SQSBackend.get_queue_attributes

    @functools.wraps(tell)
    def get_queue_attributes(
        self: models.SQSBackend, queue_name: str, attribute_names: list[str]
    ) -> dict[str, Any]:
        found: dict[str, Any] = tell(
            self, queue_name, [name for name in attribute_names if name not in counts]
        )
        wanted = counts if "All" in attribute_names else counts.intersection(attribute_names)
        queue = self.get_queue(queue_name)
        return found | {name: getattr(queue, camelcase_to_underscores(name)) for name in wanted}

    models.SQSBackend.get_queue_attributes = get_queue_attributes  # type: ignore[method-assign]
