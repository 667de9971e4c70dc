from __future__ import annotations

import time
from typing import Any

import celery
import celery.app.task
import celery.exceptions
import pytest
import structlog.contextvars
import structlog.testing
from celery.worker import state

from core import database, errors
from workers import health, processes, tasks
from workers.app import PUBLISHED_HEADER

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


def _reasons() -> list[str]:
    return [reason.partition(" for ")[0] for reason in health.process.unwell(60.0)]


@pytest.fixture(autouse=True)
def monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = health.Monitor()
    monitor.ready()
    monkeypatch.setattr(health, "process", monitor)


@pytest.mark.parametrize("error", [errors.TransientError("forbidden"), ValueError("wrong")])
def test_tasks_that_only_fail_are_told_until_one_succeeds(app: celery.Celery, error: Exception) -> None:
    seen: list[list[str]] = []

    def run(self: Any, fails: bool) -> None:
        seen.append(_reasons())
        if fails:
            raise error

    task = _declare(app, run)
    task.apply(kwargs={"fails": True}, throw=False)
    expected = ["no dedup.embed has succeeded"]
    # Already between two attempts, not only once the last one failed.
    assert seen == ([[], expected, expected] if isinstance(error, errors.TransientError) else [[]])
    assert _reasons() == expected
    assert health.process.stuck(60.0) == []
    task.apply(kwargs={"fails": False}, throw=False)
    assert _reasons() == []


def test_an_unfit_process_gives_its_task_back_and_ends(
    app: celery.Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "should_stop", None)

    def run(self: Any, property_id: str, photo_id: int, revision: int) -> None:
        raise processes.UnfitProcessError("The active model: its weights are missing.")

    with structlog.testing.capture_logs() as lines:
        result = _declare(app, run).apply(kwargs=IDS, throw=False)
    assert result.state == "REJECTED"
    assert isinstance(result.result, celery.exceptions.Reject)
    assert result.result.requeue
    assert [line["event"] for line in lines] == ["process_unfit"], "nothing is said of the photo"
    with pytest.raises(celery.exceptions.WorkerShutdown) as caught:
        state.maybe_shutdown()
    assert caught.value.code == processes.EXIT_CONFIGURATION
    assert _reasons() == ["no dedup.embed has succeeded"]


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


@pytest.mark.parametrize("quorum", [True, False])
def test_a_retry_is_due_when_its_wait_is_over(app: celery.Celery, quorum: bool) -> None:
    app.conf.worker_detect_quorum_queues = quorum
    request = _request("embed", "embed")
    request.headers = {PUBLISHED_HEADER: 1000.0, "other": "kept"}
    before = time.time()
    again = _declare(app, _nothing).signature_from_request(request, countdown=60, retries=1)
    headers = again.options["headers"]
    assert before + 60 <= headers[PUBLISHED_HEADER] <= time.time() + 60
    assert headers["other"] == "kept"


@pytest.mark.parametrize(
    ("key", "queue"),
    [
        ("embed", "embed"),
        ("embed.bulk", "embed.bulk"),
        (".".join("0" * 25 + "101") + ".match", "match"),
        (".".join("0" * 25 + "101") + ".match.bulk", "match.bulk"),
        ("", ""),
    ],
)
def test_the_queue_that_a_task_came_by(app: celery.Celery, key: str, queue: str) -> None:
    seen: list[Any] = []

    def run(self: Any, **_: Any) -> None:
        self.request.delivery_info = {"routing_key": key}
        seen.append(self.queue_of_request())

    _declare(app, run).apply(kwargs=IDS)
    assert seen == [queue]


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
    assert seen[0] == {"task": "dedup.embed", "task_id": "one", "correlation_id": "one", "queue": "", **IDS}
    assert seen[1] == {
        "task": "dedup.embed",
        "task_id": "two",
        "correlation_id": "two",
        "queue": "",
        "property_id": "43",
        "photo_id": 8,
    }
