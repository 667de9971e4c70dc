"""The end of an embed worker whose device is lost, and what is seen of one whose device hangs."""

from __future__ import annotations

import contextlib
import pathlib
import socket
import subprocess
from collections.abc import Iterator

import pytest

from workers import processes

from . import brokers, faulty, faulty_device, pictures
from . import system as acceptance

STUCK_SECONDS = 5


@pytest.fixture
def fault(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "fault"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _worker(
    system: acceptance.System, name: str, fault: pathlib.Path, settings: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    variables = {**system.stack.environment, **settings, faulty_device.FILE: str(fault)}
    with acceptance.process(
        system.stack.log_file(name), "worker", "embed", module=faulty_device.__name__, **variables
    ) as started:
        yield started


def _upload(system: acceptance.System, broker: brokers.Broker, property_id: str) -> None:
    etag = system.upload(property_id, "a.jpg", pictures.jpeg("bedroom"), broker.bucket)
    record = acceptance.record(
        "ObjectCreated:Put", acceptance.key_of(property_id, "a.jpg"), bucket=broker.bucket, etag=etag
    )
    assert broker.send
    broker.send({"Records": [record]})


@contextlib.contextmanager
def _ingest(system: acceptance.System, broker: brokers.Broker, property_id: str) -> Iterator[None]:
    # The stack's own sweeper would give what waits long to workers whose device is sound.
    with (
        acceptance.halted(system, "sweep"),
        system.process(f"{property_id}-ingest", "ingest", **broker.settings()),
    ):
        acceptance.until(broker.event_queue_exists, "ingest runs")
        yield


@pytest.mark.slow
def test_lost_device_ends_the_process_and_the_next_one_goes_on(
    system: acceptance.System, rabbitmq: brokers.Broker, property_id: str, fault: pathlib.Path
) -> None:
    fault.write_text("lost", encoding="ascii")
    settings = rabbitmq.settings()
    with _ingest(system, rabbitmq, property_id):
        with _worker(system, f"{property_id}-embed", fault, settings) as worker:
            _upload(system, rabbitmq, property_id)
            assert worker.wait(acceptance.DEADLINE_SECONDS) == processes.EXIT_AWAY
        log = system.log(f"{property_id}-embed")
        (line,) = [line for line in log if line["event"] == "device_lost"]
        assert "illegal memory access" in line["error"]
        assert system.photo(property_id, "a.jpg")["attempts"] == 1, "its end was not seen"
        with _worker(system, f"{property_id}-embed", fault, settings):
            acceptance.until(
                lambda: system.statuses(property_id) == {"a.jpg": "embedded"}, "the next process embeds it"
            )
    assert system.photo(property_id, "a.jpg")["attempts"] == 0
    log = system.log(f"{property_id}-embed")
    (line,) = [line for line in log if line["event"] == "photo_lost_its_worker"]
    assert (line["property_id"], line["times"]) == (property_id, 1)


@pytest.mark.slow
def test_hanging_device_is_a_reason_to_start_the_process_anew(
    system: acceptance.System, rabbitmq: brokers.Broker, property_id: str, fault: pathlib.Path
) -> None:
    port = _free_port()
    settings = {
        **rabbitmq.settings(),
        "DEDUP_HEALTH_HOST": "127.0.0.1",
        "DEDUP_HEALTH_PORT": str(port),
        "DEDUP_HEALTH_STUCK_SECONDS": str(STUCK_SECONDS),
    }
    fault.write_text("hangs", encoding="ascii")
    live = f"http://127.0.0.1:{port}/livez"

    def reasons() -> list[str]:
        try:
            return list(faulty.ask(live)[1]["reasons"])
        except OSError:
            return []

    with _ingest(system, rabbitmq, property_id), _worker(system, f"{property_id}-embed", fault, settings):
        _upload(system, rabbitmq, property_id)
        acceptance.until(
            lambda: any("forward pass in hand, and none was ended" in reason for reason in reasons()),
            "it asks to be started anew",
        )
        asked = system.dedup("health", "--live", **settings)
        assert (asked.returncode, "forward pass in hand" in asked.stdout) == (1, True), asked.stderr
        assert system.statuses(property_id) == {"a.jpg": "pending"}
        fault.unlink()
        acceptance.until(
            lambda: system.statuses(property_id) == {"a.jpg": "embedded"}, "the device goes on, and it does"
        )
        # Of seconds only: on a busy machine its loop may be late for a moment.
        acceptance.until(
            lambda: system.dedup("health", "--live", **settings).returncode == 0,
            "it is well, by the command, too",
        )
    assert system.dedup("health", **settings).returncode == 75, "nobody answers any more"
