from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading

import pytest
import typer.testing

from core import errors, settings
from tests.clock import Clock
from workers import health, health_cli

STUCK_SECONDS = 60.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def monitor(clock: Clock) -> health.Monitor:
    monitor = health.Monitor(clock)
    monitor.ready()
    return monitor


def both(monitor: health.Monitor) -> tuple[list[str], list[str]]:
    return monitor.stuck(STUCK_SECONDS), monitor.unwell(STUCK_SECONDS)


def test_an_idle_process_is_well(monitor: health.Monitor, clock: Clock) -> None:
    clock.now += 1e6
    assert both(monitor) == ([], [])


def test_a_process_that_starts_is_not_well_but_not_to_be_started_anew(clock: Clock) -> None:
    monitor = health.Monitor(clock)
    clock.now += 70
    assert both(monitor) == ([], ["starting for 70 s"])


def test_work_in_hand_of_which_none_ends_is_stuck(monitor: health.Monitor, clock: Clock) -> None:
    with monitor.working(), monitor.working():
        clock.now += STUCK_SECONDS
        assert both(monitor) == ([], [])
        clock.now += 1
        reason = "2 photo in hand, and none was ended for 61 s"
        assert both(monitor) == ([reason], [reason])
    assert both(monitor) == ([], [])
    assert monitor.done == 2


def test_work_that_fails_has_ended(monitor: health.Monitor, clock: Clock) -> None:
    with contextlib.suppress(ValueError), monitor.working():
        raise ValueError
    clock.now += 2 * STUCK_SECONDS
    assert both(monitor) == ([], [])


def test_one_that_hangs_while_others_pass_is_told_but_no_reason_to_start_anew(
    monitor: health.Monitor, clock: Clock
) -> None:
    with monitor.working():
        for _ in range(3):
            with monitor.working():
                clock.now += STUCK_SECONDS / 2
        assert both(monitor) == ([], ["1 photo in hand for up to 90 s, while others pass"])


def test_work_after_a_long_rest_is_not_stuck_at_once(monitor: health.Monitor, clock: Clock) -> None:
    with monitor.working():
        pass
    clock.now += 1e6
    with monitor.working():
        assert both(monitor) == ([], [])


def test_each_kind_of_work_counts_alone(monitor: health.Monitor, clock: Clock) -> None:
    with monitor.working("forward pass"):
        clock.now += STUCK_SECONDS + 1
        with monitor.working("photo"):
            pass
        assert monitor.stuck(STUCK_SECONDS) == ["1 forward pass in hand, and none was ended for 61 s"]


def test_a_loop_that_stands_still_is_stuck_unless_it_rests_or_waits(
    monitor: health.Monitor, clock: Clock
) -> None:
    monitor.turned("sweep", pause_seconds=3600)
    clock.now += 3600
    assert both(monitor) == ([], [])
    clock.now += STUCK_SECONDS + 1
    assert monitor.stuck(STUCK_SECONDS) == ["the sweep loop has stood still for 3661 s"]
    monitor.waits("sweep")
    assert both(monitor) == ([], [])


def test_an_ended_thread_is_a_reason_to_start_anew(monitor: health.Monitor) -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="batcher")
    thread.start()
    monitor.needs(thread)
    assert both(monitor) == ([], [])
    end.set()
    thread.join()
    assert monitor.stuck(STUCK_SECONDS) == ["the thread batcher has ended"]


def test_a_part_that_is_away_is_told_since_when_but_no_reason_to_start_anew(
    monitor: health.Monitor, clock: Clock
) -> None:
    monitor.away("database", "refused")
    clock.now += 5
    monitor.away("database", "no answer")
    clock.now += 5
    assert both(monitor) == ([], ["database away for 10 s: no answer"])
    monitor.back("database")
    assert both(monitor) == ([], [])


