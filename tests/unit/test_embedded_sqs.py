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
        retained = "is_message_valid_based_on_retention_period"
        patch.setattr(models.SQSBackend, retained, getattr(models.SQSBackend, retained))
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


def test_handing_messages_out_looks_at_a_queue_once_and_not_once_a_message(
    queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[models.Message] = []
    visible = models.Message.visible.fget  # type: ignore[attr-defined]

    def watched(message: models.Message) -> bool:
        looked.append(message)
        return bool(visible(message))

    for number in range(MESSAGES):
        queue.send_message("events", str(number))
    monkeypatch.setattr(models.Message, "visible", property(watched))
    assert len(queue.receive_message("events", 10, 0, 300)) == 10
    # All that are there, then again each that is handed out.
    assert len(looked) == MESSAGES + 10


def test_messages_older_than_the_queue_keeps_them_are_not_handed_out(
    queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.set_queue_attributes("events", {"MessageRetentionPeriod": "60"})
    queue.send_message("events", "old")
    (message,) = queue.get_queue("events")._messages
    message.sent_timestamp -= 59_000
    assert queue.receive_message("events", 1, 0, 0)
    message.sent_timestamp -= 2_000
    assert not queue.receive_message("events", 1, 0, 0)
