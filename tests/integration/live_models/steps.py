"""What is done with bundles in these tests."""

from __future__ import annotations

from typing import Any

from core import (
    bundle,
    database,
    embedding,
    models,
    registry,
    settings,
    weights,
)


def start(base: database.Database, named: bundle.Bundle | None = None) -> models.Model:
    with base.transaction() as connection:
        return models.start(
            connection, named, lambda: bundle.for_backbone(weights.UNTRAINED_SHA256), bundle.shipped_by_id
        )


def add(base: database.Database, chosen: bundle.Bundle) -> models.Model:
    with base.transaction() as connection:
        return models.add(connection, chosen)


def read(base: database.Database, model_id: str, known: registry.Registry | None = None) -> bundle.Bundle:
    with base.transaction() as connection:
        return (known or registry.Registry()).get(connection, model_id)


def run(base: database.Database, statement: str, *parameters: object) -> None:
    with base.transaction() as connection:
        connection.execute(statement.encode(), parameters)


def config(**changes: Any) -> settings.Settings:
    return settings.Settings(**{"backbone_weights": "untrained", "device": "cpu", **changes})


def too_much(size: int) -> Any:
    """A warm-up in place of the real one, that fails for one input size; the second value arms it."""
    real = embedding.Backbone.warm_up
    fault: list[Exception] = []

    def warm_up(self: embedding.Backbone, wanted: int, batch: int) -> None:
        if fault and wanted == size:
            raise fault[0]
        real(self, wanted, batch)

    return warm_up, fault
