"""Fetching a photo's bytes from an S3 store, within limits, with every failure sorted into two kinds."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import botocore.config
import botocore.exceptions
import urllib3.exceptions

from core import budgets, errors, settings

FETCH_SECONDS = 60.0
FETCHED_BYTES = 100_000_000
"""Memory that photos take together from their fetch until they are embedded; a larger one is fetched alone."""
FETCHED_BYTES_EACH = 5_000_000
"""What is had for each photo in flight, where this makes more: on a GPU, whose batches would never fill otherwise."""

_MEMORY = budgets.Budget(FETCHED_BYTES)
_PIECE_BYTES = 2**20
_OPEN_SECONDS = 5.0
"""How long an answer may stay open that nobody reads: stores drop it after a while, which would count as a failure."""


@dataclasses.dataclass(frozen=True)
class Object:
    """The bytes of one object and the ETag that they came with."""

    data: bytes
    etag: str


def client(config: settings.Settings, connections: int = 10) -> Any:
    """A boto3 S3 client for the store in the settings; thread-safe, to be made once a process.

    `connections`: as many threads as use it at a time.
    """
    return boto3.client(
        "s3",
        endpoint_url=config.s3_endpoint_url,
        region_name=config.s3_region,
        verify=str(config.s3_ca) if config.s3_ca else None,
        config=botocore.config.Config(
            connect_timeout=config.s3_timeout_seconds,
            read_timeout=config.s3_timeout_seconds,
            # Celery retries with backoff; two layers of long retries would multiply.
            retries={"total_max_attempts": 2, "mode": "standard"},
            max_pool_connections=max(10, connections),
            s3={"addressing_style": "path"} if config.s3_endpoint_url else None,
        ),
    )


class _NoRoomError(Exception):
    """There was no memory for so many bytes while the answer could stay open."""

    def __init__(self, length: int) -> None:
        super().__init__(f"no memory for {length} bytes")
        self.length = length


def share_memory(in_flight: int) -> None:
    """Give so many photos in flight the memory that they need; to be called before the first is fetched."""
    global _MEMORY  # noqa: PLW0603 - a process has one memory
    _MEMORY = budgets.Budget(max(FETCHED_BYTES, in_flight * FETCHED_BYTES_EACH))


@contextlib.contextmanager
def fetched(
    s3: Any, bucket: str, key: str, max_bytes: int, timeout_seconds: float = FETCH_SECONDS
) -> Iterator[Object]:
    """As `fetch`, for one of many threads: while the block runs, its bytes count among those of `share_memory`.

    What does not fit waits before its body is read; after a while without its answer, which is asked for again then.
    Within the block nothing else may be fetched this way.
    """
    with contextlib.ExitStack() as held:

        def hold(length: int) -> None:
            if not held.enter_context(_MEMORY.hold(length, _OPEN_SECONDS)):
                raise _NoRoomError(length)

        try:
            found = fetch(s3, bucket, key, max_bytes, timeout_seconds, hold)
        except _NoRoomError as error:
            had = error.length
            held.enter_context(_MEMORY.hold(had))

            def fits(length: int) -> None:
                if length > had:
                    raise errors.TransientError(
                        f"s3://{bucket}/{key} was replaced by a larger one while it waited."
                    )

            found = fetch(s3, bucket, key, max_bytes, timeout_seconds, fits)
        yield found


def fetch(
    s3: Any,
    bucket: str,
    key: str,
    max_bytes: int,
    timeout_seconds: float = FETCH_SECONDS,
    wait: Callable[[int], object] = lambda _: None,
) -> Object:
    """Read one object, at most `max_bytes` of it, for at most `timeout_seconds` from its first byte on.

    `wait` is called with its length before its body is read.

    Raises:
        PermanentError: ``object_gone`` or ``too_large`` (before its body is read).
        TransientError: anything that another attempt may mend (network, throttling, credentials).
    """
    name = f"s3://{bucket}/{key}"
    try:
        answer = s3.get_object(Bucket=bucket, Key=key)
        with answer["Body"] as body:
            length = int(answer["ContentLength"])
            if length > max_bytes:
                raise errors.PermanentError(
                    "too_large",
                    f"{name} has {length} bytes, more than DEDUP_MAX_PHOTO_BYTES={max_bytes}; "
                    "upload a smaller photo or raise the limit.",
                )
            wait(length)
            data = _read(body, name, length, time.monotonic() + timeout_seconds)
    except botocore.exceptions.ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in {"NoSuchKey", "NoSuchVersion", "404"}:
            raise errors.PermanentError("object_gone", f"{name} no longer exists.") from error
        raise errors.TransientError(f"{name} cannot be read now: {error}") from error
    # A body that is cut short or stalls raises urllib3's own errors, which botocore does not translate here.
    except (botocore.exceptions.BotoCoreError, urllib3.exceptions.HTTPError, OSError) as error:
        raise errors.TransientError(f"{name} cannot be read now: {type(error).__name__}: {error}") from error
    if len(data) != length:
        raise errors.TransientError(f"{name} was cut short: {len(data)} of {length} bytes.")
    return Object(data=data, etag=str(answer.get("ETag", "")).strip('"'))


def _read(body: Any, name: str, length: int, deadline: float) -> bytes:
    data = io.BytesIO()
    # Its whole size at once, and `getvalue` copies nothing: pieces that are joined take twice their memory.
    if length:
        data.seek(length - 1)
        data.write(b"\0")
        data.seek(0)
    # What the network has ready, however little: a read of a fixed size would wait for a trickle without an end.
    while data.tell() < length and (piece := body.read1(min(_PIECE_BYTES, length - data.tell()))):
        data.write(piece)
        if time.monotonic() >= deadline:
            raise errors.TransientError(
                f"{name} comes too slowly: {data.tell()} bytes so far; see DEDUP_S3_FETCH_TIMEOUT_SECONDS."
            )
    data.truncate()
    return data.getvalue()
