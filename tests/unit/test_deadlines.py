from __future__ import annotations

import socket

import pytest

from core import deadlines

SHORT, LONG = 0.05, 1000.0


def test_a_wait_that_lasts_too_long_is_ended() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, deadlines.Deadlines().limit(ours, SHORT):
        assert ours.recv(1) == b"", "as when the other end is gone"


def test_only_the_one_that_lasts_too_long() -> None:
    limits = deadlines.Deadlines()
    ours, theirs = socket.socketpair()
    slow, silent = socket.socketpair()
    with ours, theirs, slow, silent:
        with limits.limit(ours, SHORT):
            pass
        with limits.limit(ours, LONG), limits.limit(slow, SHORT):
            assert slow.recv(1) == b""
            theirs.send(b"x")
            assert ours.recv(1) == b"x"


def test_a_connection_that_ended_by_itself_disturbs_nobody() -> None:
    limits = deadlines.Deadlines()
    ours, theirs = socket.socketpair()
    slow, silent = socket.socketpair()
    with theirs, slow, silent, limits.limit(ours, SHORT):
        ours.close()
        with limits.limit(slow, 3 * SHORT):
            assert slow.recv(1) == b"", "the thread goes on"


def test_an_error_goes_through() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ValueError, match="ours"), deadlines.Deadlines().limit(ours, LONG):
        raise ValueError("ours")
