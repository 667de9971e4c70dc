from __future__ import annotations

import collections
import concurrent.futures
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from moto.sqs import models

from workers import embedded_sqs

MESSAGES = 50
SENDERS = TAKERS = 4


@pytest.fixture
def queue() -> Iterator[Any]:
    """A queue without a server, between threads that are interrupted as often as can be."""
    with pytest.MonkeyPatch.context() as patch:
        for kind, names in embedded_sqs.GUARDED.items():
            for name in names:
                patch.setattr(kind, name, getattr(kind, name))
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        embedded_sqs.guard()
        backend = models.SQSBackend("us-east-1", "123456789012")
        backend.create_queue("events")
        yield backend
        sys.setswitchinterval(interval)


def test_each_message_comes_once_and_none_is_lost(queue: Any) -> None:
    taken: collections.Counter[str] = collections.Counter()
    lock = threading.Lock()

    def send(sender: int) -> None:
        for number in range(MESSAGES):
            queue.send_message("events", f"{sender}-{number}")

    def take(taker: int) -> None:
        del taker
        while found := queue.receive_message("events", 1, 2, 300):
            with lock:
                taken[found[0].body] += 1
            queue.delete_message("events", found[0].receipt_handle)

    with concurrent.futures.ThreadPoolExecutor(SENDERS + TAKERS) as threads:
        work = [threads.submit(job, each) for job in (send, take) for each in range(SENDERS)]
        for done in work:
            done.result()
    assert taken == {f"{sender}-{number}": 1 for sender in range(SENDERS) for number in range(MESSAGES)}
