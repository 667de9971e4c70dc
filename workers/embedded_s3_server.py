"""The process behind `EmbeddedS3`: moto's S3 and SQS, with the objects of one bucket kept on disk.

Moto keeps everything in memory. Here each change of an object is on disk before its answer leaves, and a
restart puts every object again, so that events which died unread in the queue are raised once more; ingest
takes an event with an ETag that it knows for nothing new. Once on disk, an object is served from there and
its memory is freed. Moto's own tables say what an object is; we only learn from a request where to look.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import threading
import types
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server import werkzeug_app
from moto.s3 import models as s3_models
from moto.s3 import notifications
from moto.sqs import models as sqs_models

from workers import embedded_host, embedded_sqs

ACCOUNT_ID = "123456789012"
_NOTIFICATION_ID = "listing-dedup"
"""As `aws_policies.ID`: `dedup setup s3` finds its own notification here, and adds no second one."""

REGION = "us-east-1"
IDENTITY_HEADER = "x-dedup-embedded"
PID_HEADER = "x-dedup-pid"
# Below the 255 bytes that file systems allow a name, with room for the suffixes.
NAME_CHARACTERS = 200


class FileValue:
    """The part of a file from `offset` on, in the place where moto keeps an object's bytes."""

    def __init__(self, path: pathlib.Path, offset: int) -> None:
        self._path = path
        self._offset = offset
        self._position = 0

    def seek(self, position: int) -> None:
        self._position = position

    def read(self, size: int = -1) -> bytes:
        # Opened for each read: one open file for each object would soon use up the process's allowance.
        with self._path.open("rb") as file:
            file.seek(self._offset + self._position)
            data = file.read(size)
        self._position += len(data)
        return data

    def close(self) -> None:
        """Nothing is open between reads."""


@dataclasses.dataclass(frozen=True)
class Header:
    """First line of an object's file, as JSON; the object's bytes follow it."""

    key: str
    etag: str
    last_modified: str
    metadata: dict[str, str]


class Mirror:
    """The objects of `bucket` as files in `folder`, one a key."""

    def __init__(self, folder: pathlib.Path, bucket: str) -> None:
        self._folder = folder
        self._bucket = bucket
        self._keys: set[str] = set()
        # One writer at a time, which reads moto's present state: the last one to write has seen the last state.
        self._lock = threading.Lock()
        self._backend = s3_models.s3_backends[ACCOUNT_ID]["aws"]
        folder.mkdir(parents=True, exist_ok=True)

    def restore(self) -> int:
        """Put every object from disk into moto's bucket, raise its event, and return how many there were."""
        for leftover in self._folder.glob("*.tmp"):
            leftover.unlink()
        bucket = self._backend.get_bucket(self._bucket)
        for path in sorted(self._folder.glob("*.object")):
            try:
                with path.open("rb") as file:
                    header = Header(**json.loads(file.readline()))
                    offset = file.tell()
            except (ValueError, TypeError) as error:
                print(f"{path} is damaged and left out: {error}", flush=True)
                continue
            # Moto's own event would tell size 0: the bytes stay on disk.
            key = self._backend.put_object(
                self._bucket, header.key, b"", etag=header.etag, disable_notification=True
            )
            key.set_metadata(dict(header.metadata))
            key.last_modified = datetime.datetime.fromisoformat(header.last_modified)
            self._serve_from(key, path, offset)
            key.contentsize = path.stat().st_size - offset
            self._keys.add(header.key)
            created = notifications.S3NotificationEvent.OBJECT_CREATED_PUT_EVENT
            _raise_event(bucket, created, key, header.last_modified)
        for path in sorted(self._folder.glob("*.removed")):
            # The event of a removal may have been lost with the process, and nothing else would tell of it.
            gone = json.loads(path.read_text(encoding="utf-8"))
            removed = notifications.S3NotificationEvent.OBJECT_REMOVED_DELETE_EVENT
            grave = types.SimpleNamespace(name=gone["key"], etag="", size=0)
            _raise_event(bucket, removed, grave, gone["removed_at"])
        return len(self._keys)

    def update(self, touched: str | None) -> None:
        """Bring the files in line with moto's bucket: for the key `touched`, or for all if it isn't known."""
        with self._lock:
            objects = self._objects()
            if touched is not None and (touched in objects or touched in self._keys):
                names = {touched}
            else:
                names = objects.keys() | self._keys
            for name in names:
                self._update(name)

    def _update(self, name: str) -> None:
        while True:
            key = self._objects().get(name)
            if not isinstance(key, s3_models.FakeKey):  # gone, or hidden by a delete marker
                if name in self._keys:
                    self._bury(name)
                    self._path(name).unlink(missing_ok=True)
                    self._keys.discard(name)
                return
            if isinstance(key._value_buffer, FileValue):
                return
            try:
                self._write(key)
            except ValueError:
                # Moto closes an object's bytes when it is overwritten; look again at what took its place.
                if self._objects().get(name) is key:
                    raise
            else:
                self._keys.add(name)
                return

    def _write(self, key: s3_models.FakeKey) -> None:
        etag, value = key.etag.strip('"'), key.value
        metadata = {name: text for name, text in key.metadata.items() if isinstance(text, str)}
        header = Header(key.name, etag, key.last_modified.isoformat(), metadata)
        line = json.dumps(dataclasses.asdict(header)).encode() + b"\n"
        path = self._path(key.name)
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            file.write(line)
            file.write(value)
            file.flush()
            # Like the store that we stand in for: what was acknowledged outlives a power cut.
            os.fsync(file.fileno())
        temporary.replace(path)
        path.with_suffix(".removed").unlink(missing_ok=True)
        self._serve_from(key, path, len(line))

    def _bury(self, name: str) -> None:
        gone = {"key": name, "removed_at": datetime.datetime.now(datetime.UTC).isoformat()}
        path = self._path(name).with_suffix(".tmp")
        path.write_text(json.dumps(gone), encoding="utf-8")
        path.replace(path.with_suffix(".removed"))

    def _serve_from(self, key: s3_models.FakeKey, path: pathlib.Path, offset: int) -> None:
        memory = key._value_buffer
        key._value_buffer = FileValue(path, offset)  # type: ignore[assignment]
        memory.close()
        # The parts of a finished upload would keep a second copy of its bytes.
        key.multipart = None

    def _objects(self) -> dict[str, Any]:
        bucket = self._backend.buckets.get(self._bucket)
        keys: dict[str, Any] = bucket.keys if bucket is not None else {}
        return keys

    def _path(self, key: str) -> pathlib.Path:
        name = urllib.parse.quote(key, safe="")
        if len(name) > NAME_CHARACTERS:
            name = hashlib.sha256(key.encode()).hexdigest()
        return self._folder / f"{name}.object"


