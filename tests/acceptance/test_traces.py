"""One upload is one trace, through all processes and queues, as a receiver of OTLP sees it."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator

import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from . import pictures
from . import system as acceptance

Span = trace_pb2.Span


@contextlib.contextmanager
def receiver() -> Iterator[tuple[str, list[tuple[str, Span]]]]:
    """An OTLP/HTTP receiver; gives its address, and the spans that have come, each with its service."""
    came: list[tuple[str, Span]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                (service,) = (
                    pair.value.string_value
                    for pair in resource.resource.attributes
                    if pair.key == "service.name"
                )
                came.extend((service, span) for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", came
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow
def test_an_upload_is_one_trace(system: acceptance.System, property_id: str) -> None:
    untraced = ("ingest", "embed", "embed-2", "match", "match-2")
    system.settle()
    with receiver() as (address, came), acceptance.halted(system, *untraced), contextlib.ExitStack() as stack:
        processes = {}
        for name, arguments in {
            "ingest": ("ingest",),
            "embed": ("worker", "embed"),
            "match": ("worker", "match"),
        }.items():
            # What ingest does is told by its end.
            delay = "3600000" if name == "ingest" else "100"
            variables = {"DEDUP_TRACES_ENDPOINT": address, "OTEL_BSP_SCHEDULE_DELAY": delay}
            processes[name] = stack.enter_context(system.process(f"traced-{name}", *arguments, **variables))
        system.upload(property_id, "a.jpg", pictures.jpeg("bedroom"))
        acceptance.until(lambda: any(span.name == "match" for _, span in came), "the match is traced")
        acceptance.until(lambda: any(span.name == "embed" for _, span in came), "the embedding is traced")
        assert "ingest" not in {span.name for _, span in came}
        processes["ingest"].terminate()
        assert processes["ingest"].wait(acceptance.DEADLINE_SECONDS) == 0
        spans = {span.name: span for _, span in came}
        services = {span.name: service for service, span in came}
    assert len(came) == len(spans), "each once"
    names = {span.span_id: name for name, span in spans.items()}
    assert {name: names.get(span.parent_span_id) for name, span in spans.items()} == {
        "ingest": None,
        "embed": "ingest",
        "fetch": "embed",
        "decode": "embed",
        "forward": "embed",
        "write": "embed",
        "match": "embed",
    }
    assert len({span.trace_id for span in spans.values()}) == 1
    assert {name: service.removeprefix("listing-dedup-") for name, service in services.items()} == {
        "ingest": "ingest",
        "match": "match",
        **dict.fromkeys(("embed", "fetch", "decode", "forward", "write"), "embed"),
    }
    order = ["fetch", "decode", "forward", "write"]
    assert sorted(order, key=lambda name: spans[name].start_time_unix_nano) == order
