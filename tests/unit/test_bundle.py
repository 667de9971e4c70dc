"""The model bundle: the same bytes for the same model, and nothing that does not fit is loaded."""

from __future__ import annotations

import json
import pathlib
import shutil
import types
from typing import Any, cast

import numpy as np
import pytest

from core import bundle, classifier, embedding, errors, weights
from tests.unit import fusions

DIMS = fusions.fusion().dims
SHA256 = "ab" * 32


def _save(path: pathlib.Path, *, seed: int = 0, **changes: Any) -> bundle.Bundle:
    fusion = fusions.fusion()
    parts: dict[str, Any] = {
        "name": "small",
        "fusion": fusion,
        "classifier": classifier.PairClassifier(fusion.layout, fusions.head(seed=seed)),
        "backbone": bundle.BackboneReference("resnet50", "some.pth", SHA256),
        "input_size": 224,
        "duplicate": 0.5,
        "decision": 0.375,
        "review": 0.25,
        "training": {"seed": seed, "provenance": "drawn for a test"},
    }
    return bundle.save(path, **(parts | changes))


def _change_card(path: pathlib.Path, **changes: Any) -> None:
    card = json.loads((path / bundle.CARD).read_text())
    (path / bundle.CARD).write_text(json.dumps(card | changes))


def test_round_trip_keeps_the_digest_and_every_number(tmp_path: pathlib.Path) -> None:
    saved = _save(tmp_path / "a")
    loaded = bundle.load(tmp_path / "a")
    assert loaded.digest == saved.digest
    assert loaded.id == loaded.digest[:16]
    assert (loaded.name, loaded.input_size) == ("small", 224)
    assert (loaded.duplicate, loaded.decision, loaded.review) == (0.5, 0.375, 0.25)
    assert loaded.backbone == saved.backbone
    assert loaded.training == saved.training
    seen, drawings = fusions.pooled(9), np.arange(9) % 2 == 0
    vectors = loaded.fusion.fuse(seen, drawings)
    np.testing.assert_array_equal(vectors, fusions.fusion().fuse(seen, drawings))
    np.testing.assert_array_equal(
        loaded.classifier.score(vectors[:1], vectors), saved.classifier.score(vectors[:1], vectors)
    )


def test_the_same_parts_give_the_same_bytes(tmp_path: pathlib.Path) -> None:
    _save(tmp_path / "a")
    _save(tmp_path / "b")
    for file in (bundle.CARD, bundle.TENSORS):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_loaded_and_saved_again_it_has_the_same_digest(tmp_path: pathlib.Path) -> None:
    first = _save(tmp_path / "a")
    loaded = bundle.load(tmp_path / "a")
    again = _save(tmp_path / "b", fusion=loaded.fusion, classifier=loaded.classifier)
    assert again.digest == first.digest


def test_any_other_number_gives_another_digest(tmp_path: pathlib.Path) -> None:
    digests = {
        _save(tmp_path / "a").digest,
        _save(tmp_path / "b", duplicate=0.51).digest,
        _save(tmp_path / "c", seed=1).digest,
    }
    assert len(digests) == 3


def test_the_layout_of_the_card_does_not_change_the_digest(tmp_path: pathlib.Path) -> None:
    digest = _save(tmp_path).digest
    _change_card(tmp_path)
    assert bundle.load(tmp_path).digest == digest


def test_changed_tensors_are_refused(tmp_path: pathlib.Path) -> None:
    _save(tmp_path)
    data = bytearray((tmp_path / bundle.TENSORS).read_bytes())
    data[-1] ^= 1
    (tmp_path / bundle.TENSORS).write_bytes(data)
    with pytest.raises(
        errors.ConfigurationError, match=r"SHA-256 of the tensors: expected [0-9a-f]{64}, found"
    ):
        bundle.load(tmp_path)


