"""Real servers for the tests, over folders that a server under another user can reach."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from core import database, schema
from workers import embedded_postgres


@contextlib.contextmanager
def _open_folder() -> Iterator[pathlib.Path]:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="dedup-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def open_tmp() -> Iterator[pathlib.Path]:
    """An empty folder with mode 0755; pytest's own tmp_path has parents that only its user can pass."""
    with _open_folder() as folder:
        yield folder


@dataclasses.dataclass(frozen=True)
class Server:
    """A running Postgres with pgvector, on which tests make databases of their own."""

    postgres: embedded_postgres.EmbeddedPostgres

    def url(self, name: str, user: str = embedded_postgres.OWNER) -> str:
        """A login to a database."""
        return self.postgres.url(user, name)

    @contextlib.contextmanager
    def database(self, name: str, *, migrate: bool = True) -> Iterator[str]:
        """A database of its own for one test module; gives the owner's login."""
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        if migrate:
            schema.upgrade(self.url(name))
            for role in ("dedup_worker", "dedup_reader", "dedup_editor"):
                self.postgres.allow_login(role)
        yield self.url(name)
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One Postgres for the whole run."""
    with _open_folder() as folder:
        postgres = embedded_postgres.EmbeddedPostgres(folder)
        postgres.start()
        yield Server(postgres)
        postgres.stop()


@pytest.fixture(scope="module")
def base(server: Server, request: pytest.FixtureRequest) -> Iterator[database.Database]:
    """A migrated database of the module's own, as dedup_worker."""
    name = request.module.__name__.rpartition(".")[2]
    with server.database(name):
        pool = database.Database(server.url(name, "dedup_worker"))
        yield pool
        pool.close()
