"""People's verdicts as a labelled pair set, out of a real database and a real store."""

from __future__ import annotations

import hashlib
import io
import itertools
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import boto3
import numpy as np
import pytest
from PIL import Image

from core import database, errors, events, photos
from core.learning import pairs, verdicts
from tests.integration.conftest import Server, _open_folder
from tests.integration.ledger import activate_model, apply, embed, event, new_property, rows, vector, verdict
from workers import embedded_s3


@pytest.fixture(scope="module", autouse=True)
def _model(base: database.Database) -> None:
    activate_model(base)


@pytest.fixture(autouse=True)
def _no_verdicts(base: database.Database) -> None:
    rows(base, "DELETE FROM verdict RETURNING 1")


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    with _open_folder() as folder:
        store = embedded_s3.EmbeddedS3(folder)
        store.start()
        yield boto3.client(
            "s3",
            endpoint_url=store.endpoint_url,
            region_name=embedded_s3.REGION,
            aws_access_key_id=embedded_s3.ACCESS_KEY_ID,
            aws_secret_access_key=embedded_s3.SECRET_ACCESS_KEY,
        )
        store.stop()


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def upload(base: database.Database, s3: Any, property_id: str, name: str, data: bytes) -> photos.Revision:
    """A photo in the store and on record, embedded where it is a picture."""
    created = event(property_id, name)
    etag = s3.put_object(Bucket="photos", Key=created.key, Body=data)["ETag"].strip('"')
    photo = apply(base, event(property_id, name, etag=etag)).photo
    if data.startswith(b"\xff\xd8"):
        assert embed(base, photo, vector(1), etag=etag, sha256=hashlib.sha256(data).hexdigest())
    return photo


def write(base: database.Database, s3: Any, output: pathlib.Path, **limits: int) -> pairs.PairSet:
    given = {"max_photo_bytes": 100_000, "max_photo_pixels": 10_000, **limits}
    return verdicts.write(base, s3, output, progress=None, **given)


def test_verdicts_become_pairs(base: database.Database, s3: Any, tmp_path: pathlib.Path) -> None:
    labels = {}
    for number in range(12):
        property_id = f"judged-{number}"
        found = [upload(base, s3, property_id, f"{name}.JPG", jpeg(number * 10 + name)) for name in range(3)]
        for (i, a), (j, b) in itertools.combinations(enumerate(found), 2):
            duplicate = (i + j + number) % 2 == 0
            verdict(base, b, a, duplicate)
            labels[frozenset((jpeg(number * 10 + i), jpeg(number * 10 + j)))] = (property_id, duplicate)
    told: list[tuple[int, int]] = []
    made = verdicts.write(
        base,
        s3,
        tmp_path / "set",
        max_photo_bytes=100_000,
        max_photo_pixels=10_000,
        progress=lambda done, total: told.append((done, total)),
    )
    assert made == pairs.read(tmp_path / "set")
    assert told == [(done, 36) for done in range(1, 37)]
    kept = {}
    for pair in made.pairs:
        contents = frozenset((made.images / name).read_bytes() for name in (pair.a, pair.b))
        kept[contents] = (pair.property_a, pair.duplicate)
        assert pair.property_a == pair.property_b
        assert pair.kind == "verdict"
        assert pair.split == verdicts.split_of(pair.property_a)
        assert pair.a.endswith(".jpg")
    assert kept == labels
    assert {pair.split for pair in made.pairs} == {"train", "val"}


def test_one_property_in_five_is_val() -> None:
    splits = [verdicts.split_of(str(number)) for number in range(2000)]
    assert splits == [verdicts.split_of(str(number)) for number in range(2000)]
    assert splits.count("val") == pytest.approx(400, abs=80)
    assert set(splits) == {"train", "val"}


def test_what_cannot_be_used_is_left_out_and_counted(
    base: database.Database, s3: Any, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    property_id = f" {new_property()} ä,"
    names = ("a", "b", "c", "gone", "removed", "corrupt", "text", "large", "replaced")
    data = {name: jpeg(number) for number, name in enumerate(names)}
    data["corrupt"] = data["corrupt"][:200]
    data["text"] = b"no picture"
    data["large"] += bytes(100_000)
    found = {name: upload(base, s3, property_id, name, data[name]) for name in names}
    for other in names[1:]:
        verdict(base, found["a"], found[other], other != "b")
    s3.delete_object(Bucket="photos", Key=event(property_id, "gone").key)
    apply(base, event(property_id, "removed", at=9, kind=events.Kind.REMOVED))
    s3.put_object(Bucket="photos", Key=event(property_id, "replaced").key, Body=jpeg(99))
    with caplog.at_level(logging.WARNING):
        made = write(base, s3, tmp_path / "set")
    assert [pair.duplicate for pair in made.pairs] == [False, True]
    assert len(made.pictures) == len(list(made.images.iterdir())) == 3
    assert "6 photos" in caplog.text
    with (tmp_path / "set" / verdicts.LEFT_OUT).open(encoding="utf-8") as file:
        text = file.read()
    for reason in ("object_gone", "removed", "corrupt", "unsupported", "too_large", "replaced"):
        assert text.count(f",{reason},") == 1


def test_a_picture_over_the_limit_of_pixels_is_left_out(
    base: database.Database, s3: Any, tmp_path: pathlib.Path
) -> None:
    property_id = new_property()
    a, b, c = (upload(base, s3, property_id, name, jpeg(0)) for name in "abc")
    verdict(base, a, b, True)
    verdict(base, a, c, False)
    with pytest.raises(errors.ConfigurationError, match=r"left_out\.csv\) are 0 duplicate and 0 different"):
        write(base, s3, tmp_path / "set", max_photo_pixels=100)


@pytest.mark.parametrize(("said", "counts"), [([], (0, 0)), ([True], (1, 0)), ([False, False], (0, 2))])
def test_too_few_verdicts_are_told(
    base: database.Database, s3: Any, tmp_path: pathlib.Path, said: list[bool], counts: tuple[int, int]
) -> None:
    property_id = new_property()
    found = [upload(base, s3, property_id, name, jpeg(0)) for name in "abc"]
    for other, duplicate in zip(found[1:], said, strict=False):
        verdict(base, found[0], other, duplicate)
    words = f"on record are {counts[0]} duplicate and {counts[1]} different.*dedup verdict"
    with pytest.raises(errors.ConfigurationError, match=words):
        write(base, s3, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_a_folder_that_holds_something_is_left_alone(
    base: database.Database, s3: Any, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(errors.ConfigurationError, match="not empty"):
        write(base, s3, tmp_path)


def test_a_store_that_is_away_ends_it(
    base: database.Database, server: Server, tmp_path: pathlib.Path
) -> None:
    del server
    away = boto3.client(
        "s3",
        endpoint_url="http://127.0.0.1:1",
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )
    property_id = new_property()
    found = [apply(base, event(property_id, name)).photo for name in "abc"]
    verdict(base, found[0], found[1], True)
    verdict(base, found[0], found[2], False)
    with pytest.raises(errors.TransientError):
        write(base, away, tmp_path / "set")
