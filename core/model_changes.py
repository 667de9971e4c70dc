"""From one model to another: which one is active, which properties have yet to follow, and what an old one leaves."""

from __future__ import annotations

from typing import Literal

from core import database, errors, models


def activate(connection: database.Connection, model: models.Model) -> None:
    """Make a candidate the active model; the one before becomes a candidate. Properties follow one by one.

    To be run alone in its transaction.

    Raises:
        ConfigurationError: it is retired, or photos lack its embedding.
    """
    database.execute(connection, "lock_models")
    current = models.find(connection, model.id)
    if current.status == "active":
        return
    if current.status == "retired":
        raise errors.ConfigurationError(
            f"Model {model.name} ({model.id}) is retired; `dedup model add` its bundle, then "
            f"`dedup backfill --model {model.id}`."
        )
    # A photo that is being stored without it right now is completed by its own worker.
    missing = models.lacking(connection, model.id)
    if missing:
        raise errors.ConfigurationError(
            f"{missing} photos lack an embedding of model {model.name} ({model.id}); run "
            f"`dedup backfill --model {model.id}` first. If they cannot be embedded, as the bulk worker's log says, "
            f"`dedup model activate {model.id} --park-missing` parks them as failed after that."
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


def retire(connection: database.Connection, model: models.Model) -> None:
    """Take a model out of use: nothing is embedded or matched by it any more.

    To be run alone in its transaction; what is on record of it is then to be deleted (`purge`).

    Raises:
        ConfigurationError: it is active, or a property still shows its flags.
    """
    database.execute(connection, "lock_models")
    # Waits for whoever writes rows of it; whoever comes after sees that it is retired.
    database.execute(connection, "lock_model", id=model.id)
    current = models.find(connection, model.id)
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
    return len(rows), (rows[-1]["property_id"], rows[-1]["photo_id"]) if rows else None
