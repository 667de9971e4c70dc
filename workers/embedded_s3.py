"""An S3 and SQS of our own for `dedup up`: moto in a process of its own, which keeps its objects on disk.

A process of its own, since moto is slow to import and busy under the interpreter's lock, and since a kill
of it must cost a restart only. Not a store for production: no authentication, and one machine's disk.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Sequence
from typing import Any

from core import errors
from workers import embedded_host

REGION = "us-east-1"
ACCOUNT_ID = "123456789012"
# Moto checks no signature; clients just refuse to sign with nothing.
ACCESS_KEY_ID = "dedup"
SECRET_ACCESS_KEY = "dedup-embedded"  # noqa: S105 - not a secret, see above
START_SECONDS = 120.0
STOP_SECONDS = 10.0
PARENT_SECONDS = 0.2
PORT_TAKEN = 98
LOG_BYTES = 10 * 2**20


class EmbeddedS3:
    """The S3 and SQS server over `data_dir`/s3. Whoever started it stops it, and it ends with its starter."""

    def __init__(
        self,
        data_dir: pathlib.Path,
        bucket: str = "photos",
        queue: str = "dedup-events",
        prefix: str = "properties/",
    ) -> None:
        self.bucket = bucket
        self.queue = queue
        self.prefix = prefix
        self._data_dir = data_dir.resolve()
        self._home = self._data_dir / "s3"
        self._port_file = self._home / "port"
        self._log = self._home / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint_url(self) -> str:
        """Where S3 and SQS answer, as botocore's `endpoint_url`; the last known place if stopped."""
        port = embedded_host.read_port(self._port_file)
        if port is None:
            raise errors.ConfigurationError(f"no embedded S3 was started in {self._home} yet")
        return f"http://{embedded_host.HOST}:{port}"

    @property
    def queue_url(self) -> str:
        """The URL of the queue that gets the bucket's events."""
        return f"{self.endpoint_url}/{ACCOUNT_ID}/{self.queue}"

    def start(self) -> bool:
        """Start the server if it doesn't run, and return whether this call was the one that started it.

        Raises `ConfigurationError` (moto missing, folder not ours) and `TransientError` (not up in time).
        """
        embedded_host.make_folder(self._home)
        with embedded_host.locked(self._home / "start.lock", START_SECONDS * 2):
            if self.is_alive():
                return False
            deadline = time.monotonic() + START_SECONDS
            while not self._launch(deadline):
                if time.monotonic() >= deadline:
                    self._end_process()
                    raise errors.TransientError(f"S3 does not start:\n{embedded_host.tail(self._log)}")
            return True

    def stop(self) -> None:
        """Stop the server, whoever started it; objects stay on disk, unread events are raised at the next start."""
        pid = self._pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            if not embedded_host.wait_until(lambda: self._pid() != pid, STOP_SECONDS):
                raise errors.TransientError(f"the S3 server (process {pid}) does not stop")
        self._end_process()

    def is_alive(self) -> bool:
        """Whether the server answers S3 requests; a stranger on its port doesn't count."""
        return self._pid() is not None

    def _launch(self, deadline: float) -> bool:
        self._end_process()
        port = embedded_host.choose_port(self._port_file)
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        command = [sys.executable, "-m", "workers.embedded_s3", "--port", str(port)]
        command += ["--data-dir", str(self._data_dir), "--bucket", self.bucket, "--queue", self.queue]
        command += ["--prefix", self.prefix, "--parent", str(os.getpid())]
        paths = [str(pathlib.Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - a list, no shell, our own interpreter
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
                # Ctrl-C goes to the starter alone, which stops its servers in the right order.
                start_new_session=True,
            )
        process = self._process
        embedded_host.wait_until(
            lambda: process.poll() is not None or self.is_alive(), deadline - time.monotonic()
        )
        if process.returncode not in (None, PORT_TAKEN):
            raise errors.ConfigurationError(
                f"the S3 server ended with status {process.returncode}:\n{embedded_host.tail(self._log)}"
            )
        return process.returncode is None and self.is_alive()

    def _end_process(self) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            self._process = None

    def _pid(self) -> int | None:
        """Return the process id that our server gives in its answer to a request for the bucket."""
        port = embedded_host.read_port(self._port_file)
        if port is None:
            return None
        connection = http.client.HTTPConnection(embedded_host.HOST, port, timeout=5)
        try:
            connection.request("HEAD", f"/{self.bucket}")
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        identity = _identity(self._data_dir, self.bucket, self.queue, self.prefix)
        if response.status != http.HTTPStatus.OK or response.headers.get("x-dedup-embedded") != identity:
            return None
        return int(response.headers["x-dedup-pid"])


def _identity(data_dir: pathlib.Path, *names: str) -> str:
    return urllib.parse.quote("|".join([str(data_dir), *names]), safe="/|")


def _die_with(parent: int) -> None:
    # Asked for instead of told by PR_SET_PDEATHSIG: that fires when the starting *thread* ends.
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(0)


def _serve(listener: socket.socket, arguments: argparse.Namespace) -> None:
    try:
        from moto.moto_server import werkzeug_app
        from werkzeug import serving

        from workers import embedded_s3_server
    except ImportError as error:
        raise SystemExit(f"moto is missing: pip install 'listing-dedup[embedded]' ({error})") from error

    class Handler(werkzeug_app.MotoRequestHandler):
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """No access log: it would grow with each photo and say nothing that the tables don't."""

    names = (arguments.bucket, arguments.queue, arguments.prefix)
    application = embedded_s3_server.create_application(
        arguments.data_dir / "s3" / "objects", *names, _identity(arguments.data_dir, *names)
    )
    # Werkzeug doesn't listen on a socket that it is given. Only now, so that who connects finds all restored.
    listener.listen(128)
    server = serving.make_server(
        embedded_host.HOST,
        arguments.port,
        application,
        threaded=True,
        request_handler=Handler,
        fd=listener.fileno(),
    )
    server.serve_forever()


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, or until `--parent` is no longer the parent."""
    parser = argparse.ArgumentParser(prog="python -m workers.embedded_s3", description=main.__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data-dir", type=lambda text: pathlib.Path(text).resolve(), required=True)
    parser.add_argument("--bucket", default="photos")
    parser.add_argument("--queue", default="dedup-events")
    parser.add_argument("--prefix", default="properties/")
    parser.add_argument("--parent", type=int, help="end when this process is no longer the parent")
    arguments = parser.parse_args(argv)

    def leave(_number: int, _frame: Any) -> None:
        # At once: requests under way are not acknowledged yet, and files are whole at any moment.
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    if arguments.parent is not None:
        threading.Thread(target=_die_with, args=(arguments.parent,), daemon=True).start()
    embedded_host.make_folder(arguments.data_dir / "s3")
    # Held to the end of the process: two servers would overwrite each other's files.
    embedded_host.wait_for_lock(arguments.data_dir / "s3" / "server.lock", STOP_SECONDS)
    try:
        listener = embedded_host.bind(arguments.port)
    except OSError:
        sys.exit(PORT_TAKEN)
    with listener:
        _serve(listener, arguments)


if __name__ == "__main__":
    main()
