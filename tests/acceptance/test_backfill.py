"""Photos in bulk: from what is on record and from a bucket, stopped in between, each photo's fate its own."""

from __future__ import annotations

import csv
import gzip
import json
import pathlib
import signal
import urllib.parse
from collections.abc import Iterator

import pytest

from . import pictures
from . import system as acceptance

BUCKET = "photos-old"


@pytest.fixture(scope="module", autouse=True)
def bulk(system: acceptance.System) -> Iterator[str]:
    """A worker for backfills; gives the name of its log."""
    system.s3.create_bucket(Bucket=BUCKET)
    with system.process("bulk-of-backfills", "worker", "embed", "--bulk"):
        yield "bulk-of-backfills"


def backfill(system: acceptance.System, *arguments: str, **variables: str) -> acceptance.Row:
    """Run `dedup backfill` to its end; returns what it says that it did."""
    done = system.dedup("backfill", *arguments, "--json", **variables)
    assert done.returncode == 0, done.stderr
    said: acceptance.Row = json.loads(done.stdout)
    return said


@pytest.mark.slow
def test_from_the_database(system: acceptance.System, property_id: str) -> None:
    system.upload(property_id, "text.jpg", b"no photo")
    for number in range(6):
        system.upload(property_id, f"{number}.jpg", pictures.jpeg("bedroom", 60 + number))
    system.settle()
    flags = system.flags(property_id)
    assert len(flags) == 5
    system.ask(
        "DELETE FROM photo_embedding USING photo WHERE photo_embedding.property_id = photo.property_id"
        " AND photo_id = photo.id AND photo.property_id = %(property_id)s AND key LIKE '%%/1.jpg' RETURNING 1",
        property_id=property_id,
    )
    system.ask(
        "UPDATE photo SET status = 'failed', failure = 'gave_up' WHERE property_id = %(property_id)s"
        " AND key LIKE '%%/2.jpg' RETURNING 1",
        property_id=property_id,
    )
    of_it = ("--property", property_id)
    assert backfill(system, "--missing", *of_it, "--dry-run")["total"] == 1
    assert backfill(system, "--missing", *of_it)["done"] == 1
    assert backfill(system, "--missing", *of_it)["done"] == 0
    # What cannot be embedded fails again, and nothing else does.
    assert backfill(system, "--failed", *of_it)["done"] == 2
    system.settle()
    expected = {f"{number}.jpg": "embedded" for number in range(6)} | {"text.jpg": "failed:unsupported"}
    assert system.statuses(property_id) == expected

    before = _embeddings(system, property_id)
    assert backfill(system, "--all", *of_it)["done"] == 6
    system.settle()
    after = _embeddings(system, property_id)
    assert before.keys() == after.keys()
    assert all(before[photo] != after[photo] for photo in before), "each was written anew"
    assert system.flags(property_id) == flags
    assert system.dedup("backfill", "--missing", "--all").returncode == 2


@pytest.mark.slow
def test_from_a_bucket_and_its_inventory(
    system: acceptance.System, property_id: str, tmp_path: pathlib.Path
) -> None:
    taken = {"DEDUP_BUCKETS": f"photos,{BUCKET}"}
    prefix = f"properties/{property_id}/"
    of_it = ("--bucket", BUCKET, "--prefix", prefix)

    def put(name: str) -> None:
        system.upload(property_id, name, pictures.jpeg("bedroom"), BUCKET)

    for number in range(5):
        put(f"{number} é+.jpg")
    system.s3.put_object(Bucket=BUCKET, Key=f"{prefix}notes.txt", Body=b"no photo's key")
    would = backfill(system, *of_it, "--dry-run", **taken)
    assert (would["total"], would["skipped"], system.statuses(property_id)) == (5, 1, {})
    done = backfill(system, *of_it, "--rate", "50", **taken)
    assert (done["done"], done["removed"], done["skipped"]) == (5, 0, 1)
    acceptance.until(lambda: len(system.flags(property_id)) == 4, "they are matched")
    assert backfill(system, *of_it, **taken)["done"] == 0, "all are on record"

    # No event came of this either.
    system.s3.delete_object(Bucket=BUCKET, Key=acceptance.key_of(property_id, "0 é+.jpg"))
    put("5.jpg")
    path = tmp_path / "inventory.csv.gz"
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        for item in system.s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]:
            key = urllib.parse.quote_plus(item["Key"], safe="/")
            moment = item["LastModified"].strftime("%Y-%m-%dT%H:%M:%S.000Z")
            writer.writerow([BUCKET, key, item["Size"], moment, item["ETag"].strip('"')])
    # Uploaded after the inventory was made: not in it, and not gone either.
    put("6.jpg")
    assert backfill(system, *of_it, **taken)["removed"] == 1
    by_inventory = backfill(system, *of_it, "--inventory", str(path), **taken)
    assert (by_inventory["done"], by_inventory["removed"]) == (0, 0), "the list had found it all"
    assert system.statuses(property_id) == {
        "0 é+.jpg": "removed:object_gone",
        **{f"{number} é+.jpg": "embedded" for number in range(1, 5)},
        "5.jpg": "embedded",
        "6.jpg": "embedded",
    }
    refused = system.dedup("backfill", *of_it)
    assert refused.returncode == 78
    assert "DEDUP_BUCKETS" in refused.stderr


