"""A database that stands still in the middle: every wait for it ends."""

from __future__ import annotations

import contextlib
import pathlib
import urllib.parse
from collections.abc import Callable, Iterator

import psycopg
import pytest

from core import database, errors, notifications
from tests.acceptance import proxy
from workers import embedded_postgres

STATEMENT_SECONDS = 1.0


@pytest.fixture
def server(open_tmp: pathlib.Path) -> Iterator[embedded_postgres.EmbeddedPostgres]:
    server = embedded_postgres.EmbeddedPostgres(open_tmp)
    server.start()
    server.install_extensions()
    yield server
    server.stop()


@pytest.fixture
def way(server: embedded_postgres.EmbeddedPostgres) -> Iterator[tuple[proxy.Proxy, str]]:
    parts = urllib.parse.urlsplit(server.url())
    assert parts.hostname
    assert parts.port
    with proxy.Proxy((parts.hostname, parts.port)) as way:
        yield way, server.url().replace(f":{parts.port}", f":{way.port}", 1)


def _freeze_before_statement(base: database.Database, between: proxy.Proxy) -> None:
    with base.transaction() as connection:
        between.freeze()
        connection.execute("SELECT 1")


def _freeze_before_commit(base: database.Database, between: proxy.Proxy) -> None:
    with base.transaction() as connection:
        connection.execute("SELECT 1")
        between.freeze()


def _freeze_before_rollback(base: database.Database, between: proxy.Proxy) -> None:
    with base.transaction() as connection:
        connection.execute("SELECT 1")
        between.freeze()
        raise RuntimeError("the block's own error")


@pytest.mark.parametrize(
    ("freeze", "raised"),
    [
        (_freeze_before_statement, errors.TransientError),
        (_freeze_before_commit, errors.TransientError),
        (_freeze_before_rollback, RuntimeError),
    ],
)
def test_every_wait_in_a_transaction_ends(
    way: tuple[proxy.Proxy, str],
    freeze: Callable[[database.Database, proxy.Proxy], None],
    raised: type[Exception],
) -> None:
    between, url = way
    base = database.Database(url, pool_size=1, wait_seconds=5, statement_seconds=STATEMENT_SECONDS)
    with contextlib.closing(base):
        with pytest.raises(raised):
            freeze(base, between)
        between.mend()
        with base.transaction() as connection:
            assert connection.execute("SELECT 1 AS one").fetchone() == {"one": 1}


def test_a_statement_is_ended_by_the_server(way: tuple[proxy.Proxy, str]) -> None:
    _, url = way
    base = database.Database(url, pool_size=1, statement_seconds=STATEMENT_SECONDS)
    with (
        contextlib.closing(base),
        pytest.raises(errors.TransientError, match="statement timeout"),
        base.transaction() as connection,
    ):
        connection.execute("SELECT pg_sleep(60)")


def test_a_question_and_a_listener_end(way: tuple[proxy.Proxy, str]) -> None:
    between, url = way
    between.freeze()
    with pytest.raises(errors.TransientError, match="see DEDUP_DATABASE_URL"):
        database.ask(url, b"SELECT 1")
    with notifications.Listener(url, "nothing") as listener:
        assert not listener.wait(0.1)
        between.mend()
        assert listener.wait(5), "a new connection counts as a notification"
        assert not listener.wait(0.1)


def test_a_connection_that_the_server_ended_just_now_is_not_given_out(
    server: embedded_postgres.EmbeddedPostgres,
) -> None:
    base = database.Database(server.url(), pool_size=1)
    with contextlib.closing(base):
        with base.transaction() as connection:
            ended = connection.info.backend_pid
        with base.transaction() as connection:
            assert connection.info.backend_pid == ended
        with psycopg.connect(server.url(), autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 60000)", [ended])
        with base.transaction() as connection:
            assert connection.info.backend_pid != ended


def test_a_server_that_only_reads_is_an_outage_and_its_connection_is_let_go(
    server: embedded_postgres.EmbeddedPostgres,
) -> None:
    base = database.Database(server.url(), pool_size=1)
    with contextlib.closing(base):
        with base.transaction() as connection:
            # As a primary that was demoted behind an open connection.
            connection.execute("SET default_transaction_read_only = on")
        with pytest.raises(errors.TransientError, match="read-only"), base.transaction() as connection:
            connection.execute("CREATE TABLE written (id integer)")
        with base.transaction() as connection:
            connection.execute("CREATE TABLE written (id integer)")


def test_a_transaction_that_the_server_ended_for_its_length_is_an_outage(
    server: embedded_postgres.EmbeddedPostgres,
) -> None:
    base = database.Database(server.url(), pool_size=1)
    with contextlib.closing(base):
        with base.transaction() as connection:
            connection.execute("SET transaction_timeout = '50ms'")
        with (
            pytest.raises(errors.TransientError, match="TransactionTimeout"),
            base.transaction() as connection,
        ):
            connection.execute("SELECT pg_sleep(60)")
        with pytest.raises(errors.TransientError, match="InTransaction"), base.transaction():
            raise psycopg.errors.IdleInTransactionSessionTimeout("terminating connection")
        with base.transaction() as connection:
            assert connection.execute("SELECT 1 AS one").fetchone() == {"one": 1}


@pytest.mark.parametrize(("generic", "mode"), [(False, "auto"), (True, "force_generic_plan")])
def test_statements_may_be_planned_once(
    server: embedded_postgres.EmbeddedPostgres, *, generic: bool, mode: str
) -> None:
    base = database.Database(server.url(), pool_size=1, generic_plans=generic)
    with contextlib.closing(base), base.transaction() as connection:
        assert connection.execute("SHOW plan_cache_mode").fetchone() == {"plan_cache_mode": mode}
