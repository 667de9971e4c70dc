"""Bundles in the database, and an embed process that embeds by several of them: real weights, database and store."""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import boto3
import numpy as np
import psycopg
import pytest
import structlog
import torch
from psycopg import sql

from core import (
    bundle,
    database,
    embedding,
    errors,
    images,
    model_changes,
    models,
    photos,
    registry,
    settings,
    weights,
)
from tests.acceptance import pictures
from tests.integration import bundles, ledger
from tests.integration.conftest import Server, _open_folder
from workers import embed, embedded_s3, embedders, processes

pytestmark = pytest.mark.filterwarnings("ignore:DEDUP_BACKBONE_WEIGHTS=untrained")
OTHER_SHA256 = hashlib.sha256(b"other weights").hexdigest()


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[database.Database]:
    name = "test_live_models"
    with server.database(name) as owner:
        with psycopg.connect(owner, autocommit=True) as connection:
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET dedup.embedded = 'on'").format(sql.Identifier(name))
            )
        pool = database.Database(server.url(name, "dedup_worker"), pool_size=8)
        yield pool
        pool.close()


@pytest.fixture
def base(shared: database.Database) -> database.Database:
    with shared.transaction() as connection:
        for table in ("duplicate_flag", "pair", "photo_embedding", "property_model", "photo", "model"):
            connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
    return shared


@pytest.fixture(scope="module")
def first() -> bundle.Bundle:
    return bundle.for_backbone(weights.UNTRAINED_SHA256)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> bundle.Bundle:
    return bundles.second(tmp_path_factory.mktemp("bundles") / "second")


def start(base: database.Database, named: bundle.Bundle | None = None) -> models.Model:
    with base.transaction() as connection:
        return models.start(
            connection, named, lambda: bundle.for_backbone(weights.UNTRAINED_SHA256), bundle.shipped_by_id
        )


def add(base: database.Database, chosen: bundle.Bundle) -> models.Model:
    with base.transaction() as connection:
        return models.add(connection, chosen)


def read(base: database.Database, model_id: str, known: registry.Registry | None = None) -> bundle.Bundle:
    with base.transaction() as connection:
        return (known or registry.Registry()).get(connection, model_id)


def run(base: database.Database, statement: str, *parameters: object) -> None:
    with base.transaction() as connection:
        connection.execute(statement.encode(), parameters)


def config(**changes: Any) -> settings.Settings:
    return settings.Settings(**{"backbone_weights": "untrained", "device": "cpu", **changes})


def test_the_first_worker_brings_the_active_model_and_then_the_database_decides(
    base: database.Database, first: bundle.Bundle, second: bundle.Bundle
) -> None:
    assert start(base).id == first.id
    with pytest.raises(
        errors.ConfigurationError, match=rf"DEDUP_BUNDLE is second .*{first.id}.*dedup model add"
    ):
        start(base, second)
    with base.transaction() as connection:
        assert [model.id for model in models.every(connection)] == [first.id], "nothing was added by the way"
    assert add(base, second).status == "candidate"
    assert start(base, second).id == first.id, "live, and not the active one"
    assert read(base, second.id).files == second.files


def test_a_named_bundle_is_the_first_of_a_new_database(
    base: database.Database, second: bundle.Bundle
) -> None:
    assert start(base, second).id == second.id


def test_a_retired_model_comes_back_as_a_candidate(
    base: database.Database, first: bundle.Bundle, second: bundle.Bundle
) -> None:
    start(base)
    add(base, second)
    run(base, "UPDATE model SET status = 'retired' WHERE id = %s", second.id)
    with pytest.raises(errors.ConfigurationError, match="no live model"):
        start(base, second)
    assert add(base, second).status == "candidate"
    assert add(base, first).status == "active", "adding the active one changes nothing"


def test_a_row_from_before_gets_its_bundle_from_a_worker_that_has_it(
    base: database.Database, first: bundle.Bundle, second: bundle.Bundle
) -> None:
    start(base)
    add(base, second)
    run(base, "UPDATE model SET bundle_card = NULL, bundle_tensors = NULL")
    with pytest.raises(errors.TransientError, match="dedup model add"):
        read(base, second.id)
    start(base)
    assert read(base, first.id).digest == first.digest, "a shipped one"
    with pytest.raises(errors.TransientError):
        read(base, second.id)
    start(base, second)
    assert read(base, second.id).digest == second.digest


def test_a_bundle_is_verified_by_its_digest_and_read_once(
    base: database.Database, first: bundle.Bundle, second: bundle.Bundle
) -> None:
    start(base)
    known = registry.Registry()
    assert read(base, first.id, known).digest == first.digest
    run(base, "UPDATE model SET bundle_tensors = %s", second.files.tensors)
    with pytest.raises(errors.ConfigurationError, match=f"of model {first.id} in the database: SHA-256"):
        read(base, first.id)
    run(base, "UPDATE model SET bundle_card = %s", second.files.card)
    with pytest.raises(
        errors.ConfigurationError, match=f"expected digest {first.digest}, found {second.digest}"
    ):
        read(base, first.id)
    assert read(base, first.id, known).digest == first.digest


