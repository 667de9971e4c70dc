"""Traces for OpenTelemetry: one from an upload's event through the queues to its flags. Off unless told where to.

The context goes along in the messages' headers, as `traceparent` (W3C Trace Context). How much is sampled, further
headers and attributes of the service are set by OpenTelemetry's own variables (`OTEL_TRACES_SAMPLER` …).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from core import errors, settings
from workers import metrics

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

_NAME = "listing-dedup"

STOP_SECONDS = 3.0
"""For sending the last spans: a receiver may be away, and OpenTelemetry's own patience is 30 s."""

_provider: TracerProvider | None = None
_tracer: trace.Tracer | None = None


def start(config: settings.Settings, process: str) -> None:
    """Trace from here on, where the settings say so. `process`: what kind of process this is.

    Raises:
        ConfigurationError: the packages for it are not installed.
    """
    if config.traces_endpoint is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise errors.ConfigurationError(
            f"DEDUP_TRACES_ENDPOINT is set, and a package is missing ({error}): pip install 'listing-dedup[traces]'."
        ) from error
    # At the exit of Python it would wait for the receiver without our bound; `stop` is for that.
    provider = TracerProvider(
        resource=Resource.create({"service.name": f"{_NAME}-{process}"}), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=config.traces_endpoint)))
    use(provider)


def use(provider: TracerProvider) -> None:
    """Trace by this provider from here on."""
    global _provider, _tracer
    _provider, _tracer = provider, provider.get_tracer(_NAME)


def stop() -> None:
    """Trace no more, and send what is left, as far as that takes no longer than `STOP_SECONDS`."""
    global _provider, _tracer
    provider, _provider, _tracer = _provider, None, None
    if provider is not None:
        last = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(STOP_SECONDS)


@contextlib.contextmanager
def span(name: str, carrier: Mapping[str, str] | None = None, /, **attributes: str | int) -> Iterator[None]:
    """A span of the block; of one that raised only the kind of error is told, as its text may hold passwords.

    Args:
        name: of what is done.
        carrier: headers of the message that led to it; without, it belongs to the span around it in this thread.
        attributes: of this one, without the prefix `dedup.`.
    """
    if _tracer is None:
        yield
        return
    from opentelemetry import trace
    from opentelemetry.trace.propagation import tracecontext

    context = tracecontext.TraceContextTextMapPropagator().extract(carrier) if carrier else None
    named = {f"dedup.{key}": value for key, value in attributes.items()}
    with _tracer.start_as_current_span(
        name, context=context, attributes=named, record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield
        except Exception as error:
            current.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise


def headers() -> dict[str, str]:
    """What a message carries so that what it leads to belongs to the trace of this thread; empty without one."""
    found: dict[str, str] = {}
    if _tracer is not None:
        from opentelemetry.trace.propagation import tracecontext

        tracecontext.TraceContextTextMapPropagator().inject(found)
    return found


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """A stage of a photo's way, measured and traced."""
    with metrics.stage(name), span(name):
        yield
