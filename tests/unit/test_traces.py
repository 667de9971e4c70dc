"""What becomes a span, and how its context goes along with a message."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any

import celery
import celery.app.task
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from core import errors, settings
from workers import tasks, traces


def test_without_an_endpoint_nothing_is_traced_and_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    traces.start(settings.Settings(), "embed")
    with traces.span("ingest", property_id="42"), traces.stage("fetch"):
        assert traces.headers() == {}
    traces.stop()


def test_without_the_packages_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(errors.ConfigurationError, match=r"DEDUP_TRACES_ENDPOINT .*listing-dedup\[traces\]"):
        traces.start(settings.Settings(traces_endpoint="http://127.0.0.1:1/v1/traces"), "embed")


def test_a_receiver_that_does_not_answer_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = threading.Event(), threading.Event()

    class Silent(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            del spans
            asked.set()
            answer.wait()
            return SpanExportResult.FAILURE

    monkeypatch.setattr(traces, "STOP_SECONDS", 0.1)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Silent()))
    traces.use(provider)
    with traces.span("ingest"):
        pass
    try:
        traces.stop()
        assert asked.wait(60), "it was tried"
        assert traces.headers() == {}
        assert [thread for thread in threading.enumerate() if thread.name == "last spans"], "it still waits"
    finally:
        answer.set()
    for thread in threading.enumerate():
        if thread.name == "last spans":
            thread.join(60)


def test_a_message_carries_the_trace_of_what_published_it(spans: InMemorySpanExporter) -> None:
    with traces.span("ingest", property_id="42"):
        carried = traces.headers()
    assert set(carried) == {"traceparent"}
    with traces.span("embed", {**carried, "other": "header"}, photo_id=7), traces.stage("fetch"):
        pass
    ingest, fetch, embed = spans.get_finished_spans()
    assert [span.name for span in (ingest, fetch, embed)] == ["ingest", "fetch", "embed"]
    assert ingest.parent is None
    assert embed.parent is not None
    assert embed.parent.span_id == ingest.context.span_id
    assert fetch.parent is not None
    assert fetch.parent.span_id == embed.context.span_id
    assert len({span.context.trace_id for span in (fetch, embed, ingest)}) == 1
    assert dict(ingest.attributes or {}) == {"dedup.property_id": "42"}
    assert dict(embed.attributes or {}) == {"dedup.photo_id": 7}


def test_what_raises_is_marked_as_failed_without_the_text_of_the_error(spans: InMemorySpanExporter) -> None:
    def fail() -> None:
        with traces.span("embed"), traces.stage("write"):
            raise errors.TransientError("no answer from postgresql://worker:hunter2@db/dedup")

    with pytest.raises(errors.TransientError):
        fail()
    write, embed = spans.get_finished_spans()
    for span in (write, embed):
        assert not span.status.is_ok
        assert span.status.description == "TransientError"
        assert "hunter2" not in span.to_json()


def test_a_damaged_header_begins_a_trace_of_its_own(spans: InMemorySpanExporter) -> None:
    with traces.span("embed", {"traceparent": "00-nonsense"}):
        pass
    (span,) = spans.get_finished_spans()
    assert span.parent is None


def test_each_attempt_at_a_task_belongs_to_what_published_it(
    spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.PhotoTask, "most_deliveries", 5, raising=False)
    app = celery.Celery("test", broker="memory://", set_as_current=False)
    app.conf.worker_detect_quorum_queues = False

    def run(self: Any, **_: Any) -> None:
        """A task without work."""

    task: Any = app.task(base=tasks.PhotoTask, bind=True, name="dedup.embed")(run)
    with traces.span("ingest"):
        carried = traces.headers()
    ids = {"property_id": "42", "photo_id": 7, "revision": 1}
    request = celery.app.task.Context(
        id="t",
        args=[],
        kwargs=ids,
        headers=carried,
        retries=0,
        delivery_info={"exchange": "embed", "routing_key": "embed"},
    )
    again = task.signature_from_request(request, countdown=5, retries=1)
    assert again.options["headers"] == carried
    task.apply(kwargs=ids, task_id="t", headers=again.options["headers"])
    ingest, embed = spans.get_finished_spans()
    assert embed.name == "embed"
    assert embed.parent is not None
    assert embed.parent.span_id == ingest.context.span_id
    attributes = dict(embed.attributes or {})
    assert attributes == {
        "dedup.correlation_id": "t",
        "dedup.property_id": "42",
        "dedup.photo_id": 7,
        "dedup.revision": 1,
    }
