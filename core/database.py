"""Postgres: one pool a process, the named queries, and every database failure sorted into two kinds."""

from __future__ import annotations

import contextlib
import functools
import importlib.resources
import logging
import re
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pgvector.psycopg
import psycopg
import psycopg_pool
from psycopg import rows

from core import deadlines, errors, observations

Row = dict[str, Any]
Connection = psycopg.Connection[Row]
Cursor = psycopg.Cursor[Row]

CONNECTION: dict[str, Any] = {
    "application_name": "listing-dedup",
    # A host that is gone is noticed within a minute, whether we wait for it or send to it.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "connect_timeout": 10,
}
"""Parameters of libpq for every connection of a worker."""

STATEMENT_SECONDS = 120.0
_CHECK_SECONDS = 10.0
_FRESH_SECONDS = 1.0
_ASK_SECONDS = 10.0
_TRANSIENT = (
    psycopg.OperationalError,  # connection lost, server starting or stopping, lock and statement timeouts
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.ReadOnlySqlTransaction,  # a primary that was demoted, or whose disk is nearly full
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.TransactionTimeout,
    psycopg_pool.PoolTimeout,
)


class _PoolConnection(psycopg.Connection[Row]):
    """A connection that knows when the server last did something for it."""

    answered_at = 0.0


_UNFIT = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.InsufficientPrivilege,
)
_UNFIT_REMEDY = "Run `dedup migrate`, and log in as a member of dedup_worker (see DEDUP_DATABASE_URL)."

# The pool tells its own log of each attempt; whoever waits for it gets the cause as an error.
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


@functools.cache
def _queries() -> dict[str, str]:
    text = importlib.resources.files("core").joinpath("queries.sql").read_text(encoding="utf-8")
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))


@functools.cache
def query(name: str) -> bytes:
    """The SQL of a named query of ``queries.sql`` (KeyError: there is none of that name)."""
    return _queries()[name].encode()


