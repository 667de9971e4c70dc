"""The embedded stack: Postgres, S3, SQS and our own workers on one machine, nothing to install.

The workers are processes of their own, started by the same commands as in production; only what stands
around them (database, broker, store) is the embedded one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Any

import boto3
import structlog

from core import errors, schema, settings
from workers import embedded_host, embedded_postgres, embedded_s3, processes

log = structlog.get_logger()

WORKERS: dict[str, Sequence[str]] = {
    "ingest": ("ingest",),
    "embed": ("worker", "embed"),
    "match": ("worker", "match"),
    "sweep": ("sweep", "--every", "30"),
}
"""What a stack runs, by name: arguments of `dedup`."""

# Not for a demo or a scan, which have nothing to fill in.
_ON_DEMAND: dict[str, Sequence[str]] = {"bulk": ("worker", "embed", "--bulk")}
_PATIENCE = {
    "DEDUP_VISIBILITY_TIMEOUT_SECONDS": "60",
    "DEDUP_SWEEP_AFTER_SECONDS": "120",
    "DEDUP_STOP_SECONDS": "15",
}
_STOP_SECONDS = 30.0
_RESTART_PAUSE_SECONDS = 1.0


class Stack:
    """Everything that one photo needs, over one data folder. A context manager: started, then stopped.

    One at a time over one folder: a second one is refused, and what a killed one left running is taken over.
    """

    def __init__(
        self,
        data_dir: pathlib.Path,
        environment: Mapping[str, str] | None = None,
        workers: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`environment`: settings that go before its own; `workers`: others than `WORKERS`."""
        self.data_dir = data_dir
        self.postgres = embedded_postgres.EmbeddedPostgres(data_dir)
        # No prefix: an upload to a wrong key is to be seen in rejected_event.
        self.store = embedded_s3.EmbeddedS3(data_dir, prefix="")
        self._extra = dict(environment or {})
        self._lock: IO[str] | None = None
        self._workers = WORKERS if workers is None else workers
        self._commands: dict[str, list[str]] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._health_ports: dict[str, int] = {}
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._broken: str | None = None

    def __enter__(self) -> Stack:
        """Start everything; returns when the parts answer and the workers run.

        Raises:
            ConfigurationError: the folder is in use or cannot be used.
        """
        self._take_folder()
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the workers, then what they stand on."""
        self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join()
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        with contextlib.ExitStack() as last:
            if self._lock:
                last.callback(self._lock.close)
            last.callback(self.postgres.stop)
            last.callback(self.store.stop)

    @property
    def environment(self) -> dict[str, str]:
        """The settings under which a worker belongs to this stack."""
        store = self.store
        access = f"{embedded_s3.ACCESS_KEY_ID}:{embedded_s3.SECRET_ACCESS_KEY}"
        return {
            "DEDUP_DATABASE_URL": self.postgres.url("dedup_worker"),
            "DEDUP_MIGRATION_DATABASE_URL": self.postgres.url(),
            "DEDUP_BROKER_URL": "pgmq://" + self.postgres.url().partition("://")[2],
            "DEDUP_EVENT_BROKER_URL": f"sqs://{access}@{store.endpoint_url.removeprefix('http://')}//",
            "DEDUP_EVENT_QUEUE": store.queue,
            "DEDUP_BUCKETS": store.bucket,
            "DEDUP_KEY_PATTERN": settings.Settings.model_fields["key_pattern"].default,
            "DEDUP_S3_ENDPOINT_URL": store.endpoint_url,
            "DEDUP_S3_REGION": embedded_s3.REGION,
            "AWS_ACCESS_KEY_ID": embedded_s3.ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": embedded_s3.SECRET_ACCESS_KEY,
            "AWS_DEFAULT_REGION": embedded_s3.REGION,
            # Shorter than in production: nothing is far away, and a person waits.
            **{name: value for name, value in _PATIENCE.items() if name not in os.environ},
            **self._extra,
        }

    @property
    def reader_url(self) -> str:
        """The login of the listing system."""
        return self.postgres.url("dedup_reader")

    @property
    def editor_url(self) -> str:
        """The login by which the listing system records verdicts."""
        return self.postgres.url("dedup_editor")

    def log_file(self, worker: str) -> pathlib.Path:
        """Where a worker's logs go."""
        return self.data_dir / "logs" / f"{worker}.log"

    def health_urls(self) -> dict[str, str]:
        """Where each worker tells how it is."""
        return {
            name: f"http://{embedded_host.HOST}:{port}/healthz" for name, port in self._health_ports.items()
        }

    def write_environment(self, path: pathlib.Path) -> None:
        """Write the settings, and where `dedup` is, as a file for a shell to read, for its owner's eyes only."""
        path.touch(mode=0o600)
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in self.environment.items()]
        lines.append(f"export PATH={shlex.quote(str(pathlib.Path(sys.executable).parent))}:$PATH\n")
        path.write_text("".join(lines), encoding="utf-8")

    def s3(self) -> Any:
        """A client for the embedded store."""
        return boto3.client(
            "s3",
            endpoint_url=self.store.endpoint_url,
            region_name=embedded_s3.REGION,
            aws_access_key_id=embedded_s3.ACCESS_KEY_ID,
            aws_secret_access_key=embedded_s3.SECRET_ACCESS_KEY,
        )

    def check(self) -> None:
        """See that the workers are still there.

        Raises:
            ConfigurationError: one of them cannot run; its last words are in the text.
        """
        if self._broken:
            raise errors.ConfigurationError(self._broken)

    def run_until_interrupted(self) -> None:
        """Stay until Ctrl-C or SIGTERM. Raises as `check` does."""
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        while not stop.wait(0.5):
            self.check()

    def start_worker(self, name: str, kind: str) -> subprocess.Popen[bytes]:
        """Start one more process of a kind (ingest, embed, match, sweep, bulk); it is started again when it dies."""
        return self.start_process(name, (WORKERS | _ON_DEMAND)[kind])

    def start_process(
        self, name: str, arguments: Sequence[str], module: str = "workers"
    ) -> subprocess.Popen[bytes]:
        """Start `dedup` with `arguments`, or a variant of it; it is started again when it dies."""
        self._commands[name] = [sys.executable, "-m", module, *arguments]
        return self._run(name)

    def _run(self, name: str) -> subprocess.Popen[bytes]:
        path = self.log_file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._health_ports[name] = _free_port(self._health_ports.get(name, 0))
        own = {
            "DEDUP_HEALTH_HOST": embedded_host.HOST,
            "DEDUP_HEALTH_PORT": str(self._health_ports[name]),
            processes.SUPERVISED: str(os.getpid()),
        }
        with path.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own command line
                self._commands[name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment, **own},
                # Ctrl-C goes to this process alone, which then stops the workers in order.
                start_new_session=True,
            )
        self._processes[name] = process
        return process

    def _take_folder(self) -> None:
        try:
            embedded_host.make_folder(self.data_dir)
        except OSError as error:
            raise errors.ConfigurationError(
                f"DEDUP_DATA_DIR: {self.data_dir} cannot be made ({error.strerror}); name another folder."
            ) from error
        self._lock = (self.data_dir / "stack.lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.seek(0)
            owner = self._lock.read().strip()
            self._lock.close()
            raise errors.ConfigurationError(
                f"{self.data_dir} is in use by process {owner or '?'}; stop that one, "
                "or set DEDUP_DATA_DIR to another folder."
            ) from error
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def _start(self) -> None:
        self.postgres.start()
        self.postgres.install_extensions()
        schema.upgrade(self.postgres.url())
        for role in ("dedup_worker", "dedup_reader", "dedup_editor"):
            self.postgres.allow_login(role)
        self.store.start()
        for name, arguments in self._workers.items():
            self.start_process(name, arguments)
        self._watcher.start()

    def _watch(self) -> None:
        while not self._stopping.wait(_RESTART_PAUSE_SECONDS):
            try:
                # Each returns at once while its server lives, and comes back on the same port.
                self.postgres.start()
                self.store.start()
            except errors.ConfigurationError as error:
                self._broken = str(error)
                return
            except errors.TransientError as error:
                log.warning("embedded_server_away", error=str(error))
                continue
            except Exception as error:  # noqa: BLE001 - without this thread nothing is started again: that must be told
                self._broken = f"The supervisor ended: {type(error).__name__}: {error}"
                return
            for name, process in list(self._processes.items()):
                status = process.poll()
                if status is None:
                    continue
                if status == processes.EXIT_CONFIGURATION:
                    words = self.log_file(name).read_text(errors="replace").strip().splitlines()
                    self._broken = f"The {name} worker cannot run:\n" + "\n".join(words[-5:])
                    return
                self._run(name)


def _free_port(wanted: int) -> int:
    """`wanted`, where nobody has it, or another one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((embedded_host.HOST, wanted))
        except OSError:
            probe.bind((embedded_host.HOST, 0))
        return int(probe.getsockname()[1])
