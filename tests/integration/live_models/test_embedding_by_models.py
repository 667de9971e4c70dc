"""An embed process that embeds by several models: real weights, database and store."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import boto3
import numpy as np
import pytest
import torch

from core import (
    attempts,
    bundle,
    database,
    embedding,
    errors,
    model_changes,
    models,
    photos,
    weights,
)
from tests.acceptance import pictures
from tests.integration import bundles, ledger
from tests.integration.conftest import _open_folder
from tests.integration.live_models import steps
from workers import embed, embedded_s3, embedders, isolation, processes, recording

pytestmark = pytest.mark.filterwarnings("ignore:DEDUP_BACKBONE_WEIGHTS=untrained")


class _Store:
    """The real store, with a chance to do something between the start of an attempt and its end."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.server = embedded_s3.EmbeddedS3(folder)
        assert self.server.start()
        self.client = boto3.client(
            "s3",
            endpoint_url=self.server.endpoint_url,
            region_name=embedded_s3.REGION,
            aws_access_key_id=embedded_s3.ACCESS_KEY_ID,
            aws_secret_access_key=embedded_s3.SECRET_ACCESS_KEY,
        )
        self.meanwhile: Any = lambda: None

    def get_object(self, **place: str) -> Any:
        answer = self.client.get_object(**place)
        self.meanwhile()
        return answer


@pytest.fixture(scope="module")
def shared_store() -> Iterator[_Store]:
    with _open_folder() as folder:
        store = _Store(folder)
        yield store
        store.server.stop()


@pytest.fixture
def store(shared_store: _Store) -> _Store:
    shared_store.meanwhile = lambda: None
    return shared_store


def worker(base: database.Database, store: _Store) -> embed.Worker:
    ours = steps.config()
    known = embedders.prepare(ours, base)
    return embed.Worker(
        ours,
        base,
        store,
        known,
        isolation.Gate(),
        concurrent.futures.ThreadPoolExecutor(1),
        recording.Recorder(base, known, "match", 1),
        in_flight=1,
    )


def upload(base: database.Database, store: _Store, place: str, name: str, data: bytes) -> photos.Revision:
    change = ledger.event(place, name)
    etag = store.client.put_object(Bucket="photos", Key=change.key, Body=data)["ETag"].strip('"')
    return ledger.apply(base, ledger.event(place, name, etag=etag)).photo


def embedded_by(base: database.Database, photo: photos.Revision) -> dict[str, np.ndarray[Any, Any]]:
    found = ledger.rows(
        base,
        "SELECT model_id, embedding FROM photo_embedding WHERE property_id = %s AND photo_id = %s",
        photo.property_id,
        photo.photo_id,
    )
    return {row["model_id"]: row["embedding"].to_numpy() for row in found}


def test_a_model_that_is_added_while_a_photo_is_in_hand_gets_it_too(
    base: database.Database, store: _Store, first: bundle.Bundle, second: bundle.Bundle
) -> None:
    ours = worker(base, store)
    photo = upload(base, store, ledger.new_property(), "a.jpg", pictures.jpeg("bedroom"))
    store.meanwhile = lambda: steps.add(base, second)
    assert ours.embed(photo)
    assert embedded_by(base, photo).keys() == {first.id, second.id}
    assert ledger.row(base, photo)["attempts"] == 0


def test_a_photo_is_embedded_by_what_it_lacks_unless_its_bytes_are_others(
    base: database.Database, store: _Store, first: bundle.Bundle, second: bundle.Bundle
) -> None:
    ours = worker(base, store)
    place = ledger.new_property()
    photo = upload(base, store, place, "a.jpg", pictures.jpeg("bedroom"))
    assert ours.embed(photo)
    written = "SELECT xmin::text FROM photo_embedding WHERE property_id = %s AND model_id = %s"
    before = ledger.rows(base, written, place, first.id)
    steps.add(base, second)
    assert ours.embed(photo), "the process had not met the model before"
    assert embedded_by(base, photo).keys() == {first.id, second.id}
    assert ledger.rows(base, written, place, first.id) == before, "what was there was left alone"
    old = embedded_by(base, photo)
    # Replaced in the store, and its event is still on its way.
    steps.run(base, "DELETE FROM photo_embedding WHERE model_id = %s", second.id)
    store.client.put_object(Bucket="photos", Key=ledger.event(place, "a.jpg").key, Body=pictures.jpeg("plan"))
    assert ours.embed(photo)
    new = embedded_by(base, photo)
    assert new.keys() == old.keys()
    assert all(float(new[model_id] @ old[model_id]) < 0.99 for model_id in new), "both are of the new bytes"


def test_what_a_candidate_cannot_embed_is_embedded_by_the_active_model(
    base: database.Database, store: _Store, first: bundle.Bundle, tmp_path: pathlib.Path
) -> None:
    broken = bundles.second(tmp_path / "broken", name="broken", input_size=160)
    steps.start(base)
    steps.add(base, broken)
    ours = worker(base, store)
    (of_it,) = [item for key, item in ours.models._passes.items() if key[1] == 160]
    of_it.batcher._embed = lambda pixels: np.full((len(pixels), broken.dims), np.nan, np.float32)
    photo = upload(base, store, ledger.new_property(), "a.jpg", pictures.jpeg("bedroom"))
    assert ours.embed(photo)
    assert embedded_by(base, photo).keys() == {first.id}
    row = ledger.row(base, photo)
    assert (row["status"], row["failure"]) == ("embedded", None)
    before = row["updated_at"]
    # A backfill asks for it again: it was tried, and the photo stays what it was.
    assert not ours.embed(photo)
    for _ in range(5):
        assert not ours.embed(photo)
    row = ledger.row(base, photo)
    assert (row["status"], row["updated_at"] > before) == ("embedded", True)
    assert row["attempts"] == 0, "each attempt came to an end, and says nothing of the next model"


