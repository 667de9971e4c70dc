"""Which model bundles the database knows, and which one decides now."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from psycopg.types import json

from core import database, errors

if TYPE_CHECKING:
    # The ingest process asks for the active model too, and must not need torch for it.
    from core import bundle


@dataclasses.dataclass(frozen=True)
class Model:
    """A row of the table ``model``."""

    id: str
    name: str
    dims: int
    duplicate_threshold: float
    review_threshold: float
    untrained: bool


def active(connection: database.Connection) -> Model | None:
    """The model whose flags count, if there is one yet."""
    row = database.execute(connection, "active_model").fetchone()
    return None if row is None else Model(**row)


def register(connection: database.Connection, model_bundle: bundle.Bundle) -> None:
    """Put a bundle on record; the first one of a database becomes active.

    Raises:
        ConfigurationError: the bundle belongs to untrained weights and the database is not the embedded
            one, or another bundle is active.
    """
    if model_bundle.untrained and not is_embedded(connection):
        raise errors.ConfigurationError(
            "DEDUP_BACKBONE_WEIGHTS=untrained is for tests and trials on the embedded stack; "
            "this database is a real one. Set DEDUP_BACKBONE_WEIGHTS to real weights."
        )
    # Two first workers with different bundles: the second one must see the first one's.
    database.execute(connection, "lock_models")
    database.execute(
        connection,
        "register_model",
        id=model_bundle.id,
        digest=model_bundle.digest,
        name=model_bundle.name,
        dims=model_bundle.fusion.dims,
        duplicate_threshold=model_bundle.duplicate,
        review_threshold=model_bundle.review,
        untrained=model_bundle.untrained,
        card=json.Jsonb(
            {
                "backbone": dataclasses.asdict(model_bundle.backbone),
                "levels": list(model_bundle.fusion.projections),
                "input_size": model_bundle.input_size,
                "training": dict(model_bundle.training),
            }
        ),
    )
    database.execute(connection, "activate_first_model", id=model_bundle.id)
    current = active(connection)
    if current is None or current.id != model_bundle.id:
        found = "none" if current is None else f"{current.name} ({current.id})"
        raise errors.ConfigurationError(
            f"The database's active model is {found}, this worker's bundle is {model_bundle.name} "
            f"({model_bundle.id}). Set DEDUP_BUNDLE and DEDUP_BACKBONE_WEIGHTS to the active one's."
        )


def is_embedded(connection: database.Connection) -> bool:
    """Whether this is the embedded stack's own database."""
    row = database.execute(connection, "is_embedded_database").fetchone()
    return bool(row and row["embedded"])
