"""From one model to another and back by the commands, with uploads and a reader all the while."""

from __future__ import annotations

import contextlib
import json
import pathlib
import threading
from collections.abc import Iterator

import pytest

from core import database, model_changes, models
from tests.integration import bundles
from workers import embedded, processes

from . import brokers, conftest, pictures
from . import system as acceptance


@pytest.fixture
def own(data_dir: pathlib.Path) -> Iterator[acceptance.System]:
    """A stack of the test's own: whose model is active concerns every property of it."""
    with embedded.Stack(data_dir, acceptance.stack_environment()) as stack:
        stack.start_worker("bulk", "bulk")
        yield acceptance.System(stack)


def dedup(system: acceptance.System, *arguments: str) -> acceptance.Row:
    """Run a command with --json; the object that it prints."""
    done = system.dedup(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    said: acceptance.Row = json.loads(done.stdout)
    return said


def standing(system: acceptance.System) -> dict[str, acceptance.Row]:
    done = system.dedup("model", "list", "--json")
    assert done.returncode == 0, done.stderr
    return {row["id"]: row for row in map(json.loads, done.stdout.splitlines())}


@contextlib.contextmanager
def reader(system: acceptance.System, property_id: str) -> Iterator[set[tuple[int, int]]]:
    """Reads the views for the block, as the listing system: what it has seen of (flags, pairs for review)."""
    seen: set[tuple[int, int]] = set()
    done = threading.Event()
    look = """SELECT
        (SELECT count(*) FROM listing_duplicates WHERE property_id = %(property_id)s) AS flags,
        (SELECT count(*) FROM listing_review WHERE property_id = %(property_id)s) AS review"""

    def read() -> None:
        # A pause, as any reader's: without one it takes a processor from those whom it watches.
        while not done.wait(0.02):
            (row,) = system.read(look, property_id=property_id)
            seen.add((row["flags"], row["review"]))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def embeddings(system: acceptance.System) -> dict[tuple[str, str], set[str]]:
    found = system.ask(
        "SELECT photo.property_id, key, model_id FROM photo LEFT JOIN photo_embedding ON photo_id = id"
        " AND photo_embedding.property_id = photo.property_id WHERE status = 'embedded'"
    )
    result: dict[tuple[str, str], set[str]] = {}
    for row in found:
        result.setdefault((row["property_id"], row["key"].rpartition("/")[2]), set()).add(row["model_id"])
    return result


@pytest.mark.slow
def test_a_worker_that_cannot_embed_by_the_active_model_gives_its_task_back_and_ends(
    own: acceptance.System, tmp_path: pathlib.Path
) -> None:
    own.upload("before", "0.jpg", pictures.jpeg("bedroom"))
    own.settle()
    (old,) = standing(own)
    foreign = bundles.second(tmp_path / "foreign", name="foreign", weights_sha256="f" * 64)
    base = database.Database(own.stack.environment["DEDUP_DATABASE_URL"], pool_size=1)

    def make_active(model_id: str) -> None:
        with base.transaction() as connection:
            connection.execute("UPDATE model SET status = 'candidate' WHERE status = 'active'")
            connection.execute("UPDATE model SET status = 'active' WHERE id = %s", (model_id,))

    with (
        contextlib.closing(base),
        brokers.rabbitmq(own, "photos-unfit") as broker,
        acceptance.halted(own, "sweep"),
    ):
        settings = {**own.stack.environment, **broker.settings()}
        log = own.stack.log_file
        assert broker.send
        with acceptance.process(log("unfit-ingest"), "ingest", **settings):
            acceptance.until(broker.event_queue_exists, "ingest runs")
            with acceptance.process(log("unfit-embed"), "worker", "embed", **settings) as worker:
                acceptance.until(lambda: _said(own, "unfit-embed", "embed_worker_ready"), "it is ready")
                with base.transaction() as connection:
                    models.add(connection, foreign)
                make_active(foreign.id)
                for number in range(3):
                    name = f"{number}.jpg"
                    etag = own.upload("unfit", name, pictures.jpeg("dining", 90 - number), broker.bucket)
                    key = acceptance.key_of("unfit", name)
                    record = acceptance.record("ObjectCreated:Put", key, bucket=broker.bucket, etag=etag)
                    broker.send({"Records": [record]})
                assert worker.wait(acceptance.DEADLINE_SECONDS) == processes.EXIT_CONFIGURATION
            assert _said(own, "unfit-embed", "process_unfit")
            acceptance.until(lambda: len(own.statuses("unfit")) == 3, "all are on record")
            assert set(own.statuses("unfit").values()) == {"pending"}
            make_active(old)
            # Nobody publishes them again: what brings them is what was given back.
            with acceptance.process(log("fit-embed"), "worker", "embed", **settings):
                acceptance.until(
                    lambda: set(own.statuses("unfit").values()) == {"embedded"}, "nothing was lost"
                )


def _said(system: acceptance.System, worker: str, event: str) -> bool:
    return any(line["event"] == event for line in system.log(worker))


@pytest.mark.slow
@pytest.mark.timeout(2 * conftest.TIMEOUT_SECONDS)
def test_from_one_model_to_another_and_back(own: acceptance.System, tmp_path: pathlib.Path) -> None:
    for property_id in ("before", "judged"):
        for number in range(3):
            own.upload(property_id, f"{number}.jpg", pictures.jpeg("bedroom", 90 - number))
        own.upload(property_id, "plan.jpg", pictures.jpeg("plan"))
    own.settle()
    judged = ("verdict", "judged", *(acceptance.key_of("judged", f"{number}.jpg") for number in (0, 1)))
    assert own.dedup(*judged, "duplicate", "--by", "ann").returncode == 0
    flags = {place: own.flags(place) for place in ("before", "judged")}
    assert flags["before"] == {"1.jpg": "0.jpg", "2.jpg": "0.jpg"}
    (old,) = standing(own)

    # Nothing is alike enough for this one, so that its flags are people's alone.
    sharper = bundles.second(tmp_path / "sharper", name="sharper", duplicate=1.0)
    refused = own.dedup("backfill", "--model", "sharper")
    assert (refused.returncode, "dedup model add" in refused.stderr) == (78, True), refused.stderr
    new = dedup(own, "model", "add", str(tmp_path / "sharper"))["id"]
    assert new == sharper.id
    with reader(own, "before") as seen:
        # No worker was started again: they learn it by the next photo.
        for number in range(2):
            own.upload("during", f"{number}.jpg", pictures.jpeg("dining", 90 - number))
        own.settle()
        found = embeddings(own)
        assert found["during", "0.jpg"] == found["during", "1.jpg"] == {old, new}
        assert found["before", "0.jpg"] == {old}
        assert own.flags("during") == {"1.jpg": "0.jpg"}
        too_early = own.dedup("model", "activate", new)
        assert too_early.returncode == 78
        assert f"8 photos lack an embedding of model sharper ({new}); run `dedup backfill" in too_early.stderr
        assert dedup(own, "backfill", "--model", "sharper")["done"] == 8
        own.settle()
        assert all(item == {old, new} for item in embeddings(own).values())
        counts = {key: standing(own)[new][key] for key in ("status", "embedded", "missing", "properties")}
        assert counts == {"status": "candidate", "embedded": 10, "missing": 0, "properties": 0}

        foretold = dedup(own, "model", "compare", old, "sharper")
        # Of five flags one is a person's; of the judged property's photos one is flagged by the model.
        assert {key: foretold[key] for key in ("comes", "goes", "moves", "same", "properties_touched")} == {
            "comes": 0,
            "goes": 4,
            "moves": 0,
            "same": 1,
            "properties_touched": 3,
        }
        sample = foretold["samples"][0]
        assert (sample["key"], sample["kind"]) == (acceptance.key_of("before", "1.jpg"), "goes")
        assert sample["old_duplicate_of"] == acceptance.key_of("before", "0.jpg")
        assert set(seen) == {(2, 0)}, "until then the reader has seen nothing of it"

        assert dedup(own, "model", "activate", new) == {
            "model": new,
            "switched": 3,
            "waiting": 0,
            "parked": 0,
        }
        assert own.flags("before") == own.flags("during") == {}
        assert own.flags("judged") == {"1.jpg": "0.jpg"}
        acceptance.until(lambda: (0, 3) in seen, "the reader sees the new one")
        own.upload("after", "0.jpg", pictures.jpeg("exterior"))
        own.upload("after", "1.jpg", pictures.jpeg("exterior", 80))
        own.settle()
        assert own.flags("after") == {}
        assert embeddings(own)["after", "1.jpg"] == {old, new}

        # Going back; the one who asked for it is stopped at once, and the sweep sees to the properties.
        refused = own.dedup("model", "retire", new)
        assert (refused.returncode, "is active" in refused.stderr) == (78, True)
        base = database.Database(own.stack.environment["DEDUP_DATABASE_URL"], pool_size=1)
        with contextlib.closing(base), base.transaction() as connection:
            model_changes.activate(connection, models.find(connection, old))
        assert own.dedup("sweep").returncode == 0
        acceptance.until(lambda: own.flags("before") == flags["before"], "the flags from before are back")
        assert own.flags("judged") == flags["judged"]
        assert own.flags("after") == {"1.jpg": "0.jpg"}
    assert set(seen) == {(2, 0), (0, 3)}, "one model or the other, never a part of both"
    feed: dict[str, str] = {}
    for row in own.read("SELECT property_id, key, duplicate_of_key FROM listing_flag_feed ORDER BY position"):
        if row["duplicate_of_key"] is None:
            del feed[row["key"]]
        else:
            feed[row["key"]] = row["duplicate_of_key"]
    on_record = own.read("SELECT key, duplicate_of_key FROM listing_duplicates")
    assert feed == {row["key"]: row["duplicate_of_key"] for row in on_record}

    said = dedup(own, "model", "retire", "sharper")
    assert said["embeddings"] == 12
    assert said["pairs"] > 0
    assert standing(own)[new]["status"] == "retired"
    own.upload("after", "2.jpg", pictures.jpeg("exterior", 70))
    own.settle()
    assert own.flags("after") == {"1.jpg": "0.jpg", "2.jpg": "0.jpg"}
    assert all(item == {old} for item in embeddings(own).values())
    doctor = own.dedup("doctor", "--json")
    checks = {row["name"]: row for row in map(json.loads, doctor.stdout.splitlines())}
    assert (checks["model"]["ok"], old in checks["model"]["text"]) == (True, True)
    assert "they fit the active model" in checks["weights"]["text"]
