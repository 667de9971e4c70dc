"""Which model bundles the database knows: candidates beside the active one that decides, and retired ones.

Candidate and active models are *live*: every upload is embedded and matched by all of them, so that a change of the
active one finds everything ready.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from psycopg.types import json

from core import database, errors

if TYPE_CHECKING:
    from core import bundle

Status = Literal["candidate", "active", "retired"]


@dataclasses.dataclass(frozen=True)
class Model:
    """A row of the table ``model``. `has_bundle`: its bundle's files are in the database."""

    id: str
    name: str
    dims: int
    duplicate_threshold: float
    review_threshold: float
    untrained: bool
    status: Status
    weights_name: str
    weights_sha256: str
    has_bundle: bool


@dataclasses.dataclass(frozen=True)
class Standing:
    """How far a model is: photos on record that it has embedded and has not, properties that show its flags."""

    model: Model
    embedded: int
    missing: int
    properties: int


def active(connection: database.Connection) -> Model | None:
    """The model whose flags count, if there is one yet."""
    row = database.execute(connection, "active_model").fetchone()
    return None if row is None else Model(**row)


def every(connection: database.Connection) -> list[Model]:
    """All models, the active one first, then candidates, then retired ones."""
    return [Model(**row) for row in database.execute(connection, "models")]


def find(connection: database.Connection, name: str) -> Model:
    """A model by its id, by the beginning of its id, or by its name.

    Raises:
        ConfigurationError: there is none, or more than one.
    """
    known = every(connection)
    exact = [model for model in known if model.id == name]
    found = exact or [
        model for model in known if model.name == name or (len(name) >= 4 and model.id.startswith(name))
    ]
    if len(found) == 1:
        return found[0]
    shown = ", ".join(f"{model.id} ({model.name}, {model.status})" for model in found or known) or "none"
    if found:
        raise errors.ConfigurationError(f"Model {name}: several have this name: {shown}. Give its id.")
    raise errors.ConfigurationError(
        f"Model {name}: the database has none of this id or name; it has: {shown}. "
        "Add one with `dedup model add BUNDLE`."
    )


def standing(connection: database.Connection, model: Model) -> Standing:
    """How far a model is. Reads all properties."""
    row = database.execute(connection, "model_standing", model_id=model.id).fetchone()
    assert row is not None  # noqa: S101 - a SELECT of counts returns a row
    return Standing(model, row["embedded"], row["on_record"] - row["embedded"], row["properties"])


def lacking(connection: database.Connection, model_id: str) -> int:
    """How many embedded photos lack an embedding of a model. Reads all properties."""
    row = database.execute(connection, "photos_lacking", model_id=model_id).fetchone()
    return int(row["photos"]) if row else 0


def add(connection: database.Connection, model_bundle: bundle.Bundle) -> Model:
    """Put a bundle on record as a candidate. One that is live stays as it is, a retired one comes back.

    Raises:
        ConfigurationError: the bundle belongs to untrained weights and the database is not the embedded one.
    """
    if model_bundle.untrained and not is_embedded(connection):
        raise errors.ConfigurationError(
            "DEDUP_BACKBONE_WEIGHTS=untrained is for tests and trials on the embedded stack; "
            "this database is a real one. Set DEDUP_BACKBONE_WEIGHTS to real weights."
        )
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
        bundle_card=model_bundle.files.card,
        bundle_tensors=model_bundle.files.tensors,
        card=json.Jsonb(
            {
                "backbone": dataclasses.asdict(model_bundle.backbone),
                "levels": list(model_bundle.fusion.projections),
                "input_size": model_bundle.input_size,
                "training": dict(model_bundle.training),
            }
        ),
    )
    return find(connection, model_bundle.id)


def start(
    connection: database.Connection,
    named: bundle.Bundle | None,
    first: Callable[[], bundle.Bundle],
    at_hand: Callable[[], dict[str, bundle.Bundle]],
) -> Model:
    """What an embed worker does at its start: the first one of a database brings the active model.

    From then on the database decides. Rows from before bundles were kept in the database get theirs filled in.

    Args:
        connection: to the database.
        named: the bundle that the worker's settings name.
        first: gives the bundle that becomes active where there is no active model and none was named.
        at_hand: gives the bundles, by id, that may be filled in.

    Returns:
        The active model.

    Raises:
        ConfigurationError: the named bundle is no live model of the database, or `add` refuses it.
    """
    if active(connection) is None:
        # Two first workers with different bundles: the second one must see the first one's.
        database.execute(connection, "lock_models")
        if active(connection) is None:
            chosen = add(connection, named or first())
            database.execute(connection, "activate_model", id=chosen.id)
    fill_in(connection, {item.id: item for item in [named] if item}, at_hand)
    current = active(connection)
    assert current is not None  # noqa: S101 - one was activated above
    if named is not None:
        check_named(connection, named)
    return current


def check_named(connection: database.Connection, named: bundle.Bundle) -> None:
    """Refuse a bundle in the settings that is no live model of the database.

    Raises:
        ConfigurationError: says which one is active and the remedy.
    """
    live = {model.id: model for model in every(connection) if model.status != "retired"}
    if live and named.id not in live:
        shown = ", ".join(f"{model.name} ({model.id}, {model.status})" for model in live.values())
        raise errors.ConfigurationError(
            f"DEDUP_BUNDLE is {named.name} ({named.id}), which is no live model of the database; it has {shown}. "
            "Unset DEDUP_BUNDLE, or put the bundle on record first: `dedup model add FOLDER`."
        )


def fill_in(
    connection: database.Connection,
    named: dict[str, bundle.Bundle],
    at_hand: Callable[[], dict[str, bundle.Bundle]],
) -> None:
    """Give live rows from before migration 0004 their bundles, where one of the same id is at hand."""
    bare = [model for model in every(connection) if not model.has_bundle and model.status != "retired"]
    if not bare:
        return
    found = named | at_hand()
    for model in bare:
        if model.id in found:
            files = found[model.id].files
            database.execute(
                connection,
                "fill_in_bundle",
                id=model.id,
                bundle_card=files.card,
                bundle_tensors=files.tensors,
            )


def is_embedded(connection: database.Connection) -> bool:
    """Whether this is the embedded stack's own database."""
    row = database.execute(connection, "is_embedded_database").fetchone()
    return bool(row and row["embedded"])