def test_work_that_only_fails_is_told_until_some_succeeds_but_no_reason_to_start_anew(
    monitor: health.Monitor, clock: Clock
) -> None:
    monitor.failed("dedup.embed", "No memory")
    clock.now += 5
    monitor.failed("dedup.embed", "forbidden")
    monitor.succeeded("dedup.match")
    assert both(monitor) == ([], ["no dedup.embed has succeeded for 5 s: forbidden"])
    monitor.succeeded("dedup.embed")
    assert both(monitor) == ([], [])
    monitor.failed("dedup.embed", "forbidden")
    clock.now += 1
    assert both(monitor) == ([], ["no dedup.embed has succeeded for 1 s: forbidden"]), "counted anew"


def test_a_process_whose_failed_work_went_elsewhere_is_idle_and_well(
    monitor: health.Monitor, clock: Clock
) -> None:
    monitor.failed("dedup.embed", "forbidden")
    clock.now += STUCK_SECONDS
    assert monitor.unwell(STUCK_SECONDS)
    clock.now += 1
    assert both(monitor) == ([], [])


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, monitor: health.Monitor) -> settings.Settings:
    monkeypatch.setattr(health, "process", monitor)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return settings.Settings(
        health_port=port, health_host="127.0.0.1", health_stuck_seconds=60, health_probe_seconds=0.01
    )


def get(config: settings.Settings, path: str) -> tuple[int, dict[str, object]]:
    assert config.health_port
    connection = http.client.HTTPConnection(config.health_host, config.health_port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_it_is_told_over_http_with_what_the_probes_find(
    served: settings.Settings, monitor: health.Monitor
) -> None:
    away, seen = threading.Event(), threading.Semaphore(0)

    def probe() -> None:
        seen.release()
        if away.is_set():
            raise errors.TransientError("no answer from the database")

    def look() -> None:
        # The second look from here has begun, so the first one's result is there.
        while seen.acquire(blocking=False):
            pass
        seen.acquire()
        seen.acquire()

    def metrics(environ: object, start_response: object) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])  # type: ignore[operator]
        return [b'{"metrics": 1}']

    health.serve(served, {"database": probe}, {"/metrics": metrics})
    look()
    assert get(served, "/healthz") == (200, {"status": "well", "reasons": [], "done": 0})
    assert get(served, "/metrics") == (200, {"metrics": 1})
    assert get(served, "/") == (404, {"paths": ["/healthz", "/livez", "/metrics"]})
    away.set()
    look()
    status, told = get(served, "/healthz")
    assert (status, told["status"]) == (503, "unwell")
    assert told["reasons"] == ["database away for 0 s: no answer from the database"]
    assert get(served, "/livez")[0] == 200
    away.clear()
    look()
    assert get(served, "/healthz")[0] == 200


def test_a_port_that_is_taken_is_named(served: settings.Settings) -> None:
    health.serve(served, {})
    with pytest.raises(errors.TransientError, match=r"DEDUP_HEALTH_PORT.*cannot be had"):
        health.serve(served, {})


def test_the_command_asks(
    served: settings.Settings, monitor: health.Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "get", lambda: served)
    app = typer.Typer()
    app.callback()(lambda: None)
    health_cli.register(app)
    run = typer.testing.CliRunner().invoke
    assert isinstance(run(app, ["health"]).exception, errors.TransientError), "nobody answers yet"
    health.serve(served, {})
    assert run(app, ["health"]).exit_code == 0
    monitor.away("store", "503")
    told = run(app, ["health"])
    assert (told.exit_code, "store away" in told.stdout) == (1, True)
    assert run(app, ["health", "--live"]).exit_code == 0
    address = f"http://127.0.0.1:{served.health_port}"
    assert run(app, ["health", "--url", address]).stdout == told.stdout
    assert run(app, ["health", "--live", "--url", address]).exit_code == 0
    assert run(app, ["health", "--url", f"{address}/livez"]).exit_code == 0
    wrong = run(app, ["health", "--url", f"{address}/"])
    assert isinstance(wrong.exception, errors.TransientError)
    assert isinstance(run(app, ["health", "--url", "127.0.0.1"]).exception, errors.ConfigurationError)
