"""One embedded stack, as the tests see it: they upload and send events, and read what came out of it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import boto3
import psycopg
from psycopg import rows

from workers import embedded, embedded_s3, processes

ROOT = pathlib.Path(__file__).parents[2]
DEADLINE_SECONDS = 150.0
"""A bound for what must happen, on a machine with much else to do; nothing waits for it when all is well."""

_POLL_SECONDS = 0.05
_TASK_QUEUES = ("embed", "embed_bulk", "match", "match_bulk")
"""By pgmq's names, in the order in which a photo goes through them."""

Row = dict[str, Any]
Found = TypeVar("Found")


def until(condition: Callable[[], Found], what: str, deadline_seconds: float = DEADLINE_SECONDS) -> Found:
    """Poll `condition` until it is true, and return what it gave; AssertionError with `what` if it never is."""
    deadline = time.monotonic() + deadline_seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {deadline_seconds:.0f} s: {what}")
        time.sleep(_POLL_SECONDS)


def key_of(property_id: str, name: str) -> str:
    """The object key of a photo, by the default key pattern."""
    return f"properties/{property_id}/photos/{name}"


def record(
    event: str,
    key: str,
    *,
    bucket: str = "photos",
    etag: str = "",
    sequencer: str = "",
    at: datetime.datetime | None = None,
) -> Row:
    """One record of an S3 notification, as the store writes it; `event` is such as ObjectCreated:Put."""
    s3_object: Row = {"key": urllib.parse.quote_plus(key), "size": 1, "eTag": etag}
    if sequencer:
        s3_object["sequencer"] = sequencer
    moment = at or datetime.datetime.now(datetime.UTC)
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "eventTime": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "eventName": event,
        "s3": {"bucket": {"name": bucket}, "object": s3_object},
    }


def command(*arguments: str, module: str = "workers") -> list[str]:
    """The command line of `dedup` with `arguments`, or of a variant of it."""
    return [sys.executable, "-m", module, *arguments]


def processes_of(data_dir: pathlib.Path) -> dict[int, str]:
    """Command lines, by process id, of what runs over a data folder (Linux).

    Ours have the folder in their settings, Postgres has it as its working folder.
    """
    found = {}
    for folder in pathlib.Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            settings = (folder / "environ").read_bytes()
            place = str((folder / "cwd").readlink())
            if str(data_dir).encode() in settings or place.startswith(str(data_dir)):
                words = (folder / "cmdline").read_bytes()
                found[int(folder.name)] = words.replace(b"\0", b" ").decode(errors="replace")
    return found