def test_models_of_one_backbone_share_the_pass_and_give_what_each_alone_gives(
    base: database.Database, first: bundle.Bundle, second: bundle.Bundle, tmp_path: pathlib.Path
) -> None:
    start(base)
    smaller = bundles.second(tmp_path / "smaller", name="smaller", input_size=160)
    foreign = bundles.second(tmp_path / "foreign", name="foreign", weights_sha256=OTHER_SHA256)
    for item in (second, smaller, foreign):
        add(base, item)
    with structlog.testing.capture_logs() as logs:
        ours = embedders.prepare(config(), base)
    assert ours.known == frozenset((first.id, second.id, smaller.id))
    assert ours.unfit == frozenset((foreign.id,))
    assert [line["model"] for line in logs if line["event"] == "model_left_out"] == [foreign.id]
    backbone = embedding.Backbone(weights.load("untrained"))
    decoded: list[int] = []
    for subject in ("bedroom", "plan"):
        data = pictures.jpeg(subject)

        def decode(size: int, data: bytes = data) -> images.Pixels:
            decoded.append(size)
            return images.decode(data, size=size, max_pixels=10**8).pixels

        found = ours.embed(decode, [first.id, second.id, smaller.id], first.id)
        assert decoded == [224, 160]
        for item in (first, second, smaller):
            alone = embedding.Embedder(backbone, item.fusion).embed(decode(item.input_size)[None])[0]
            np.testing.assert_allclose(found[item.id], alone, atol=1e-5)
        assert not np.allclose(found[first.id], found[second.id], atol=1e-2)
        decoded.clear()
    with structlog.testing.capture_logs() as logs:
        ours.learn([foreign.id])
    assert logs == [], "it says so once"
    ours.check_active(first.id)
    with pytest.raises(errors.ConfigurationError, match=rf"SHA-256 {OTHER_SHA256}.*comma-separated"):
        ours.check_active(foreign.id)


def test_a_candidate_that_cannot_be_read_is_left_out(
    base: database.Database, first: bundle.Bundle, second: bundle.Bundle
) -> None:
    start(base)
    add(base, second)
    # As a newer version might write it.
    card = second.files.card.replace(b'"format": 2', b'"format": 99')
    run(base, "UPDATE model SET bundle_card = %s WHERE id = %s", card, second.id)
    ours = embedders.prepare(config(), base)
    assert (ours.known, ours.unfit) == (frozenset([first.id]), frozenset([second.id]))


