"""What a store does to a fetch, by answers that are made by hand: a store does none of it on request."""

from __future__ import annotations

import concurrent.futures
import contextlib
import random
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from core import budgets, errors, objects, settings

HEAD = b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: "e"\r\nConnection: close\r\n\r\n'
GONE = b"<Error><Code>NoSuchKey</Code></Error>"


@pytest.fixture(autouse=True)
def _access(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@contextlib.contextmanager
def store(
    answer: Callable[[socket.socket, threading.Event], None], timeout_seconds: float = 1
) -> Iterator[Any]:
    """A client for a store that answers so; the event is set at the end."""
    end = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client, contextlib.suppress(OSError):
                    client.recv(65_536)
                    answer(client, end)

        thread = threading.Thread(target=serve)
        thread.start()
        config = settings.Settings(
            s3_endpoint_url=f"http://127.0.0.1:{listener.getsockname()[1]}",
            s3_timeout_seconds=timeout_seconds,
        )
        s3 = objects.client(config)
        try:
            yield s3
        finally:
            end.set()
            s3.close()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_whole_object_is_read() -> None:
    with store(lambda client, _: client.sendall(HEAD + b"x" * 1000)) as s3:
        assert objects.fetch(s3, "photos", "a.jpg", 1000) == objects.Object(b"x" * 1000, "e")


def test_a_large_one_is_refused_before_it_is_read() -> None:
    with (
        store(lambda client, _: client.sendall(HEAD)) as s3,
        pytest.raises(errors.PermanentError, match="1000 bytes, more than"),
    ):
        objects.fetch(s3, "photos", "a.jpg", 999)


def test_one_that_is_gone_is_gone() -> None:
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%s" % (len(GONE), GONE)
    with (
        store(lambda client, _: client.sendall(answer)) as s3,
        pytest.raises(errors.PermanentError, match="no longer exists") as caught,
    ):
        objects.fetch(s3, "photos", "a.jpg", 1000)
    assert caught.value.reason == "object_gone"


def test_a_body_that_is_cut_short_is_tried_again() -> None:
    with (
        store(lambda client, _: client.sendall(HEAD + b"x" * 400)) as s3,
        pytest.raises(errors.TransientError, match=r"400 bytes read|400 of 1000"),
    ):
        objects.fetch(s3, "photos", "a.jpg", 1000)


def test_a_body_that_stops_is_tried_again() -> None:
    def stall(client: socket.socket, end: threading.Event) -> None:
        client.sendall(HEAD + b"x")
        end.wait()

    with store(stall) as s3, pytest.raises(errors.TransientError, match="timed out"):
        objects.fetch(s3, "photos", "a.jpg", 1000)


def test_a_body_that_trickles_is_given_up() -> None:
    """Each byte comes long before the patience with a silent store ends."""

    def trickle(client: socket.socket, end: threading.Event) -> None:
        client.sendall(HEAD)
        while not end.wait(0.5):
            client.sendall(b"x")

    with (
        store(trickle, timeout_seconds=30) as s3,
        pytest.raises(errors.TransientError, match=r"comes too slowly: .*DEDUP_S3_FETCH_TIMEOUT_SECONDS"),
    ):
        objects.fetch(s3, "photos", "a.jpg", 1000, timeout_seconds=0.3)


def test_what_does_not_fit_waits_before_its_body_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_MEMORY", budgets.Budget(1500))
    asked = threading.Event()
    whole = objects._MEMORY.hold

    def hold(amount: int, patience_seconds: float) -> contextlib.AbstractContextManager[bool]:
        asked.set()
        return whole(amount, patience_seconds)

    with (
        store(lambda client, _: client.sendall(HEAD + b"x" * 1000)) as s3,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):

        def second() -> int:
            with objects.fetched(s3, "photos", "b.jpg", 1000) as found:
                return len(found.data)

        with objects.fetched(s3, "photos", "a.jpg", 1000) as found:
            assert len(found.data) == 1000
            assert objects._MEMORY._free == 500
            monkeypatch.setattr(objects._MEMORY, "hold", hold)
            later = pool.submit(second)
            assert asked.wait(60)
            assert not later.done()
        assert later.result(60) == 1000
    assert objects._MEMORY._free == 1500


@pytest.mark.parametrize("later_length", [400, 1000, 1100])
def test_what_waits_long_does_so_without_an_open_answer(
    monkeypatch: pytest.MonkeyPatch, later_length: int
) -> None:
    """The answer is closed, the memory waited for, and the object asked for again, whatever it is then."""
    monkeypatch.setattr(objects, "_MEMORY", budgets.Budget(1500))
    monkeypatch.setattr(objects, "_OPEN_SECONDS", 0.01)
    asked = 0
    closed = threading.Event()

    def answer(client: socket.socket, _: threading.Event) -> None:
        nonlocal asked
        asked += 1
        length = 1000 if asked == 1 else later_length
        client.sendall(HEAD.replace(b"1000", b"%d" % length))
        if asked == 1:
            # Nothing more is sent, so that only the client can end it.
            client.settimeout(60)
            assert client.recv(1) == b""
            closed.set()
        else:
            client.sendall(b"x" * length)

    def fetch(s3: Any) -> int:
        with objects.fetched(s3, "photos", "a.jpg", 2000) as found:
            assert objects._MEMORY._free == 500
            return len(found.data)

    with (
        store(answer, timeout_seconds=30) as s3,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        with objects._MEMORY.hold(1000):
            later = pool.submit(fetch, s3)
            assert closed.wait(60)
            assert not later.done()
        if later_length > 1000:
            with pytest.raises(errors.TransientError, match="replaced by a larger one"):
                later.result(60)
        else:
            assert later.result(60) == later_length
    assert asked == 2
    assert objects._MEMORY._free == 1500


def test_a_fetch_takes_its_length_once() -> None:
    length = 8_000_000
    body = random.Random(0).randbytes(length)
    answer = HEAD.replace(b"1000", b"%d" % length) + body
    with store(lambda client, _: client.sendall(answer)) as s3:
        tracemalloc.start()
        try:
            found = objects.fetch(s3, "photos", "a.jpg", length)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert found.data == body
    assert peak < 1.5 * length


def test_nothing_is_read_of_an_empty_one() -> None:
    with store(lambda client, _: client.sendall(HEAD.replace(b"1000", b"0"))) as s3:
        assert objects.fetch(s3, "photos", "a.jpg", 1000).data == b""


@pytest.mark.parametrize(("in_flight", "total"), [(1, 100_000_000), (20, 100_000_000), (192, 960_000_000)])
def test_photos_in_flight_have_memory_enough_to_fill_batches(
    monkeypatch: pytest.MonkeyPatch, in_flight: int, total: int
) -> None:
    monkeypatch.setattr(objects, "_MEMORY", objects._MEMORY)
    objects.share_memory(in_flight)
    assert objects._MEMORY._free == total


def test_a_fetch_that_fails_gives_back_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_MEMORY", budgets.Budget(3000))
    with (
        store(lambda client, _: client.sendall(HEAD + b"x" * 400)) as s3,
        pytest.raises(errors.TransientError),
        objects.fetched(s3, "photos", "a.jpg", 1000),
    ):
        pass
    assert objects._MEMORY._free == 3000
