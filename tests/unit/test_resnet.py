"""Every form of the network gives the vectors of torchvision's own; none of them changes a flag."""

from __future__ import annotations

import gc
import pathlib
import subprocess
import sys
import weakref

import numpy as np
import pytest
import structlog
import torch
import torchvision

from core import bundle, embedding, fusing, images, resnet, weights
from tests.unit import torchvisions

SHARED = pathlib.Path(__file__).parents[3] / "shared"
WEIGHTS = SHARED / "weights" / "resnet50-imagenet.safetensors"
PHOTOS = SHARED / "photos"
real = pytest.mark.skipif(
    not (WEIGHTS.is_file() and PHOTOS.is_dir()),
    reason="needs the photos of ../shared/photos and the weights of ../shared/weights beside the checkout",
)


@pytest.fixture(scope="module")
def source() -> weights.Weights:
    with pytest.warns(RuntimeWarning, match="untrained"):
        return weights.load("untrained")


def pictures(count: int, size: int = 64) -> images.Pixels:
    return np.random.default_rng(2).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def cosines(a: fusing.Vectors, b: fusing.Vectors) -> fusing.Vectors:
    result: fusing.Vectors = (fusing.unit(a) * fusing.unit(b)).sum(axis=1)
    return result


def test_it_starts_with_the_weights_of_torchvisions_own_network() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = torchvision.models.resnet50(weights=None).state_dict()
    found = weights._random_state()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def test_an_embed_worker_does_not_load_torchs_compiler() -> None:
    code = """if True:
        import sys, warnings
        import numpy as np
        from core import bundle, embedding, weights
        from workers import embed
        warnings.simplefilter("ignore")
        backbone = embedding.Backbone(weights.load("untrained"))
        embedder = embedding.Embedder(backbone, bundle.for_backbone(backbone.weights_sha256).fusion)
        embedder.embed(np.zeros((1, 3, 64, 64), np.uint8))
        print(*{"torchvision", "torch._dynamo", "sympy"} & set(sys.modules))
    """
    ran = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    assert ran.stdout.split() == []


@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize("form", ["plain", "fused"])
def test_folding_and_fusing_change_nothing_but_rounding(
    source: weights.Weights, form: resnet.Form, size: int
) -> None:
    expected = torchvisions.backbone(source).pool(pictures(3, size))
    backbone = embedding.Backbone(source, "cpu", form)
    assert backbone.form == form
    found = backbone.pool(pictures(3, size))
    np.testing.assert_allclose(found.levels, expected.levels, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.cells, expected.cells, rtol=5e-3, atol=1e-3)


def test_the_default_on_a_cpu_is_the_fused_form_in_fp32(source: weights.Weights) -> None:
    backbone = embedding.Backbone(source)
    assert (backbone.form, backbone.precision) == ("fused", "fp32")


def test_the_fused_form_keeps_no_second_copy_of_the_weights(
    source: weights.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[resnet.Taps]] = []

    def watched(network: torch.nn.Module) -> resnet.Taps:
        taps = plain(network)
        made.append(weakref.ref(taps))
        return taps

    plain = resnet.plain
    monkeypatch.setattr(resnet, "plain", watched)
    backbone = embedding.Backbone(source)
    gc.collect()
    assert backbone.form == "fused"
    assert [taps() for taps in made] == [None]


def test_where_fused_convolutions_give_other_results_the_plain_form_takes_over(
    source: weights.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resnet._Convolution, "forward", lambda self, features: torch.zeros(1, 1, 1, 1))
    with structlog.testing.capture_logs() as logs:
        backbone = embedding.Backbone(source)
    assert backbone.form == "plain"
    assert [(entry["event"], entry["wanted"]) for entry in logs] == [("forward_falls_back", "fused")]
    assert len(backbone.pool(pictures(1))) == 1


def test_where_torch_compile_fails_the_plain_form_takes_over(
    source: weights.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(taps: resnet.Taps) -> resnet.Taps:
        class Broken(resnet.Taps):
            def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                raise ValueError("no C++ compiler")

        return Broken(taps.parts[0], list(taps.parts)[1:])

    monkeypatch.setattr(resnet, "compiled", broken)
    backbone = embedding.Backbone(source, "cpu", "compiled")
    with structlog.testing.capture_logs() as logs:
        backbone.warm_up(64, 4)
    assert backbone.form == "plain"
    assert "no C++ compiler" in logs[0]["error"]
    assert len(backbone.pool(pictures(2))) == 2


def test_a_compiled_pass_gets_a_batch_size_that_it_knows(
    source: weights.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class Watching(resnet.Taps):
        def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            seen.append(len(features))
            return super().forward(features)

    monkeypatch.setattr(resnet, "compiled", lambda taps: Watching(taps.parts[0], list(taps.parts)[1:]))
    backbone = embedding.Backbone(source, "cpu", "compiled")
    backbone.warm_up(64, 4)
    assert seen == [1, 4]
    expected = embedding.Backbone(source, "cpu", "plain").pool(pictures(3), turns=4)
    found = backbone.pool(pictures(3), turns=4)
    assert set(seen) == {1, 4}
    assert len(found) == 3
    np.testing.assert_allclose(found.levels, expected.levels, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_compiled_form_changes_nothing_but_rounding(source: weights.Weights) -> None:
    backbone = embedding.Backbone(source, "cpu", "compiled")
    backbone.warm_up(64, 4)
    assert backbone.form == "compiled"
    expected = torchvisions.backbone(source).pool(pictures(3))
    np.testing.assert_allclose(backbone.pool(pictures(3)).levels, expected.levels, rtol=1e-3, atol=1e-4)


def test_streams_share_the_cores() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(8)
        assert (embedding.share_cores(None, "cpu"), torch.get_num_threads()) == (2, 4)
        torch.set_num_threads(1)
        assert (embedding.share_cores(None, "cpu"), torch.get_num_threads()) == (1, 1)
        assert (embedding.share_cores(3, "cpu"), torch.get_num_threads()) == (3, 1)
    finally:
        torch.set_num_threads(before)


@real
def test_every_form_and_precision_gives_real_photos_the_same_vectors_and_flags() -> None:
    source = weights.load(str(WEIGHTS))
    photos = [path for house in sorted(PHOTOS.glob("house-*"))[:2] for path in sorted(house.glob("*.jpg"))]
    pixels = np.stack(
        [images.decode(path.read_bytes(), size=224, max_pixels=10**8).pixels for path in photos]
    )
    model = bundle.for_backbone(source.sha256)
    expected = embedding.Embedder(torchvisions.backbone(source), model.fusion).embed(pixels)
    left, right = np.triu_indices(len(photos), 1)

    def flagged(vectors: fusing.Vectors) -> set[int]:
        stored = vectors.astype(np.float16).astype(np.float32)
        scores = model.classifier.score(stored[left], stored[right])
        return set(np.flatnonzero(scores >= model.duplicate))

    assert flagged(expected)
    for form, precision in (("plain", "fp32"), ("fused", "fp32"), ("plain", "fp16"), ("plain", "bf16")):
        backbone = embedding.Backbone(source, "cpu", form, precision)  # type: ignore[arg-type]
        found = embedding.Embedder(backbone, model.fusion).embed(pixels)
        assert cosines(found, expected).min() >= 0.999, (form, precision)
        assert flagged(found) == flagged(expected), (form, precision)
