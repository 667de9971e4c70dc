"""Bundles in the database, and the models of an embed process: real weights and database."""

from __future__ import annotations

import hashlib
import os
import pathlib

import numpy as np
import psycopg
import pytest
import structlog
import torch

from core import (
    bundle,
    database,
    embedding,
    errors,
    images,
    models,
    registry,
    weights,
)
from tests.acceptance import pictures
from tests.integration import bundles
from tests.integration.conftest import Server
from tests.integration.live_models import steps
from workers import embedders, processes

pytestmark = pytest.mark.filterwarnings("ignore:DEDUP_BACKBONE_WEIGHTS=untrained")
OTHER_SHA256 = hashlib.sha256(b"other weights").hexdigest()


def test_the_first_worker_brings_the_active_model_and_then_the_database_decides(
    base: database.Database, first: bundle.Bundle, second: bundle.Bundle
) -> None:
    assert steps.start(base).id == first.id
    with pytest.raises(
        errors.ConfigurationError, match=rf"DEDUP_BUNDLE is second .*{first.id}.*dedup model add"
    ):
        steps.start(base, second)
    with base.transaction() as connection:
        assert [model.id for model in models.every(connection)] == [first.id], "nothing was added by the way"
    assert steps.add(base, second).status == "candidate"
    assert steps.start(base, second).id == first.id, "live, and not the active one"
    assert steps.read(base, second.id).files == second.files


def test_a_named_bundle_is_the_first_of_a_new_database(
    base: database.Database, second: bundle.Bundle
) -> None:
    assert steps.start(base, second).id == second.id


def test_a_retired_model_comes_back_as_a_candidate(
    base: database.Database, first: bundle.Bundle, second: bundle.Bundle
) -> None:
    steps.start(base)
    steps.add(base, second)
    steps.run(base, "UPDATE model SET status = 'retired' WHERE id = %s", second.id)
    with pytest.raises(errors.ConfigurationError, match="no live model"):
        steps.start(base, second)
    assert steps.add(base, second).status == "candidate"
    assert steps.add(base, first).status == "active", "adding the active one changes nothing"


def test_a_row_from_before_gets_its_bundle_from_a_worker_that_has_it(
    base: database.Database, first: bundle.Bundle, second: bundle.Bundle
) -> None:
    steps.start(base)
    steps.add(base, second)
    steps.run(base, "UPDATE model SET bundle_card = NULL, bundle_tensors = NULL")
    with pytest.raises(errors.TransientError, match="dedup model add"):
        steps.read(base, second.id)
    steps.start(base)
    assert steps.read(base, first.id).digest == first.digest, "a shipped one"
    with pytest.raises(errors.TransientError):
        steps.read(base, second.id)
    steps.start(base, second)
    assert steps.read(base, second.id).digest == second.digest


def test_a_bundle_is_verified_by_its_digest_and_read_once(
    base: database.Database, first: bundle.Bundle, second: bundle.Bundle
) -> None:
    steps.start(base)
    known = registry.Registry()
    assert steps.read(base, first.id, known).digest == first.digest
    steps.run(base, "UPDATE model SET bundle_tensors = %s", second.files.tensors)
    with pytest.raises(errors.ConfigurationError, match=f"of model {first.id} in the database: SHA-256"):
        steps.read(base, first.id)
    steps.run(base, "UPDATE model SET bundle_card = %s", second.files.card)
    with pytest.raises(
        errors.ConfigurationError, match=f"expected digest {first.digest}, found {second.digest}"
    ):
        steps.read(base, first.id)
    assert steps.read(base, first.id, known).digest == first.digest


def test_models_of_one_backbone_share_the_pass_and_give_what_each_alone_gives(
    base: database.Database, first: bundle.Bundle, second: bundle.Bundle, tmp_path: pathlib.Path
) -> None:
    steps.start(base)
    smaller = bundles.second(tmp_path / "smaller", name="smaller", input_size=160)
    foreign = bundles.second(tmp_path / "foreign", name="foreign", weights_sha256=OTHER_SHA256)
    for item in (second, smaller, foreign):
        steps.add(base, item)
    with structlog.testing.capture_logs() as logs:
        ours = embedders.prepare(steps.config(), base)
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
    steps.start(base)
    steps.add(base, second)
    # As a newer version might write it.
    card = second.files.card.replace(b'"format": 2', b'"format": 99')
    steps.run(base, "UPDATE model SET bundle_card = %s WHERE id = %s", card, second.id)
    ours = embedders.prepare(steps.config(), base)
    assert (ours.known, ours.unfit) == (frozenset([first.id]), frozenset([second.id]))


def test_a_backbone_that_only_a_failed_candidate_wanted_is_dropped(
    base: database.Database, first: bundle.Bundle, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps.start(base)
    ours = embedders.prepare(steps.config(), base)
    ours._sources = {**ours._sources, OTHER_SHA256: "untrained"}
    foreign = bundles.second(
        tmp_path / "foreign", name="foreign", weights_sha256=OTHER_SHA256, input_size=160
    )
    steps.add(base, foreign)
    warm_up, fault = steps.too_much(160)
    fault.append(torch.OutOfMemoryError("CUDA out of memory"))
    monkeypatch.setattr(embedding.Backbone, "warm_up", warm_up)
    ours.learn([foreign.id])
    assert (ours.unfit, list(ours._backbones)) == (frozenset([foreign.id]), [weights.UNTRAINED_SHA256])


def test_a_device_that_is_lost_while_a_candidate_is_learned_ends_the_process(
    base: database.Database, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps.start(base)
    ours = embedders.prepare(steps.config(), base)
    steps.add(base, bundles.second(tmp_path / "large", name="large", input_size=160))
    warm_up, fault = steps.too_much(160)
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
    steps.start(base)
    ours = embedders.prepare(steps.config(), base)
    steps.add(base, second)
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
    steps.start(base, bundles.second(tmp_path / "foreign", weights_sha256=OTHER_SHA256))
    with pytest.raises(errors.ConfigurationError, match=f"SHA-256 {OTHER_SHA256}"):
        embedders.prepare(steps.config(), base)
