"""A database without a model for each module of this folder, and two bundles."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from core import bundle, database, weights
from tests.integration import bundles, ledger
from tests.integration.conftest import Server


@pytest.fixture(scope="module")
def shared(server: Server, request: pytest.FixtureRequest) -> Iterator[database.Database]:
    name = request.module.__name__.rpartition(".")[2]
    with server.database(name) as owner:
        with psycopg.connect(owner, autocommit=True) as connection:
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET dedup.embedded = 'on'").format(sql.Identifier(name))
            )
        pool = database.Database(server.url(name, "dedup_worker"), pool_size=8)
        yield pool
        pool.close()


@pytest.fixture
def base(shared: database.Database) -> database.Database:
    ledger.empty(shared)
    return shared


@pytest.fixture(scope="module")
def first() -> bundle.Bundle:
    return bundle.for_backbone(weights.UNTRAINED_SHA256)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> bundle.Bundle:
    return bundles.second(tmp_path_factory.mktemp("bundles") / "second")