@pytest.mark.slow
def test_an_inventory_alone(system: acceptance.System, property_id: str, tmp_path: pathlib.Path) -> None:
    taken = {"DEDUP_BUCKETS": f"photos,{BUCKET}"}
    prefix = f"properties/{property_id}/"
    path = tmp_path / "inventory.csv"
    of_it = ("--bucket", BUCKET, "--prefix", prefix, "--inventory", str(path))
    etags = {
        name: system.upload(property_id, name, pictures.jpeg("plan"), BUCKET) for name in ("b.jpg", "a.jpg")
    }

    def write(*names: str) -> None:
        path.write_text(
            "".join(
                f'"{BUCKET}","{acceptance.key_of(property_id, name)}","1","2026-01-02T03:04:05.000Z","{etags[name]}"\n'
                for name in names
            )
        )

    write("b.jpg", "a.jpg")
    assert backfill(system, *of_it, **taken)["done"] == 2
    assert system.statuses(property_id) == {"a.jpg": "embedded", "b.jpg": "embedded"}
    write("b.jpg")
    assert backfill(system, *of_it, **taken)["removed"] == 0, "still in the store"
    system.s3.delete_object(Bucket=BUCKET, Key=acceptance.key_of(property_id, "a.jpg"))
    assert backfill(system, *of_it, **taken)["removed"] == 1
    path.write_text("one,two\n")
    wrong = system.dedup("backfill", *of_it, **taken)
    assert (wrong.returncode, "line 1: 2 columns" in wrong.stderr) == (78, True), wrong.stderr


@pytest.mark.slow
def test_stopped_and_started_again(system: acceptance.System, property_id: str, bulk: str) -> None:
    names = [f"{property_id}-{number}" for number in range(4)]
    photos = 40
    window = 8
    for number in range(photos):
        system.upload(names[number % 4], f"{number}.jpg", pictures.jpeg("bedroom"))
    system.settle()
    ids = {row["id"] for row in _rows(system, f"{property_id}-%")}
    began = min(row["uploaded_at"] for row in _rows(system, f"{property_id}-%")).isoformat()
    # Everything since the first of them: what other tests uploaded before is left out.
    command = ("backfill", "--since", began[:19], "--json")
    slow = {"DEDUP_BACKFILL_WINDOW": str(window)}

    def embedded() -> list[int]:
        lines = [line for line in system.log(bulk) if line["event"] == "photo_embedded"]
        return [line["photo_id"] for line in lines if line["photo_id"] in ids]

    for how in (signal.SIGINT, signal.SIGKILL):
        # What the run before left in the queue is done meanwhile, and is not this one's.
        system.settle()
        done = len(embedded())
        # Half a minute or more for all of them: it is stopped long before its end, however slow the machine is.
        with system.process(f"{property_id}-run", *command, "--rate", "0.5", **slow) as process:
            acceptance.until(lambda done=done: len(embedded()) > done, "some of them are done")  # type: ignore[misc]
            process.send_signal(how)
            assert process.wait(30) == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert len(embedded()) < photos, "stopped in between"
    shown = system.dedup(*command, **slow)
    assert shown.returncode == 0, shown.stderr
    assert sorted(embedded()) == sorted(ids), "what was done is not done again"


def _rows(system: acceptance.System, like: str) -> list[acceptance.Row]:
    return system.ask("SELECT id, uploaded_at FROM photo WHERE property_id LIKE %(like)s", like=like)


def _embeddings(system: acceptance.System, property_id: str) -> dict[int, str]:
    """By photo, the transaction that wrote its embedding."""
    found = system.ask(
        "SELECT photo_id, xmin::text FROM photo_embedding WHERE property_id = %(property_id)s",
        property_id=property_id,
    )
    return {row["photo_id"]: row["xmin"] for row in found}
