"""What it costs that a transaction notifies: commits that do wait for each other, in the whole cluster.

``python -m benchmarks.notify`` on an embedded Postgres of its own, whose commits wait for the disk.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import pathlib
import shutil
import statistics
import tempfile
import threading
import time

import psycopg

from benchmarks import results
from workers import embedded_postgres

CONNECTIONS = (1, 4, 16)
_CHANGE = b"INSERT INTO change (name) VALUES ('x')"
_NOTIFY = b"SELECT pg_notify('listing_flag_feed', '')"


def commits(url: str, connections: int, seconds: float, *, notify: bool) -> tuple[float, float]:
    """Commits a second of so many connections together, and the median time of one in milliseconds."""
    start = threading.Barrier(connections)

    def work() -> list[float]:
        took = []
        with psycopg.connect(url) as connection:
            start.wait()
            end = time.perf_counter() + seconds
            while (began := time.perf_counter()) < end:
                connection.execute(_CHANGE)
                if notify:
                    connection.execute(_NOTIFY)
                connection.commit()
                took.append(time.perf_counter() - began)
        return took

    with concurrent.futures.ThreadPoolExecutor(connections) as pool:
        each = [future.result() for future in [pool.submit(work) for _ in range(connections)]]
    took = [value for values in each for value in values]
    return len(took) / seconds, statistics.median(took) * 1000


def main() -> None:
    """Measure, print, and keep the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a second each")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, no CSV")
    options = parser.parse_args()
    seconds = 1.0 if options.quick else 8.0
    folder = pathlib.Path(tempfile.mkdtemp(prefix="dedup-", dir="/tmp"))
    # The server runs under an account of its own where we are root.
    folder.chmod(0o755)
    postgres = embedded_postgres.EmbeddedPostgres(folder)
    postgres.start()
    rows: list[dict[str, object]] = []
    try:
        with psycopg.connect(postgres.url(), autocommit=True) as owner:
            owner.execute("CREATE TABLE change (id bigint GENERATED ALWAYS AS IDENTITY, name text)")
            for connections in CONNECTIONS:
                for notify in (False, True):
                    rate, median = commits(postgres.url(), connections, seconds, notify=notify)
                    rows.append(
                        {
                            "connections": connections,
                            "notify": notify,
                            "commits_per_second": round(rate),
                            "median_ms": round(median, 2),
                        }
                    )
    finally:
        postgres.stop()
        shutil.rmtree(folder)
    results.write(
        "notify",
        rows,
        as_json=options.json,
        by=(
            "connections",
            "notify",
        ),
        value="commits_per_second",
    )


if __name__ == "__main__":
    main()
