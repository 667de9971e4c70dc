"""A RabbitMQ node of the soak's own, that may be killed: the machine's may serve others.

It must not be killed just after its queues were declared. RabbitMQ without rabbitmq/ra#443 (3.10) writes the name of a
new quorum queue to the disk late; killed before, it takes the queue up as a new and empty one that never elects a
leader. `Node.remembers` tells when that is over.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterable

from kombu.transport import native_delayed_delivery

from workers import app

SCRIPTS = pathlib.Path("/usr/lib/rabbitmq/bin")
"""Where the packages have the scripts that run under any user; those in the search path change to their own."""

START_SECONDS = 120.0
HOST = "127.0.0.1"
TASK_QUEUES = (
    *app.TASK_QUEUES,
    *(native_delayed_delivery.level_name(level) for level in range(native_delayed_delivery.MAX_LEVEL + 1)),
)
"""The quorum queues that Celery workers declare: those of tasks, and those in which retries wait."""


class Node:
    """A single node with its data in `folder`. A context manager: started, then stopped for good."""

    def __init__(self, folder: pathlib.Path) -> None:
        if not (SCRIPTS / "rabbitmq-server").exists():
            raise SystemExit(
                f"A soak on RabbitMQ needs rabbitmq-server in {SCRIPTS}: apt-get install rabbitmq-server"
            )
        self._folder = folder
        self._port, distribution_port = _free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None
        name = f"dedup-soak-{uuid.uuid4().hex[:8]}@localhost"
        self._registry = folder / "mnesia" / name / "quorum" / name / "names.dets"
        self._environment = {
            **os.environ,
            # The cookie by which node and rabbitmqctl know each other is made in the home folder.
            "HOME": str(folder),
            "RABBITMQ_NODENAME": name,
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(self._port),
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            # None of the machine's own settings.
            "RABBITMQ_CONF_ENV_FILE": str(folder / "environment"),
            "RABBITMQ_CONFIG_FILE": str(folder / "none"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "none"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1",
        }

    def __enter__(self) -> Node:
        self._folder.mkdir()
        (self._folder / "plugins").write_text("[].", encoding="utf-8")
        (self._folder / "environment").touch()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Its default virtual host, as a broker URL."""
        return f"amqp://guest:guest@{HOST}:{self._port}//"

    def start(self) -> None:
        """Start it, and wait until it takes connections; AssertionError if it never does."""
        with (self._folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [str(SCRIPTS / "rabbitmq-server")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = (self._folder / "output").read_text(encoding="utf-8", errors="replace")
                raise AssertionError(f"RabbitMQ does not start:\n{text[-2000:]}")
            time.sleep(0.2)

    def remembers(self, queues: Iterable[str]) -> bool:
        """Whether these quorum queues of the default virtual host would be found again after a kill now."""
        registry = self._registry.read_bytes() if self._registry.exists() else b""
        # Erlang atoms, each after its length: one name may begin like another.
        names = (f"%2F_{queue}".encode() for queue in queues)
        return all(bytes([len(name)]) + name in registry for name in names)

    def kill(self) -> None:
        """Kill it with all that it started; its disk is what remains."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def messages(self) -> int:
        """Messages in all queues, those in hand included."""
        answer = self._control("list_queues", "messages", "--formatter", "json")
        return sum(int(queue["messages"]) for queue in json.loads(answer))

    def cut(self) -> None:
        """Close all connections by force."""
        self._control("close_all_connections", "soak")

    def _control(self, *arguments: str) -> str:
        done = subprocess.run(
            [str(SCRIPTS / "rabbitmqctl"), "--quiet", *arguments],
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            env=self._environment,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"rabbitmqctl {' '.join(arguments)}: {done.stderr or done.stdout}")
        return done.stdout

    def _listens(self) -> bool:
        try:
            socket.create_connection((HOST, self._port), timeout=1).close()
        except OSError:
            return False
        return True


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind((HOST, 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
