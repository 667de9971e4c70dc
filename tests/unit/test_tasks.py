from __future__ import annotations

from typing import Any

import celery
import celery.app.task
import pytest
import structlog.contextvars
import structlog.testing

from core import database, errors
from workers import tasks

IDS = {"property_id": "42", "photo_id": 7, "revision": 1}
AWAY = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> celery.Celery:
    base = database.Database(AWAY, pool_size=1, wait_seconds=0.1)
    for name, value in {"database": base, "most_postponements": 3, "most_deliveries": 5}.items():
        monkeypatch.setattr(tasks.PhotoTask, name, value, raising=False)
    app = celery.Celery("test", broker="memory://", set_as_current=False)
    app.conf.worker_detect_quorum_queues = False
    return app


def _declare(app: celery.Celery, run: Any) -> Any:
    return app.task(
        base=tasks.PhotoTask,
        bind=True,
        name="dedup.embed",
        autoretry_for=(errors.TransientError,),
        max_retries=2,
    )(run)


def test_retries_and_giving_up_carry_the_ids(app: celery.Celery) -> None:
    def run(self: Any, property_id: str, photo_id: int, revision: int) -> None:
        raise errors.TransientError("the store is away")

    merge = structlog.contextvars.merge_contextvars
    with structlog.testing.capture_logs(processors=[merge]) as lines:
        _declare(app, run).apply(kwargs=IDS, task_id="t", throw=False)
    said = [line["event"] for line in lines]
    assert said == ["task_retried", "task_retried", "task_gave_up", "failure_not_recorded"]
    assert [line["retries"] for line in lines[:2]] == [1, 2]
    for line in lines:
        assert {name: line[name] for name in IDS} == IDS
        assert (line["task_id"], line["task"]) == ("t", "dedup.embed")
        assert line["correlation_id"] == "t"


def _nothing(self: Any) -> None:
    """A task without work."""


def _request(exchange: str, routing_key: str) -> Any:
    info = {"exchange": exchange, "routing_key": routing_key, "priority": 0, "redelivered": False}
    return celery.app.task.Context(id="t", args=[], kwargs=IDS, delivery_info=info, retries=0)


@pytest.mark.parametrize("queue", ["embed", "embed.bulk"])
def test_a_retry_waits_in_the_broker_and_carries_no_time_of_day(app: celery.Celery, queue: str) -> None:
    task = _declare(app, _nothing)
    again = task.signature_from_request(_request(queue, queue), countdown=5, retries=1)
    assert again.options["DelaySeconds"] == 5
    assert again.options["routing_key"] == queue
    assert not {"countdown", "eta"} & set(again.options)


@pytest.mark.parametrize("queue", ["embed", "embed.bulk"])
def test_on_quorum_queues_it_waits_in_those_of_celery(app: celery.Celery, queue: str) -> None:
    app.conf.worker_detect_quorum_queues = True
    task = _declare(app, _nothing)
    key = queue
    for seconds in (5, 9):
        again = task.signature_from_request(_request("any", key), countdown=seconds, retries=1)
        key = again.options["routing_key"]
        assert key == ".".join(f"{seconds:028b}") + f".{queue}"
        assert again.options["exchange"] == "celery_delayed_27"
        assert not {"countdown", "eta", "queue"} & set(again.options)


def test_an_attempt_without_a_wait_still_waits_a_moment(app: celery.Celery) -> None:
    task = _declare(app, _nothing)
    assert task.signature_from_request(_request("embed", "embed"), countdown=0).options["DelaySeconds"] == 1


def test_the_next_task_of_a_thread_has_its_own_ids(app: celery.Celery) -> None:
    seen: list[dict[str, Any]] = []

    def run(self: Any, **_: Any) -> None:
        seen.append(dict(structlog.contextvars.get_contextvars()))

    task = _declare(app, run)
    task.apply(kwargs=IDS, task_id="one")
    task.apply(kwargs={"property_id": "43", "photo_id": 8}, task_id="two")
    assert seen[0] == {"task": "dedup.embed", "task_id": "one", "correlation_id": "one", **IDS}
    assert seen[1] == {
        "task": "dedup.embed",
        "task_id": "two",
        "correlation_id": "two",
        "property_id": "43",
        "photo_id": 8,
    }
