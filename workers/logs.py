"""Logs: one JSON object a line on stderr, with the ids of the photo and the task.

`correlation_id` is the same on every line about one event, from ingest through embed to match, whatever the process.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import urllib.parse
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog

_LEAST_SECRET = 8
_PASSWORD = re.compile(r"(://[^/@\s:\"]*):[^@\s\"]+@")
_HIDDEN = "***"


def configure(level: str, process: str, secret_urls: Iterable[str | None] = ()) -> None:
    """Send this process's logs, and those of its libraries, to stderr as JSON.

    Args:
        level: least severe one that is written.
        process: its kind, on every line.
        secret_urls: the passwords in them are never written, nor are AWS credentials.
    """
    secrets = _secrets(secret_urls)

    def render(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        return _without(secrets, str(structlog.processors.JSONRenderer()(logger, method, event)))

    def name_process(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        # Not by a context variable: a thread starts without those of the one that started it.
        event["process"] = process
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        name_process,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    numeric = getattr(logging, level.upper())
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
            foreign_pre_chain=shared,
        )
    )
    # Libraries speak of their own inner life; only what is wrong concerns an operator.
    logging.basicConfig(level=max(numeric, logging.WARNING), handlers=[handler], force=True)
    logging.captureWarnings(True)


@contextmanager
def bound(**ids: object) -> Iterator[None]:
    """Put ids on every log line of a block."""
    with structlog.contextvars.bound_contextvars(**ids):
        yield


def rebind(**ids: object) -> None:
    """Put ids on every log line of this thread from here on, instead of those of what it did before."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**ids)


def correlation_id() -> str | None:
    """What the lines about one event have in common, where this thread works on one."""
    return structlog.contextvars.get_contextvars().get("correlation_id")


def _secrets(urls: Iterable[str | None]) -> list[str]:
    found = {os.environ.get("AWS_SECRET_ACCESS_KEY"), os.environ.get("AWS_SESSION_TOKEN")}
    for url in urls:
        # Not by urlsplit, which refuses what it takes for a wrong port.
        password = re.match(r"[a-z]+://[^/@:]*:([^@]+)@", url or "")
        if password:
            found |= {password[1], urllib.parse.unquote(password[1])}
    # A short one would blot out common words; where it stands in a URL it is hidden all the same.
    return sorted(
        (secret for secret in found if secret and len(secret) >= _LEAST_SECRET), key=len, reverse=True
    )


def _without(secrets: list[str], line: str) -> str:
    for secret in secrets:
        line = line.replace(secret, _HIDDEN)
    return _PASSWORD.sub(rf"\1:{_HIDDEN}@", line)