def test_a_retired_model_is_not_computed_any_more(
    base: database.Database,
    store: _Store,
    first: bundle.Bundle,
    second: bundle.Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps.start(base)
    steps.add(base, second)
    ours = worker(base, store)
    with base.transaction() as connection:
        model_changes.retire(connection, models.find(connection, second.id))
    asked: list[frozenset[str]] = []
    whole = ours.models.embed

    def embed_by(decode: Any, model_ids: Any, active: str | None) -> Any:
        asked.append(frozenset(model_ids))
        return whole(decode, model_ids, active)

    monkeypatch.setattr(type(ours.models), "embed", lambda _, *arguments: embed_by(*arguments))
    photo = upload(base, store, ledger.new_property(), "a.jpg", pictures.jpeg("bedroom"))
    assert ours.embed(photo)
    assert asked == [frozenset({first.id})]


@pytest.mark.parametrize(("seconds", "counted"), [(1.0, 0), (10_000.0, 1)])
def test_an_order_to_stop_says_something_of_a_photo_only_if_it_hangs(
    base: database.Database, store: _Store, seconds: float, counted: int
) -> None:
    ours = worker(base, store)
    now = time.monotonic()
    ours = dataclasses.replace(ours, gate=isolation.Gate(clock=lambda: now))
    photo = upload(base, store, ledger.new_property(), "a.jpg", pictures.jpeg("bedroom"))
    seen: list[int] = []

    def stop() -> None:
        nonlocal now
        now += seconds
        seen.append(ledger.row(base, photo)["attempts"])
        ours.give_back()
        seen.append(ledger.row(base, photo)["attempts"])

    store.meanwhile = stop
    assert ours.embed(photo)
    assert seen == [1, counted]


def test_what_only_waits_for_its_turn_is_not_given_back(base: database.Database, store: _Store) -> None:
    ours = worker(base, store)
    photo = upload(base, store, ledger.new_property(), "a.jpg", pictures.jpeg("bedroom"))
    with base.transaction() as connection:
        # By another process, which is lost with it.
        attempts.begin_attempt(connection, photo, known=ours.models.known)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with ours.gate.together():
            waiting = pool.submit(ours.embed, photo)
            deadline = time.monotonic() + 60
            while not ours.gate._waiting:
                assert time.monotonic() < deadline
            with base.transaction() as connection:
                photos.fail(connection, photo, "killed_worker", "")
            ours.give_back()
        assert not waiting.result(60)
    row = ledger.row(base, photo)
    assert (row["status"], row["failure"], row["attempts"]) == ("failed", "killed_worker", 1)


@pytest.mark.parametrize(
    ("again", "since"), [(False, None), (True, "infinity"), (None, None), ("2026-01-01", "2026-01-01")]
)
def test_messages_from_before_backfills_had_a_time_are_understood(again: Any, since: str | None) -> None:
    assert embed._since(again) == since


def test_anew_without_a_time_is_anew(base: database.Database, store: _Store) -> None:
    ours = worker(base, store)
    place = ledger.new_property()
    photo = upload(base, store, place, "a.jpg", pictures.jpeg("bedroom"))
    assert ours.embed(photo)
    before = ledger.row(base, photo)["updated_at"]
    assert ours.embed(photo, again=embed._since(True))
    assert ledger.row(base, photo)["updated_at"] > before


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("no kernel")])
def test_a_candidate_that_the_device_does_not_take_is_left_out(
    base: database.Database,
    store: _Store,
    first: bundle.Bundle,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    warm_up, fault = steps.too_much(160)
    fault.append(error)
    monkeypatch.setattr(embedding.Backbone, "warm_up", warm_up)
    steps.start(base)
    ours = worker(base, store)
    large = bundles.second(tmp_path / "large", name="large", input_size=160)
    steps.add(base, large)
    photo = upload(base, store, ledger.new_property(), "a.jpg", pictures.jpeg("bedroom"))
    assert ours.embed(photo), "as if there were no candidate"
    assert embedded_by(base, photo).keys() == {first.id}
    assert ours.models.unfit == frozenset([large.id])
    assert list(ours.models._backbones) == [weights.UNTRAINED_SHA256], "the active model's own stays"
    assert embedders.prepare(steps.config(), base).unfit == frozenset([large.id]), "after a new start, too"
    steps.run(base, "UPDATE model SET status = 'candidate'")
    steps.run(base, "UPDATE model SET status = 'active' WHERE id = %s", large.id)
    with pytest.raises(processes.UnfitProcessError, match=f"{large.id}.*{error}") as caught:
        ours.embed(photo)
    assert caught.value.exit_code == processes.EXIT_AWAY, "it may go better in a new process"
    assert ledger.row(base, photo)["status"] == "embedded"
    with pytest.raises(errors.TransientError, match=f"large.*{error}"):
        embedders.prepare(steps.config(), base)
    fault.clear()
    assert large.id in embedders.prepare(steps.config(), base).known
