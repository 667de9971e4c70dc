"""How long a match takes in the database and the pair classifier together, by photos in all and by photos a property.

``python -m benchmarks.match [--photos N ...] [--quick] [--json]``: for each number of photos an embedded Postgres of
its own, filled with random embeddings of which one in ten is a near copy of another of its property, so that pairs are
stored and groups formed; they are timed in turns.
Timed is `core.matching.match` with its transaction, by a pool of one connection as the match worker has it: the first
match of random photos, which writes pairs and flags, of properties that were read once before ("warm"). In the same
run: a transaction of one empty statement, which tells how fast the machine answers at the time; properties of 10 to
5,000 photos in the largest table, a property whose photos are all alike, and the exact scan against an HNSW index of
the same rows with the same filter.

Disk: 8.5 kB a photo. The HNSW part has 20,000 rows.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pgvector.psycopg
import psycopg
from psycopg import sql

from benchmarks import results
from core import budgets, bundle, database, fusing, matching, models, registry, schema
from workers import embedded_postgres

PROPERTY_PHOTOS = 20
NEIGHBOURS = 200
SIZES: tuple[int, ...] = (10, 100, 1_000, 5_000)
ALIKE = 500
HNSW_ROWS = 20_000
ROUNDS = 5
_COPY_ROWS = 2_000

Photo = tuple[str, int]
Milliseconds = npt.NDArray[np.float64]


class Table:
    """An embedded Postgres whose tables hold so many matched photos."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.postgres = embedded_postgres.EmbeddedPostgres(folder)
        self.postgres.start()
        self.postgres.install_extensions()
        schema.upgrade(self.postgres.url())
        self.postgres.allow_login("dedup_worker")
        self.base = database.Database(self.postgres.url("dedup_worker"), pool_size=1, generic_plans=True)
        self.bundle = bundle.shipped()["imagenet"]
        with self.base.transaction() as connection:
            models.start(connection, self.bundle, lambda: self.bundle, dict)
        self._bundles = registry.Registry()
        self.photos = 0
        self._random = np.random.default_rng(0)
        self._vectors = photos_like(self._random, HNSW_ROWS, self.bundle.fusion.layout)
        self._owner = psycopg.connect(self.postgres.url(), autocommit=True)
        pgvector.psycopg.register_vector(self._owner)

    def close(self) -> None:
        """Stop the server."""
        self.base.close()
        self._owner.close()
        self.postgres.stop()

    def fill(self, photos: int, property_photos: int, prefix: str, *, alike: bool = False) -> None:
        """Add properties of so many photos each until `photos` were added; `alike`: all of them are near copies."""
        for start in range(0, photos, _COPY_ROWS):
            rows = list(self._rows(start, min(photos, start + _COPY_ROWS), property_photos, prefix, alike))
            with self._owner.transaction(), self._owner.cursor() as cursor:
                with cursor.copy(
                    "COPY photo (property_id, bucket, key, etag, sequencer, occurred_at, uploaded_at, status, "
                    "matched_at) FROM STDIN"
                ) as copy:
                    for property_id, key, _ in rows:
                        now = "2026-01-01T00:00:00Z"
                        copy.write_row((property_id, "photos", key, key, key, now, now, "embedded", now))
                found = cursor.execute(
                    "SELECT key, id FROM photo WHERE property_id = ANY(%s)",
                    [list({property_id for property_id, _, _ in rows})],
                )
                ids: dict[str, int] = dict(found.fetchall())
                with cursor.copy(
                    "COPY photo_embedding (property_id, photo_id, model_id, revision, embedding) "
                    "FROM STDIN (FORMAT BINARY)"
                ) as copy:
                    copy.set_types(["text", "int8", "text", "int4", "halfvec"])
                    for property_id, key, vector in rows:
                        copy.write_row(
                            (property_id, ids[key], self.bundle.id, 1, pgvector.HalfVector(vector))
                        )
        self.photos += photos
        for table in ("photo", "photo_embedding"):
            self._owner.execute(sql.SQL("VACUUM (ANALYZE) {}").format(sql.Identifier(table)))

    def _rows(
        self, start: int, end: int, property_photos: int, prefix: str, alike: bool
    ) -> Iterator[tuple[str, str, npt.NDArray[np.float32]]]:
        previous = self._vectors[0]
        for number in range(start, end):
            vector = self._vectors[self._random.integers(HNSW_ROWS)]
            if alike:
                vector = self._vectors[0] + np.float16(0.3) * vector
            elif number % 10 == 9:
                vector = previous + np.float16(0.3) * vector
            previous = vector
            yield f"{prefix}-{number // property_photos}", f"{prefix}/{number}", vector.astype(np.float32)

    def some(self, count: int, prefix: str) -> list[Photo]:
        """Random photos of the properties with that prefix."""
        rows = self._owner.execute(
            "SELECT property_id, id FROM photo WHERE property_id LIKE %s ORDER BY random() LIMIT %s",
            [f"{prefix}%", count],
        )
        return [(str(property_id), int(photo_id)) for property_id, photo_id in rows]

    def match(self, photos: Sequence[Photo]) -> Milliseconds:
        """How long a match of each of them takes."""

        def one(photo: Photo) -> None:
            with self.base.transaction() as connection:
                matching.match(connection, *photo, self._bundles, NEIGHBOURS)

        return timed(one, photos, lambda: self._forget_matches(photos))

    def nothing(self, photos: Sequence[Photo]) -> Milliseconds:
        """How long a transaction of one empty statement takes as often: what round trips cost on this machine now."""

        def one(photo: Photo) -> None:
            del photo
            with self.base.transaction() as connection:
                connection.execute("SELECT 1")

        return timed(one, photos)

    def _forget_matches(self, photos: Sequence[Photo]) -> None:
        """Make what comes next the first match of these photos."""
        properties, ids = [property_id for property_id, _ in photos], [photo_id for _, photo_id in photos]
        for table in ("duplicate_flag", "pair"):
            self._owner.execute(
                sql.SQL("DELETE FROM {} WHERE property_id = ANY(%s)").format(sql.Identifier(table)),
                [properties],
            )
        self._owner.execute(
            "UPDATE photo SET matched_at = NULL WHERE property_id = ANY(%s) AND id = ANY(%s)",
            [properties, ids],
        )

    def build_index(self, rows: int) -> float:
        """Copy so many embeddings into a table with an HNSW index and no other; how many seconds the index took."""
        self._owner.execute(
            sql.SQL(
                "CREATE TABLE hnsw_rows AS SELECT property_id, photo_id, embedding::halfvec({}) AS embedding "
                "FROM photo_embedding WHERE property_id LIKE 'table-%' ORDER BY property_id, photo_id LIMIT {}"
            ).format(sql.Literal(self.bundle.dims), sql.Literal(rows))
        )
        self._owner.execute("SET maintenance_work_mem = '1GB'")
        started = time.perf_counter()
        self._owner.execute("CREATE INDEX ON hnsw_rows USING hnsw (embedding halfvec_ip_ops)")
        seconds = time.perf_counter() - started
        self._owner.execute("VACUUM (ANALYZE) hnsw_rows")
        return seconds

    def nearest(self, table: str, photos: Sequence[Photo]) -> tuple[Milliseconds, list[set[int]]]:
        """How long the ten nearest of a photo's property take, and who they are."""
        query = sql.SQL(
            "SELECT photo_id FROM {} WHERE property_id = %s AND photo_id <> %s ORDER BY embedding <#> %s LIMIT 10"
        ).format(sql.Identifier(table))
        vectors = {
            photo: self._owner.execute(
                "SELECT embedding FROM photo_embedding WHERE property_id = %s AND photo_id = %s", photo
            ).fetchone()
            for photo in photos
        }
        found: dict[Photo, set[int]] = {}

        def ask(photo: Photo) -> None:
            rows = self._owner.execute(query, [*photo, vectors[photo][0]]).fetchall()  # type: ignore[index]
            found[photo] = {row[0] for row in rows}

        spent = timed(ask, photos)
        return spent, [found[photo] for photo in photos]

    def against_index(self, matches: int) -> Iterator[results.Row]:
        """The exact scan, and HNSW with the same filter, scanning on until ten rows pass it or only once."""
        seconds = self.build_index(HNSW_ROWS)
        photos = [
            (str(property_id), int(photo_id))
            for property_id, photo_id in self._owner.execute(
                "SELECT property_id, photo_id FROM hnsw_rows ORDER BY random() LIMIT %s", [matches]
            ).fetchall()
        ]
        exact, wanted = self.nearest("photo_embedding", photos)
        yield self.row("ten nearest, exact", PROPERTY_PHOTOS, exact, recall=1.0)
        self._owner.execute("SET enable_seqscan = off")
        for iterative in ("off", "relaxed_order"):
            self._owner.execute(sql.SQL("SET hnsw.iterative_scan = {}").format(sql.Identifier(iterative)))
            spent, found = self.nearest("hnsw_rows", photos)
            recall = sum(len(a & b) for a, b in zip(found, wanted, strict=True)) / sum(map(len, wanted))
            row = self.row(f"ten nearest, HNSW, iterative_scan {iterative}", PROPERTY_PHOTOS, spent, recall)
            yield {**row, "photos": HNSW_ROWS, "index_build_s": round(seconds, 1)}

    def row(
        self, what: str, property_photos: int, spent: Milliseconds, recall: float | None = None
    ) -> results.Row:
        """One line of the table."""
        return {
            "what": what,
            "photos": self.photos,
            "photos_a_property": property_photos,
            "p50_ms": round(float(np.median(spent)), 2),
            "p99_ms": round(float(np.quantile(spent, 0.99)), 2),
            "calls": len(spent),
            "recall": "" if recall is None else round(recall, 3),
            "index_build_s": "",
        }