def _too_much(size: int) -> Any:
    """A warm-up in place of the real one, that fails for one input size; the second value arms it."""
    real = embedding.Backbone.warm_up
    fault: list[Exception] = []

    def warm_up(self: embedding.Backbone, wanted: int, batch: int) -> None:
        if fault and wanted == size:
            raise fault[0]
        real(self, wanted, batch)

    return warm_up, fault


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("no kernel")])
def test_a_candidate_that_the_device_does_not_take_is_left_out(
    base: database.Database,
    store: _Store,
    first: bundle.Bundle,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    warm_up, fault = _too_much(160)
    fault.append(error)
    monkeypatch.setattr(embedding.Backbone, "warm_up", warm_up)
    start(base)
    ours = worker(base, store)
    large = bundles.second(tmp_path / "large", name="large", input_size=160)
    add(base, large)
    photo = upload(base, store, ledger.new_property(), "a.jpg", pictures.jpeg("bedroom"))
    assert ours.embed(photo), "as if there were no candidate"
    assert embedded_by(base, photo).keys() == {first.id}
    assert ours.models.unfit == frozenset([large.id])
    assert list(ours.models._backbones) == [weights.UNTRAINED_SHA256], "the active model's own stays"
    assert embedders.prepare(config(), base).unfit == frozenset([large.id]), "after a new start, too"
    run(base, "UPDATE model SET status = 'candidate'")
    run(base, "UPDATE model SET status = 'active' WHERE id = %s", large.id)
    with pytest.raises(processes.UnfitProcessError, match=f"{large.id}.*{error}") as caught:
        ours.embed(photo)
    assert caught.value.exit_code == processes.EXIT_AWAY, "it may go better in a new process"
    assert ledger.row(base, photo)["status"] == "embedded"
    with pytest.raises(errors.TransientError, match=f"large.*{error}"):
        embedders.prepare(config(), base)
    fault.clear()
    assert large.id in embedders.prepare(config(), base).known


def test_a_backbone_that_only_a_failed_candidate_wanted_is_dropped(
    base: database.Database, first: bundle.Bundle, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(base)
    ours = embedders.prepare(config(), base)
    ours._sources = {**ours._sources, OTHER_SHA256: "untrained"}
    foreign = bundles.second(
        tmp_path / "foreign", name="foreign", weights_sha256=OTHER_SHA256, input_size=160
    )
    add(base, foreign)
    warm_up, fault = _too_much(160)
    fault.append(torch.OutOfMemoryError("CUDA out of memory"))
    monkeypatch.setattr(embedding.Backbone, "warm_up", warm_up)
    ours.learn([foreign.id])
    assert (ours.unfit, list(ours._backbones)) == (frozenset([foreign.id]), [weights.UNTRAINED_SHA256])


def test_a_device_that_is_lost_while_a_candidate_is_learned_ends_the_process(
    base: database.Database, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(base)
    ours = embedders.prepare(config(), base)
    add(base, bundles.second(tmp_path / "large", name="large", input_size=160))
    warm_up, fault = _too_much(160)
    fault.append(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    monkeypatch.setattr(embedding.Backbone, "warm_up", warm_up)

    def end(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(SystemExit) as caught, base.transaction() as connection:
        ours.learn(model.id for model in models.every(connection))
    assert caught.value.code == processes.EXIT_AWAY


def test_what_the_database_lacks_is_not_held_against_a_model(
    base: database.Database, server: Server, second: bundle.Bundle
) -> None:
    start(base)
    ours = embedders.prepare(config(), base)
    add(base, second)
    with psycopg.connect(server.url("test_live_models"), autocommit=True) as owner:
        owner.execute("REVOKE SELECT ON model FROM dedup_worker")
        try:
            with pytest.raises(errors.ConfigurationError, match="permission denied for table model"):
                ours.learn([second.id])
        finally:
            owner.execute("GRANT SELECT ON model TO dedup_worker")
    assert ours.unfit == frozenset()
    ours.learn([second.id])
    assert second.id in ours.known


def test_what_is_a_drawing_to_one_fusion_need_not_be_one_to_another(first: bundle.Bundle) -> None:
    backbone = embedding.Backbone(weights.load("untrained"))
    plan = images.decode(pictures.jpeg("plan"), size=224, max_pixels=10**8).pixels
    room = images.decode(pictures.jpeg("bedroom"), size=224, max_pixels=10**8).pixels
    pixels = np.stack([plan, room])
    fusion = first.fusion
    kinds = {
        "as it is": fusion,
        "all": bundles.with_bias(fusion, 1e6),
        "none": bundles.with_bias(fusion, -1e6),
    }
    together = embedding.Embedder(backbone, *kinds.values()).embed(pixels)
    alone = [embedding.Embedder(backbone, item).embed(pixels) for item in kinds.values()]
    np.testing.assert_allclose(together, np.concatenate(alone, axis=1), atol=1e-5)


def test_a_worker_without_the_active_models_weights_does_not_start(
    base: database.Database, tmp_path: pathlib.Path
) -> None:
    start(base, bundles.second(tmp_path / "foreign", weights_sha256=OTHER_SHA256))
    with pytest.raises(errors.ConfigurationError, match=f"SHA-256 {OTHER_SHA256}"):
        embedders.prepare(config(), base)


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
    from concurrent import futures

    from workers import isolation, recording

    ours = config()
    known = embedders.prepare(ours, base)
    return embed.Worker(
        ours,
        base,
        store,
        known,
        isolation.Gate(),
        futures.ThreadPoolExecutor(1),
        recording.Recorder(base, known, "match"),
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
    store.meanwhile = lambda: add(base, second)
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
    add(base, second)
    assert ours.embed(photo), "the process had not met the model before"
    assert embedded_by(base, photo).keys() == {first.id, second.id}
    assert ledger.rows(base, written, place, first.id) == before, "what was there was left alone"
    old = embedded_by(base, photo)
    # Replaced in the store, and its event is still on its way.
    run(base, "DELETE FROM photo_embedding WHERE model_id = %s", second.id)
    store.client.put_object(Bucket="photos", Key=ledger.event(place, "a.jpg").key, Body=pictures.jpeg("plan"))
    assert ours.embed(photo)
    new = embedded_by(base, photo)
    assert new.keys() == old.keys()
    assert all(float(new[model_id] @ old[model_id]) < 0.99 for model_id in new), "both are of the new bytes"


def test_what_a_candidate_cannot_embed_is_embedded_by_the_active_model(
    base: database.Database, store: _Store, first: bundle.Bundle, tmp_path: pathlib.Path
) -> None:
    broken = bundles.second(tmp_path / "broken", name="broken", input_size=160)
    start(base)
    add(base, broken)
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
    start(base)
    add(base, second)
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
