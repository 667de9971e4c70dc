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


def activate(connection: database.Connection, model: Model) -> None:
    """Make a candidate the active model; the one before becomes a candidate. Properties follow one by one.

    To be run alone in its transaction.

    Raises:
        ConfigurationError: it is retired, or photos lack its embedding.
    """
    database.execute(connection, "lock_models")
    current = find(connection, model.id)
    if current.status == "active":
        return
    if current.status == "retired":
        raise errors.ConfigurationError(
            f"Model {model.name} ({model.id}) is retired; `dedup model add` its bundle, then "
            f"`dedup backfill --model {model.id}`."
        )
    # A photo that is being stored without it right now is completed by its own worker.
    missing = lacking(connection, model.id)
    if missing:
        raise errors.ConfigurationError(
            f"{missing} photos lack an embedding of model {model.name} ({model.id}); run "
            f"`dedup backfill --model {model.id}` first. What cannot be embedded is told by its log."
        )
    database.execute(connection, "lock_live_models")
    database.execute(connection, "deactivate_model")
    database.execute(connection, "activate_model", id=model.id)


def behind(connection: database.Connection, after: str, limit: int) -> list[str]:
    """At most `limit` properties after one that show the flags of another model than the active one."""
    found = database.execute(connection, "properties_behind", after=after, limit=limit)
    return [row["property_id"] for row in found]


def count_behind(connection: database.Connection) -> int:
    """How many properties show the flags of another model than the active one."""
    row = database.execute(connection, "count_behind").fetchone()
    return int(row["properties"]) if row else 0


def retire(connection: database.Connection, model: Model) -> None:
    """Take a model out of use: nothing is embedded or matched by it any more.

    To be run alone in its transaction; what is on record of it is then to be deleted (`purge`).

    Raises:
        ConfigurationError: it is active, or a property still shows its flags.
    """
    database.execute(connection, "lock_models")
    # Waits for whoever writes rows of it; whoever comes after sees that it is retired.
    database.execute(connection, "lock_model", id=model.id)
    current = find(connection, model.id)
    if current.status == "active":
        raise errors.ConfigurationError(
            f"Model {model.name} ({model.id}) is active; `dedup model activate` another one first."
        )
    row = database.execute(connection, "properties_showing", model_id=model.id).fetchone()
    if row and row["properties"]:
        raise errors.ConfigurationError(
            f"{row['properties']} properties still show the flags of model {model.name} ({model.id}). "
            "`dedup model activate` of the active model moves those that are ready, and so does `dedup sweep`."
        )
    database.execute(connection, "retire_model", id=model.id)


def purge(
    connection: database.Connection,
    model_id: str,
    what: Literal["embeddings", "pairs"],
    after: tuple[str, int],
    limit: int,
) -> tuple[int, tuple[str, int] | None]:
    """Delete a retired model's embeddings or pairs, some of them.

    Embeddings go first: a photo that has one was matched, and its pairs are there, also if the model comes back
    in between.

    Args:
        connection: alone in its transaction.
        model_id: nothing is deleted if it is not retired any more.
        what: which of them.
        after: where the page before ended; ``("", 0)`` for the first one.
        limit: at most the rows of so many photos.

    Returns:
        How many rows were deleted, and where the next page begins (None: there is no more).
    """
    rows = database.execute(
        connection,
        f"purge_{what}",
        model_id=model_id,
        after_property=after[0],
        after_id=after[1],
        limit=limit,
    ).fetchall()
    last = max(((row["property_id"], row["photo_id"]) for row in rows), default=None)
    return len(rows), last


def is_embedded(connection: database.Connection) -> bool:
    """Whether this is the embedded stack's own database."""
    row = database.execute(connection, "is_embedded_database").fetchone()
    return bool(row and row["embedded"])