class Database:
    """A pool of connections to one database, opened lazily; thread-safe, to be made once a process."""

    def __init__(
        self,
        url: str,
        pool_size: int = 4,
        wait_seconds: float = 30.0,
        statement_seconds: float = STATEMENT_SECONDS,
        *,
        generic_plans: bool = False,
    ) -> None:
        """A statement may take `statement_seconds`; a server that leaves a transaction without an end for half as
        long again is taken for lost. `generic_plans`: none is planned anew for each value, which is for those who look
        rows up by their keys: by default Postgres does so where they are in an array.
        """
        self._statement_seconds = statement_seconds
        self._pool = psycopg_pool.ConnectionPool(
            url,
            min_size=1,
            max_size=pool_size,
            timeout=wait_seconds,
            open=False,
            check=_check,
            configure=functools.partial(
                _configure, statement_seconds=statement_seconds, generic_plans=generic_plans
            ),
            connection_class=_PoolConnection,
            kwargs={"row_factory": rows.dict_row, "autocommit": False, **CONNECTION},
        )
        self._url = url

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction: committed at the end of the block, rolled back if it raises.

        What is observed in it is told after the commit.

        Raises:
            TransientError: the database is away, or asks to try again.
            ConfigurationError: it lacks a table, or the login the right to it.
        """
        try:
            self._pool.open()
            with (
                observations.until_certain(),
                self._pool.connection() as connection,
                deadlines.process.limit(connection, 1.5 * self._statement_seconds),
            ):
                # Ended here and not by the pool, so that the limit holds for that, too.
                try:
                    yield connection
                except BaseException as error:
                    with contextlib.suppress(psycopg.Error):
                        connection.rollback()
                    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
                        # The pool makes a new one, which leads to whoever is the primary by now.
                        connection.close()
                    raise
                connection.commit()
                connection.answered_at = time.monotonic()
        except psycopg_pool.PoolTimeout as error:
            # The pool keeps the cause to its own log; a connection of one's own tells it.
            ask(self._url, b"SELECT 1")
            raise errors.TransientError(
                f"Database: all {self._pool.max_size} connections stayed in use; see DEDUP_DATABASE_POOL_SIZE."
            ) from error
        except _TRANSIENT as error:
            raise errors.TransientError(f"Database: {type(error).__name__}: {error}") from error
        except _UNFIT as error:
            raise errors.ConfigurationError(f"Database: {error}. {_UNFIT_REMEDY}") from error


def execute(connection: Connection, name: str, /, **parameters: object) -> Cursor:
    """Run a named query."""
    return connection.execute(query(name), parameters)


def execute_binary(connection: Connection, name: str, /, **parameters: object) -> Cursor:
    """Run a named query whose rows hold embeddings: as text, reading one takes a hundred times as long."""
    return connection.execute(query(name), parameters, binary=True)


def halfvecs(sent: bytes, count: int) -> npt.NDArray[np.float32]:
    """(count, dims) float32 of finite halfvecs as pgvector's `halfvec_send` gives them, one after the other.

    Each is its dims and a zero as int16, then big-endian float16 (pgvector, src/halfvec.c).
    """
    bits = np.frombuffer(sent, dtype=">i2").reshape(count, -1)[:, 2:].astype(np.int32)
    # Faster than astype(float32) of float16: sign, exponent and fraction to their places, and the exponent counts from
    # another zero.
    bits <<= 13
    bits &= ~0x70000000
    values: npt.NDArray[np.float32] = bits.view(np.float32)
    values *= np.float32(2.0**112)
    return values


def execute_many(connection: Connection, name: str, rows: Sequence[Row]) -> None:
    """Run a named query without results once for each row of parameters, in one round trip."""
    with connection.cursor() as cursor:
        cursor.executemany(query(name), rows)


def commit(connection: Connection) -> None:
    """Commit a `Database.transaction` together with the last statements of a pipeline: its own takes a round trip more.

    Nothing may follow in its block.
    """
    connection.execute("COMMIT")


def ask(url: str, statement: bytes) -> Row | None:
    """First row of a statement, on a connection of its own, without the extension's types.

    Raises:
        TransientError: the database is away; says so within seconds.
        ConfigurationError: it has no such table, or the login may not read it.
    """
    try:
        with (
            psycopg.connect(
                url, **(CONNECTION | {"connect_timeout": 5}), row_factory=rows.dict_row
            ) as connection,
            deadlines.process.limit(connection, _ASK_SECONDS),
        ):
            return connection.execute(statement).fetchone()
    except _TRANSIENT as error:
        raise errors.TransientError(f"Database: {error}; see DEDUP_DATABASE_URL.") from error
    except _UNFIT as error:
        raise errors.ConfigurationError(f"Database: {error}. {_UNFIT_REMEDY}") from error


def _check(connection: _PoolConnection) -> None:
    """Raise where the server has left a connection. One that it answered on just now is only looked at, not asked."""
    if time.monotonic() - connection.answered_at < _FRESH_SECONDS:
        # A server that ends a connection says so on it, and closes it: there is something to read.
        look = select.poll()
        look.register(connection.fileno(), select.POLLIN)
        if not look.poll(0):
            return
    with deadlines.process.limit(connection, _CHECK_SECONDS):
        psycopg_pool.ConnectionPool.check_connection(connection)


def _configure(connection: Connection, statement_seconds: float, *, generic_plans: bool) -> None:
    # Matching reads what was committed while it waited for the property's lock.
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    limits = {
        "lock_timeout": min(30.0, statement_seconds),
        "statement_timeout": statement_seconds,
        # A host that lost power must not keep a property locked until TCP notices, hours later.
        "idle_in_transaction_session_timeout": 60.0,
    }
    values = {name: str(max(1, round(1000 * seconds))) for name, seconds in limits.items()}
    if generic_plans:
        values["plan_cache_mode"] = "force_generic_plan"
    with deadlines.process.limit(connection, _CHECK_SECONDS):
        for name, value in values.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        pgvector.psycopg.register_vector(connection)
        connection.commit()
