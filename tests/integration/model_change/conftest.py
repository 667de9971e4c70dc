"""A database with two models for each module of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core import database
from tests.integration import ledger
from tests.integration.conftest import Server
from tests.integration.model_change import steps


@pytest.fixture(scope="module")
def shared(server: Server, request: pytest.FixtureRequest) -> Iterator[database.Database]:
    name = request.module.__name__.rpartition(".")[2]
    with server.database(name):
        pool = database.Database(server.url(name, "dedup_worker"), pool_size=8)
        yield pool
        pool.close()


@pytest.fixture
def base(shared: database.Database) -> database.Database:
    """The module's database, empty but for an active model and a candidate of other thresholds."""
    ledger.empty(shared)
    ledger.activate_model(shared)
    with shared.transaction() as connection:
        connection.execute(
            "INSERT INTO model (id, digest, name, dims, duplicate_threshold, review_threshold, untrained, card)"
            " VALUES (%s, 'n', 'sharper', 8, 0.7, 0.3, false, '{}')",
            (steps.NEW,),
        )
    return shared


@pytest.fixture
def place() -> str:
    return ledger.new_property()
