"""The broker of a stack: this machine's RabbitMQ, where rabbitmqctl makes a virtual host of the stack's own there.

Not its default one: that may be somebody else's, with queues of the same names.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator

HOST, PORT = "127.0.0.1", 5672
_SECONDS = 60


@contextlib.contextmanager
def rabbitmq() -> Iterator[str | None]:
    """A broker URL; None where there is no RabbitMQ to be had. What is in it when the stack ends goes with it: the
    sweep publishes it again.
    """
    name = f"dedup-stack-{os.getpid()}"
    if not (_listens() and _control("add_vhost", name)):
        yield None
        return
    try:
        if not _control("set_permissions", "-p", name, "guest", ".*", ".*", ".*"):
            yield None
            return
        yield f"amqp://guest:guest@{HOST}:{PORT}/{name}"
    finally:
        _control("delete_vhost", name)


def _listens() -> bool:
    try:
        socket.create_connection((HOST, PORT), timeout=5).close()
    except OSError:
        return False
    return True


def _control(*arguments: str) -> bool:
    program = shutil.which("rabbitmqctl")
    if program is None:
        return False
    done = subprocess.run(
        [program, *arguments], capture_output=True, timeout=_SECONDS, check=False, start_new_session=True
    )
    return done.returncode == 0