def photos_like(random: np.random.Generator, count: int, layout: fusing.Layout) -> npt.NDArray[np.float16]:
    """(count, dims) random embeddings of photos that have nothing in common: each part of them has norm 1."""
    vectors = random.normal(size=(count, layout.dims)).astype(np.float32)
    for part in layout.slices.values():
        vectors[:, part] = fusing.unit(vectors[:, part])
    cells = fusing.unit(vectors[:, layout.cells].reshape(count, fusing.CELLS, layout.cell))
    vectors[:, layout.cells] = cells.reshape(count, -1) / np.sqrt(fusing.CELLS)
    vectors /= np.sqrt(len(layout.levels) + 1)
    vectors[:, layout.drawing] = -0.02
    return vectors.astype(np.float16)


def timed(
    work: Callable[[Photo], None], photos: Sequence[Photo], between: Callable[[], None] = lambda: None
) -> Milliseconds:
    """How long each photo takes, after all of them were worked on once, and `between` was called."""
    for photo in photos:
        work(photo)
    between()
    spent = []
    for photo in photos:
        started = time.perf_counter()
        work(photo)
        spent.append(time.perf_counter() - started)
    return np.array(spent) * 1000


def in_turns(tables: Sequence[Table], matches: int) -> Iterator[results.Row]:
    """Matches in each table, and empty transactions; in turns, as the machine's speed moves within minutes."""
    spent: list[list[Milliseconds]] = [[] for _ in tables]
    nothing: list[list[Milliseconds]] = [[] for _ in tables]
    for _ in range(ROUNDS):
        for number, table in enumerate(tables):
            some = table.some(matches, "table-")
            spent[number].append(table.match(some))
            nothing[number].append(table.nothing(some))
    for number, table in enumerate(tables):
        for what, times in (("match", spent), ("SELECT 1 and its commit", nothing)):
            yield table.row(what, PROPERTY_PHOTOS, np.concatenate(times[number]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--matches", type=int, default=2_000, help="timed at each size")
    parser.add_argument(
        "--quick", action="store_true", help="1,000 and 4,000 photos, properties of 10 and 100"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, no CSV")
    options = parser.parse_args(arguments)
    photos, matches, sizes = options.photos, options.matches, SIZES
    if options.quick:
        photos, matches, sizes = [1_000, 4_000], 100, SIZES[:2]
    # As the match worker does.
    budgets.keep_freed()
    budgets.single_thread_blas()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="dedup-benchmark-"))
    folder.chmod(0o755)
    rows: list[results.Row] = []
    try:
        with contextlib.ExitStack() as stack:
            tables = []
            for count in sorted(photos):
                (folder / str(count)).mkdir(mode=0o755)
                tables.append(stack.enter_context(contextlib.closing(Table(folder / str(count)))))
                tables[-1].fill(count, PROPERTY_PHOTOS, "table")
            rows += in_turns(tables, max(1, matches // ROUNDS))
            table = tables[-1]
            for size in sizes:
                table.fill(max(size, 1_000), size, f"size-{size}")
                some = table.some(min(matches, 300), f"size-{size}-")
                rows.append(table.row("match", size, table.match(some)))
                print(rows[-1], file=sys.stderr)
            table.fill(ALIKE, ALIKE, "alike", alike=True)
            some = table.some(min(matches, 300), "alike-")
            rows.append(table.row("match, all alike", ALIKE, table.match(some)))
            print(rows[-1], file=sys.stderr)
            if not options.quick:
                rows += table.against_index(min(matches, 200))
    finally:
        shutil.rmtree(folder)
    results.write(
        "match",
        rows,
        as_json=options.json,
        by=("what", "photos", "photos_a_property"),
        value="p50_ms",
    )


if __name__ == "__main__":
    main()