def _raise_event(bucket: Any, event: notifications.S3NotificationEvent, key: Any, when: str) -> None:
    """Send moto's event of an object to the bucket's queues, with the time at which it happened."""
    for notification in bucket.notification_configuration.queue:
        if notification.matches(event, key.name):
            body = notifications._get_s3_event(event, bucket, key, notification.id)
            body["Records"][0]["eventTime"] = when
            queue = sqs_models.sqs_backends[ACCOUNT_ID][REGION]
            queue.send_message(notification.arn.rpartition(":")[2], json.dumps(body))


class Application:
    """Moto's WSGI application, mirroring after each change of S3 and naming itself in each answer."""

    def __init__(self, mirror: Mirror, bucket: str, identity: str) -> None:
        self._dispatcher = werkzeug_app.DomainDispatcherApplication(werkzeug_app.create_backend_app)
        self._mirror = mirror
        self._bucket = bucket
        self._headers = [(IDENTITY_HEADER, identity), (PID_HEADER, str(os.getpid()))]

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # Moto decides by the signature's scope, or the body, which service is meant; ask it, don't guess.
        application: Any = self._dispatcher.get_application(environ)
        answered = ""

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            nonlocal answered
            answered = status
            return start_response(status, [*headers, *self._headers], *rest)

        body: Iterable[bytes] = application(environ, start)
        changing = environ["REQUEST_METHOD"] in {"PUT", "POST", "DELETE"}
        if changing and application.service == "s3" and answered.startswith("2"):
            # Nothing was sent yet: if the disk is full, the client gets an error instead of a promise.
            self._mirror.update(self._touched(environ))
        return body

    def _touched(self, environ: dict[str, Any]) -> str | None:
        path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", errors="replace")
        host = environ.get("HTTP_HOST", "")
        prefix = f"/{self._bucket}/"
        if host.startswith(embedded_host.HOST) and path.startswith(prefix) and len(path) > len(prefix):
            return str(path[len(prefix) :])
        return None


def create_application(
    folder: pathlib.Path, bucket: str, queue: str, prefix: str, identity: str
) -> Application:
    """Return the application with bucket, queue and notification set up and all objects restored."""
    embedded_sqs.guard()
    embedded_sqs.count_only_when_asked()
    store = s3_models.s3_backends[ACCOUNT_ID]["aws"]
    events = sqs_models.sqs_backends[ACCOUNT_ID][REGION].create_queue(queue)
    store.create_bucket(bucket, REGION)
    notification: dict[str, Any] = {
        "Id": _NOTIFICATION_ID,
        "Queue": events.queue_arn,
        "Event": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"],
    }
    if prefix:
        notification["Filter"] = {"S3Key": {"FilterRule": [{"Name": "prefix", "Value": prefix}]}}
    store.put_bucket_notification_configuration(bucket, {"QueueConfiguration": [notification]})
    mirror = Mirror(folder / bucket, bucket)
    mirror.restore()
    return Application(mirror, bucket, identity)
