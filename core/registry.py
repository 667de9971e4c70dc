"""The bundles of the database's models, read from there once a process: no other place can disagree with it."""

from __future__ import annotations

import threading

from core import bundle, database, errors


class Registry:
    """Bundles by the id of their model; thread-safe."""

    def __init__(self) -> None:
        self._bundles: dict[str, bundle.Bundle] = {}
        self._lock = threading.Lock()

    def get(self, connection: database.Connection, model_id: str) -> bundle.Bundle:
        """The bundle of a model, verified by its digest.

        Raises:
            ConfigurationError: what the database holds is not that bundle.
            TransientError: the row is from before bundles were kept there, and no worker has filled it in yet.
        """
        # A bundle never changes under its id, so whoever comes second may as well read it too.
        found = self._bundles.get(model_id)
        if found is None:
            found = _read(connection, model_id)
            with self._lock:
                self._bundles[model_id] = found
        return found


def _read(connection: database.Connection, model_id: str) -> bundle.Bundle:
    row = database.execute(connection, "model_bundle", id=model_id).fetchone()
    if row is None or row["bundle_card"] is None:
        raise errors.TransientError(
            f"The bundle of model {model_id} is not in the database yet: it was put on record by an older version. "
            "Start an embed worker with DEDUP_BUNDLE set to its folder once, or `dedup model add` it."
        )
    files = bundle.Files(row["bundle_card"], row["bundle_tensors"])
    found = bundle.parse(files, f"of model {model_id} in the database")
    if found.digest != row["digest"]:
        raise errors.ConfigurationError(
            f"The database's bundle of model {model_id}: expected digest {row['digest']}, found {found.digest}. "
            "Put the right one on record with `dedup model add`."
        )
    return found
