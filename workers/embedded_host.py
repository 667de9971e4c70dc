"""What both embedded servers need from the host: one lock between processes and one port that stays.

Kept apart from the servers because the races are the same for both: several commands may start the
stack at the same moment, and any of them may be killed at any line.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import socket
import time
from collections.abc import Callable, Iterator

from core import errors

HOST = "127.0.0.1"
POLL_SECONDS = 0.05


def wait_until(condition: Callable[[], bool], timeout_seconds: float) -> bool:
    """Poll `condition` until it is true; return whether it became so within `timeout_seconds`."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def try_lock(path: pathlib.Path, operation: int = fcntl.LOCK_EX) -> int | None:
    """Take the lock `path` and return its file descriptor, or None if another process holds it.

    The kernel drops the lock when the last copy of the descriptor is closed, by a kill -9 too: a lock
    that is free proves that its holders are gone, which a process id in a file never does.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_locked(path: pathlib.Path) -> bool:
    """Whether some process holds the lock `path`."""
    # Shared, so that two that look at the same moment don't take each other for the holder.
    descriptor = try_lock(path, fcntl.LOCK_SH)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def wait_for_lock(path: pathlib.Path, timeout_seconds: float) -> int:
    """Return a descriptor that holds the lock `path`; raises `TransientError` if it stays taken."""
    deadline = time.monotonic() + timeout_seconds
    while (descriptor := try_lock(path)) is None:
        if time.monotonic() >= deadline:
            raise errors.TransientError(f"{path} is still held by another process; is a start hanging?")
        time.sleep(POLL_SECONDS)
    return descriptor


@contextlib.contextmanager
def locked(path: pathlib.Path, timeout_seconds: float) -> Iterator[int]:
    """Hold the lock `path` for the block, by the descriptor given; raises `TransientError` if it stays taken."""
    descriptor = wait_for_lock(path, timeout_seconds)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def bind(port: int) -> socket.socket:
    """Return a TCP socket bound to `port` on 127.0.0.1 (0: any free one); raises OSError if taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Connections of the server before linger in TIME_WAIT; they must not cost it its port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
    except OSError:
        listener.close()
        raise
    return listener


def choose_port(path: pathlib.Path) -> int:
    """Return the port recorded in `path` if it is still free, else a free one, then recorded there."""
    recorded = read_port(path)
    try:
        listener = bind(recorded or 0)
    except OSError:
        listener = bind(0)
    with listener:
        port: int = listener.getsockname()[1]
    if port != recorded:
        write_file(path, f"{port}\n", 0o644)
    return port


def read_port(path: pathlib.Path) -> int | None:
    """Return the port recorded in `path`, or None."""
    try:
        return int(path.read_text("ascii"))
    except (FileNotFoundError, ValueError):
        return None


def write_file(path: pathlib.Path, text: str, mode: int) -> None:
    """Write `path` so that a reader, or a kill in between, sees the old content or the new one.

    The caller holds the lock under which `path` is written: the temporary name is not unique.
    """
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def tail(path: pathlib.Path, lines: int = 15) -> str:
    """Return the last `lines` of a log for an error's text; empty if there is none."""
    try:
        return "\n".join(path.read_text("utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def make_folder(path: pathlib.Path) -> None:
    """Create `path` and what is missing above it so that another user can pass through (mode 0755)."""
    if path.is_dir():
        return
    make_folder(path.parent)
    try:
        path.mkdir(exist_ok=True)
        # mkdir obeys the umask, and a umask of 077 would shut the unprivileged server out.
        path.chmod(0o755)
    except PermissionError as error:
        raise errors.ConfigurationError(
            f"{path} cannot be created: {error.strerror}. Set DEDUP_DATA_DIR to a folder you own."
        ) from error
