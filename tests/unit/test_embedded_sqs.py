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
        patch.setattr(models.Queue, "BASE_ATTRIBUTES", models.Queue.BASE_ATTRIBUTES)
        patch.setattr(models.SQSBackend, "get_queue_attributes", models.SQSBackend.get_queue_attributes)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        embedded_sqs.guard()
        embedded_sqs.count_only_when_asked()
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


def test_a_queue_is_looked_through_once_for_all_that_it_hands_out_and_not_for_what_it_takes(
    queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[models.Message] = []
    visible = models.Message.visible.fget  # type: ignore[attr-defined]

    def watched(message: models.Message) -> bool:
        looked.append(message)
        return bool(visible(message))

    monkeypatch.setattr(models.Message, "visible", property(watched))
    for number in range(MESSAGES):
        queue.send_message("events", str(number))
    assert not looked
    assert len(queue.receive_message("events", 10, 0, 300)) == 10
    # All that are there, then again each that is handed out.
    assert len(looked) == MESSAGES + 10


def test_the_numbers_of_messages_are_told_to_who_asks(queue: Any) -> None:
    for number in range(3):
        queue.send_message("events", str(number))
    assert queue.receive_message("events", 1, 0, 300)
    names = {"ApproximateNumberOfMessages": 2, "ApproximateNumberOfMessagesNotVisible": 1}
    assert queue.get_queue_attributes("events", list(names)) == names
    told = queue.get_queue_attributes("events", ["All"])
    assert told.items() >= names.items()
    assert told["MessageRetentionPeriod"] == 345_600
    assert queue.get_queue_attributes("events", ["MessageRetentionPeriod"]) == {
        "MessageRetentionPeriod": 345_600
    }
    assert queue.get_queue_attributes("events", []) == {}


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
