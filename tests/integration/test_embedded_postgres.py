from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator

import psycopg
import pytest

from core import errors
from workers import embedded, embedded_host, embedded_postgres, embedded_programs

ROOT = pathlib.Path(__file__).parents[2]
START = """
import json, pathlib, sys
from workers import embedded_postgres
server = embedded_postgres.EmbeddedPostgres(pathlib.Path(sys.argv[1]))
started = server.start()
server.install_extensions()
print(json.dumps([started, server.url()]))
"""


@pytest.fixture
def server(open_tmp: pathlib.Path) -> Iterator[embedded_postgres.EmbeddedPostgres]:
    server = embedded_postgres.EmbeddedPostgres(open_tmp)
    yield server
    server.stop()


def postmaster(folder: pathlib.Path) -> int:
    return int((folder / "postgres" / "cluster" / "postmaster.pid").read_text().split()[0])


def query(url: str, text: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(text.encode()).fetchall()


def execute(url: str, text: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(text.encode())


def test_only_the_first_start_starts_and_the_second_is_quick(
    server: embedded_postgres.EmbeddedPostgres,
) -> None:
    assert not server.is_running()
    assert server.start()
    begun = time.monotonic()
    assert not server.start()
    assert time.monotonic() - begun < 1
    assert server.is_running()
    assert query(server.url(), "SELECT current_database(), current_user") == [("dedup", "dedup_owner")]
    assert query(server.url(), "SHOW fsync") == [("on",)]
    assert query(server.url(), "SHOW listen_addresses") == [("127.0.0.1",)]
    server.stop()
    assert not server.is_running()
    server.stop()


def die_after_launch(
    server: embedded_postgres.EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, folder: pathlib.Path
) -> None:
    """Have the server's next launch be followed by its death at once; the one after that is a good one."""
    launch = server._launch

    def and_die(programs: pathlib.Path, account: embedded_programs.Account | None) -> None:
        launch(programs, account)
        os.kill(postmaster(folder), signal.SIGKILL)
        monkeypatch.setattr(server, "_launch", launch)

    monkeypatch.setattr(server, "_launch", and_die)


def test_a_server_that_dies_right_after_its_start_is_away_and_comes_back(
    server: embedded_postgres.EmbeddedPostgres, open_tmp: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    die_after_launch(server, monkeypatch, open_tmp)
    with pytest.raises(errors.TransientError, match="right after its start"):
        server.start()
    assert server.start()
    assert server.is_running()


def test_the_stack_starts_a_database_again_that_dies_right_after_its_start(
    open_tmp: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = embedded.Stack(open_tmp)
    # Only what is supervised here: the database, with the store beside it.
    monkeypatch.setattr(embedded, "WORKERS", {})
    with stack:
        pid = postmaster(open_tmp)
        die_after_launch(stack.postgres, monkeypatch, open_tmp)
        os.kill(pid, signal.SIGKILL)
        assert embedded_host.wait_until(lambda: _started_by_another(stack, pid, open_tmp), 60)
        stack.check()
        assert stack._watcher.is_alive()


def _started_by_another(stack: embedded.Stack, pid: int, folder: pathlib.Path) -> bool:
    try:
        return stack.postgres.is_running() and postmaster(folder) != pid
    except (FileNotFoundError, IndexError):
        return False


def test_a_supervisor_that_ends_says_so(open_tmp: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "WORKERS", {})

    def fail() -> bool:
        raise RuntimeError("what nobody thought of")

    with embedded.Stack(open_tmp) as stack:
        monkeypatch.setattr(stack.postgres, "start", fail)
        stack._watcher.join(30)
        with pytest.raises(errors.ConfigurationError, match="RuntimeError: what nobody thought of"):
            stack.check()


def test_extensions_work_and_are_installed_once(server: embedded_postgres.EmbeddedPostgres) -> None:
    server.start()
    server.install_extensions()
    server.install_extensions()
    url = server.url()
    assert query(url, "SELECT current_setting('dedup.embedded')") == [("on",)]
    distance = query(url, "SELECT '[1,0]'::halfvec(2) <=> '[0,1]'::halfvec(2)")
    assert distance == [(1.0,)]
    execute(url, "SELECT pgmq.create('embed')")
    execute(url, """SELECT pgmq.send('embed', '{"photo": 7}')""")
    assert query(url, "SELECT message FROM pgmq.read('embed', 30, 1)") == [({"photo": 7},)]


def test_no_password_no_entry(server: embedded_postgres.EmbeddedPostgres, open_tmp: pathlib.Path) -> None:
    server.start()
    execute(server.url(), "CREATE ROLE dedup_reader")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.url("dedup_reader"))
    server.allow_login("dedup_reader")
    assert query(server.url("dedup_reader"), "SELECT current_user") == [("dedup_reader",)]
    port = embedded_host.read_port(open_tmp / "postgres" / "port")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(f"postgresql://dedup_owner@127.0.0.1:{port}/dedup")
    secret = open_tmp / "postgres" / "secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_killed_postmaster_keeps_data_and_port(
    server: embedded_postgres.EmbeddedPostgres, open_tmp: pathlib.Path
) -> None:
    server.start()
    url = server.url()
    execute(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    os.kill(postmaster(open_tmp), signal.SIGKILL)
    assert server.start()
    assert server.url() == url
    assert query(url, "SELECT answer FROM kept") == [(42,)]


def test_taken_port_is_replaced(server: embedded_postgres.EmbeddedPostgres, open_tmp: pathlib.Path) -> None:
    server.start()
    server.stop()
    port = embedded_host.read_port(open_tmp / "postgres" / "port")
    assert port is not None
    with socket.create_server((embedded_host.HOST, port)):
        assert server.start()
        assert embedded_host.read_port(open_tmp / "postgres" / "port") != port
        assert query(server.url(), "SELECT 1") == [(1,)]


def test_lost_port_file_is_restored(
    server: embedded_postgres.EmbeddedPostgres, open_tmp: pathlib.Path
) -> None:
    server.start()
    url = server.url()
    (open_tmp / "postgres" / "port").unlink()
    with pytest.raises(errors.ConfigurationError):
        server.url()
    assert not server.start()
    assert server.url() == url


def test_racing_starters_share_one_server(
    server: embedded_postgres.EmbeddedPostgres, open_tmp: pathlib.Path
) -> None:
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", START, str(open_tmp)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    results = [json.loads(starter.communicate(timeout=120)[0]) for starter in starters]
    assert sorted(started for started, _ in results) == [False, False, True]
    assert {url for _, url in results} == {server.url()}
    assert server.is_running(), "the server outlives the process that started it"


def test_killed_starter_leaves_nothing_half_made(
    server: embedded_postgres.EmbeddedPostgres, open_tmp: pathlib.Path
) -> None:
    with subprocess.Popen([sys.executable, "-c", START, str(open_tmp)], cwd=ROOT) as starter:
        assert embedded_host.wait_until((open_tmp / "postgres" / "cluster.tmp").exists, 60)
        starter.kill()
    server.start()
    assert query(server.url(), "SELECT 1") == [(1,)]


def test_other_major_version_is_refused(
    server: embedded_postgres.EmbeddedPostgres, open_tmp: pathlib.Path
) -> None:
    server.start()
    server.stop()
    version = open_tmp / "postgres" / "cluster" / "PG_VERSION"
    version.write_text("17\n")
    with pytest.raises(errors.ConfigurationError, match="Postgres 17"):
        server.start()


def test_url_before_the_first_start_is_refused(open_tmp: pathlib.Path) -> None:
    with pytest.raises(errors.ConfigurationError, match="started"):
        embedded_postgres.EmbeddedPostgres(open_tmp).url()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user")
def test_folder_out_of_reach_is_named(open_tmp: pathlib.Path) -> None:
    closed = open_tmp / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(errors.ConfigurationError, match=rf"{closed}\..*DEDUP_DATA_DIR"):
        embedded_postgres.EmbeddedPostgres(closed / "data").start()