@contextlib.contextmanager
def process(
    log: pathlib.Path, *arguments: str, module: str = "workers", **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`dedup` with `arguments`, or a variant of it, for the block, under these environment variables; told to stop at
    its end.
    """
    with log.open("ab") as file:
        started = subprocess.Popen(
            command(*arguments, module=module),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, **variables},
            start_new_session=True,
        )
    try:
        yield started
    finally:
        if started.poll() is None:
            started.terminate()
        try:
            started.wait(60)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@dataclasses.dataclass(frozen=True)
class System:
    """A running stack with a look at its tables. Photos are named by property and name."""

    stack: embedded.Stack

    @functools.cached_property
    def s3(self) -> Any:
        return self.stack.s3()

    @functools.cached_property
    def sqs(self) -> Any:
        return boto3.client(
            "sqs",
            endpoint_url=self.stack.store.endpoint_url,
            region_name=embedded_s3.REGION,
            aws_access_key_id=embedded_s3.ACCESS_KEY_ID,
            aws_secret_access_key=embedded_s3.SECRET_ACCESS_KEY,
        )

    def upload(self, property_id: str, name: str, data: bytes, bucket: str = "photos") -> str:
        """Put a photo into the store; returns its ETag."""
        answer = self.s3.put_object(Bucket=bucket, Key=key_of(property_id, name), Body=data)
        return str(answer["ETag"]).strip('"')

    def delete(self, property_id: str, name: str) -> None:
        """Take a photo out of the store."""
        self.s3.delete_object(Bucket="photos", Key=key_of(property_id, name))

    def send(self, message: Row | str) -> None:
        """Put a raw message into the store's event queue; a row is sent as JSON."""
        body = message if isinstance(message, str) else json.dumps(message)
        self.sqs.send_message(QueueUrl=self.stack.store.queue_url, MessageBody=body)

    def send_records(self, *records: Row) -> None:
        """Put one S3 notification into the store's event queue."""
        self.send({"Records": list(records)})

    def ask(self, statement: str, **parameters: object) -> list[Row]:
        """Rows of a statement, read as the owner of all tables."""
        return _ask(self.stack.postgres.url(), statement, parameters)

    def read(self, statement: str, **parameters: object) -> list[Row]:
        """Rows of a statement, read as the listing system."""
        return _ask(self.stack.reader_url, statement, parameters)

    def flags(self, property_id: str) -> dict[str, str]:
        """What the listing system sees: each flagged photo's name, and its canonical photo's."""
        found = self.read(
            "SELECT key, duplicate_of_key FROM listing_duplicates WHERE property_id = %(property_id)s",
            property_id=property_id,
        )
        return {_name(row["key"]): _name(row["duplicate_of_key"]) for row in found}

    def groups(self, property_id: str) -> dict[str, set[str]]:
        """What the listing system sees: each canonical photo's name, and the names flagged to it."""
        found = self.read(
            "SELECT canonical_key, duplicate_keys FROM listing_duplicate_groups WHERE property_id = %(property_id)s",
            property_id=property_id,
        )
        return {_name(row["canonical_key"]): {_name(key) for key in row["duplicate_keys"]} for row in found}

    def feed(self, property_id: str) -> list[tuple[str, str | None]]:
        """What the listing system sees: each change in its order, as photo and canonical photo (None: none)."""
        found = self.read(
            "SELECT key, duplicate_of_key FROM listing_flag_feed WHERE property_id = %(property_id)s "
            "ORDER BY transaction_id, id",
            property_id=property_id,
        )
        return [
            (_name(row["key"]), row["duplicate_of_key"] and _name(row["duplicate_of_key"])) for row in found
        ]

    def photo(self, property_id: str, name: str) -> Row:
        """A photo's row; AssertionError when it has none, or more than one."""
        found = self.ask(
            "SELECT * FROM photo WHERE property_id = %(property_id)s AND key = %(key)s",
            property_id=property_id,
            key=key_of(property_id, name),
        )
        assert len(found) == 1, f"{property_id}/{name} has {len(found)} rows"
        return found[0]

    def statuses(self, property_id: str) -> dict[str, str]:
        """Each photo's status and, after a colon, why it failed."""
        found = self.ask(
            "SELECT key, concat_ws(':', status, failure) AS state FROM photo WHERE property_id = %(property_id)s",
            property_id=property_id,
        )
        return {_name(row["key"]): row["state"] for row in found}

    def tables(self, property_id: str) -> dict[str, list[Row]]:
        """Everything on record of a property, times included: equal before and after means nothing was written."""
        kept = ("photo", "photo_embedding", "pair", "verdict", "duplicate_flag", "flag_change")
        return {
            # xmin names the transaction that wrote a row: a row written again with equal values differs too.
            table: self.ask(
                f"SELECT xmin::text, to_jsonb({table}) AS row FROM {table} "  # noqa: S608 - names from above
                "WHERE property_id = %(property_id)s ORDER BY to_jsonb(" + table + ")::text",
                property_id=property_id,
            )
            for table in kept
        }

    def settle(self, deadline_seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until every event and every task that there is has been worked off."""
        until(self._is_quiet, "the queues are worked off", deadline_seconds)

    def drop_tasks(self) -> None:
        """Empty the task queues; photos that were waiting in them are the sweep's."""
        for queue in _TASK_QUEUES:
            if self._tasks_waiting(queue):
                self.ask("SELECT pgmq.purge_queue(%(queue)s)", queue=queue)

    def log(self, worker: str) -> list[Row]:
        """The lines that a worker logged."""
        text = self.stack.log_file(worker).read_text(encoding="utf-8", errors="replace")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def process(
        self, name: str, *arguments: str, **variables: str
    ) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        """One more process on this stack's database and store, with some settings of its own."""
        environment = {**self.stack.environment, processes.SUPERVISED: str(os.getpid()), **variables}
        return process(self.stack.log_file(name), *arguments, **environment)

    def dedup(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `dedup` with `arguments` on this stack to its end."""
        return subprocess.run(
            command(*arguments),
            cwd=ROOT,
            env={**os.environ, **self.stack.environment, **variables},
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )

    def _is_quiet(self) -> bool:
        self.stack.check()
        # In the order in which a photo goes through them: a task is published before the message that
        # caused it is acknowledged, so what left one queue is in the next one when that is looked at.
        if self._events_waiting():
            return False
        return not any(self._tasks_waiting(queue) for queue in _TASK_QUEUES)

    def _events_waiting(self) -> int:
        counts = self.sqs.get_queue_attributes(
            QueueUrl=self.stack.store.queue_url,
            AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
        )
        return sum(int(count) for count in counts["Attributes"].values())

    def _tasks_waiting(self, queue: str) -> int:
        # Those that a worker holds unacknowledged count too.
        if not self.ask("SELECT FROM pgmq.meta WHERE queue_name = %(queue)s", queue=queue):
            # Nobody has worked on it or put anything into it yet.
            return 0
        (row,) = self.ask("SELECT queue_length FROM pgmq.metrics(%(queue)s)", queue=queue)
        return int(row["queue_length"])


def _ask(url: str, statement: str, parameters: Row) -> list[Row]:
    with psycopg.connect(url, autocommit=True, row_factory=rows.dict_row) as connection:
        return connection.execute(statement.encode(), parameters).fetchall()


def _name(key: str) -> str:
    return key.split("/", 3)[3]


@contextlib.contextmanager
def halted(system: System, *names: str) -> Iterator[None]:
    """Let these workers of the stack stand still for the block."""
    for name in names:
        system.stack._processes[name].send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for name in names:
            system.stack._processes[name].send_signal(signal.SIGCONT)


def stack_environment() -> dict[str, str]:
    """Settings under which the tests are quick: small batches, short waits, weights that need no download."""
    return {
        "DEDUP_BACKBONE_WEIGHTS": "untrained",
        "DEDUP_VISIBILITY_TIMEOUT_SECONDS": "15",
        "DEDUP_TASK_RETRY_BACKOFF_SECONDS": "1",
        "DEDUP_EMBED_CONCURRENCY": "8",
        "DEDUP_EMBED_BATCH_SIZE": "8",
    }