def test_tensors_of_another_bundle_are_refused(tmp_path: pathlib.Path) -> None:
    _save(tmp_path / "a")
    _save(tmp_path / "b", seed=1)
    shutil.copy(tmp_path / "b" / bundle.TENSORS, tmp_path / "a" / bundle.TENSORS)
    with pytest.raises(errors.ConfigurationError, match="SHA-256 of the tensors"):
        bundle.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 1}, "format: expected 2, found 1"),
        ({"dims": 3904}, f"dims: expected 3904, found {DIMS}"),
        ({"levels": ["stem", "layer2"]}, "KeyError: 'fusion.projections.layer2'"),
        ({"levels": ["stem"]}, "expected shape"),
        ({"levels": ["layer1", "stem"]}, "found layer1, stem"),
        (
            {"thresholds": {"duplicate": 0.4, "decision": 0.5, "review": 0.6}},
            "found review 0.6, decision 0.5 and duplicate 0.4",
        ),
        ({"thresholds": {"duplicate": 0.4}}, "KeyError"),
        ({"input_size": 8}, "at least 32 pixels, found 8"),
        ({"backbone": {"architecture": "resnet50"}}, "TypeError"),
        (
            {"backbone": {"architecture": "resnet18", "weights_name": "x", "weights_sha256": SHA256}},
            "architecture: expected resnet50, found resnet18",
        ),
    ],
)
def test_a_card_that_does_not_fit_is_refused(
    tmp_path: pathlib.Path, changes: dict[str, Any], message: str
) -> None:
    _save(tmp_path)
    _change_card(tmp_path, **changes)
    with pytest.raises(errors.ConfigurationError, match=message):
        bundle.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 2}'])
def test_a_broken_card_is_refused(tmp_path: pathlib.Path, text: str) -> None:
    _save(tmp_path)
    (tmp_path / bundle.CARD).write_text(text)
    with pytest.raises(errors.ConfigurationError, match="dedup train"):
        bundle.load(tmp_path)


@pytest.mark.parametrize("file", [bundle.CARD, bundle.TENSORS])
def test_a_missing_file_is_refused(tmp_path: pathlib.Path, file: str) -> None:
    _save(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(errors.ConfigurationError, match=rf"{file}.*dedup train"):
        bundle.load(tmp_path)


def test_a_bundle_that_does_not_fit_together_is_not_written(tmp_path: pathlib.Path) -> None:
    good = _save(tmp_path / "a")
    with pytest.raises(errors.ConfigurationError, match="thresholds"):
        _save(tmp_path / "a", duplicate=0.1)
    assert bundle.load(tmp_path / "a").digest == good.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def _backbone(sha256: str) -> embedding.Backbone:
    return cast(embedding.Backbone, types.SimpleNamespace(weights_name="other.pth", weights_sha256=sha256))


def test_another_backbone_is_refused(tmp_path: pathlib.Path) -> None:
    made = _save(tmp_path)
    bundle.check_backbone(made, _backbone(SHA256))
    with pytest.raises(
        errors.ConfigurationError, match=rf"expected .*{SHA256}, found other.pth .*{'cd' * 32}"
    ):
        bundle.check_backbone(made, _backbone("cd" * 32))


def test_shipped_bundles_load_and_are_small() -> None:
    shipped = bundle.shipped()
    assert {"imagenet", "imagenet1k-v1", "untrained"} <= set(shipped)
    for name, made in shipped.items():
        assert made.name == name
        assert made.dims == 3873
        assert made.training["provenance"]
    assert len({made.digest for made in shipped.values()}) == len(shipped)
    folder = pathlib.Path(bundle.__file__).parent / "bundles"
    assert max(file.stat().st_size for file in folder.rglob("*.safetensors")) < 5_000_000


def test_a_shipped_bundle_is_found_by_its_backbone() -> None:
    untrained = bundle.for_backbone(weights.UNTRAINED_SHA256)
    assert untrained.untrained
    v1 = bundle.for_backbone("0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a")
    assert not v1.untrained
    assert "not measured" in v1.training["backbone_note"]


def test_no_bundle_for_a_backbone_names_its_digest_and_the_remedy() -> None:
    with pytest.raises(errors.ConfigurationError, match=rf"{SHA256}.*imagenet.*dedup train"):
        bundle.for_backbone(SHA256)
