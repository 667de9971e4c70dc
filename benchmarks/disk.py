"""How much disk a photo takes, by table: ``python -m benchmarks.disk [--photos N] [--json]``.

An embedded Postgres of its own. Photos go the way that they go in an installation (event, embedding, match), with
keys, ETags and digests of the usual length, random embeddings, 15 photos a property, one in five a near copy of the
one before it. Sizes are those after a VACUUM, with what the updates left behind, and with the page that a table or an
index of any size begins with.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import pathlib
import shutil
import tempfile

import numpy as np
import psycopg

from benchmarks import match, results
from core import bundle, database, events, matching, models, photos, registry, schema
from workers import embedded_postgres

PROPERTY_PHOTOS = 15
TABLES = ("photo_embedding", "photo", "pair", "duplicate_flag", "flag_change")
_START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
_SIZES = """
    SELECT pg_table_size(%(table)s::regclass), pg_indexes_size(%(table)s::regclass), reltuples
    FROM pg_class WHERE oid = %(table)s::regclass
"""


def fill(base: database.Database, used: bundle.Bundle, count: int) -> None:
    """So many photos, each embedded and matched."""
    random = np.random.default_rng(0)
    bundles = registry.Registry()
    vectors = match.photos_like(random, 1_000, used.fusion.layout).astype(np.float32)
    previous = vectors[0]
    for number in range(count):
        property_id = f"{10_000_000 + number // PROPERTY_PHOTOS}"
        vector = vectors[random.integers(len(vectors))]
        if number % 5 == 4:
            vector = previous + 0.3 * vector
        previous = vector
        digest = random.bytes(32).hex()
        event = events.Event(
            kind=events.Kind.CREATED,
            bucket="photos",
            key=f"properties/{property_id}/photos/{digest[:36]}.jpg",
            property_id=property_id,
            etag=digest[:32],
            size=250_000,
            sequencer=digest[:18].upper(),
            occurred_at=_START + datetime.timedelta(seconds=number),
        )
        with base.transaction() as connection:
            photo = photos.apply_event(connection, event).photo
        embedded = photos.Embedded({used.id: vector}, event.etag, 1440, 1080, 250_000, digest)
        with base.transaction() as connection:
            photos.store(connection, photo, embedded)
        with base.transaction() as connection:
            matching.match(connection, property_id, photo.photo_id, bundles, 200)


def measure(url: str, count: int) -> list[results.Row]:
    """Bytes of each table, a row and a photo."""
    rows: list[results.Row] = []
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
        for table in TABLES:
            (found,) = connection.execute(_SIZES, {"table": table}).fetchall()
            heap, indexes, of_table = (int(value) for value in found)
            rows.append(
                {
                    "table": table,
                    "photos": count,
                    "heap_bytes_a_row": round(heap / max(1, of_table)),
                    "index_bytes_a_row": round(indexes / max(1, of_table)),
                    "rows_a_photo": round(of_table / count, 2),
                    "bytes_a_photo": round((heap + indexes) / count),
                }
            )
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Fill, measure, print, and keep the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=6_000)
    parser.add_argument("--json", action="store_true", help="one JSON object a line, no CSV")
    options = parser.parse_args(arguments)
    # In a folder that the server's own user can reach.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="dedup-disk-"))
    folder.chmod(0o755)
    postgres = embedded_postgres.EmbeddedPostgres(folder / "postgres")
    try:
        postgres.start()
        postgres.install_extensions()
        schema.upgrade(postgres.url())
        postgres.allow_login("dedup_worker")
        used = bundle.shipped()["imagenet"]
        with contextlib.closing(database.Database(postgres.url("dedup_worker"), pool_size=1)) as base:
            with base.transaction() as connection:
                models.start(connection, used, lambda: used, dict)
            fill(base, used, options.photos)
        results.write(
            "disk",
            measure(postgres.url(), options.photos),
            as_json=options.json,
            by=("table",),
            value="bytes_a_photo",
        )
    finally:
        postgres.stop()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
