from __future__ import annotations

import hashlib
import pathlib
import time

import pytest
import safetensors.torch
import torch
import torchvision

from core import embedding, errors, settings, weights
from workers import scan


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return weights._random_state()


def test_untrained_weights_warn_and_are_always_the_same(state: dict[str, torch.Tensor]) -> None:
    with pytest.warns(RuntimeWarning, match="untrained"):
        loaded = weights.load("untrained")
    assert loaded.untrained
    assert loaded.sha256 == weights.UNTRAINED_SHA256 == weights.source_digest("untrained")
    assert all(torch.equal(loaded.state[name], tensor) for name, tensor in state.items())


def test_untrained_weights_leave_the_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    weights._random_state()
    assert torch.equal(torch.rand(1), expected)


def test_files_of_both_formats(tmp_path: pathlib.Path, state: dict[str, torch.Tensor]) -> None:
    safe, pickled = tmp_path / "a.safetensors", tmp_path / "b.pth"
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    safetensors.torch.save_file(half, safe)
    torch.save({"state_dict": state}, pickled)
    for path in (safe, pickled):
        loaded = weights.load(str(path))
        assert loaded.name == path.name
        assert not loaded.untrained
        assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert loaded.state["conv1.weight"].dtype == torch.float32
        embedding.Backbone(loaded)


def test_a_missing_file_names_the_remedies() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"no such file.*Three remedies"):
        weights.load("/nowhere/resnet50.pth")


def test_a_file_that_somebody_named_is_never_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    named = settings.Settings(backbone_weights="/nowhere/resnet50.pth")
    monkeypatch.setattr(settings, "get", lambda: named)
    with pytest.raises(errors.ConfigurationError, match=r"/nowhere/resnet50\.pth"):
        scan.choose_model(fall_back=True)


def test_a_file_that_is_no_resnet_is_refused(tmp_path: pathlib.Path, state: dict[str, torch.Tensor]) -> None:
    junk, other, cut = tmp_path / "junk.pth", tmp_path / "other.safetensors", tmp_path / "cut.safetensors"
    junk.write_bytes(b"not a pickle")
    safetensors.torch.save_file({"linear.weight": torch.zeros(2)}, other)
    safetensors.torch.save_file({"conv1.weight": state["conv1.weight"]}, cut)
    with pytest.raises(errors.ConfigurationError, match="cannot be read"):
        weights.load(str(junk))
    with pytest.raises(errors.ConfigurationError, match="no ResNet50"):
        weights.load(str(other))
    with pytest.raises(errors.ConfigurationError, match=r"missing \['bn1.weight'"):
        embedding.Backbone(weights.load(str(cut)))


@pytest.mark.parametrize("name", weights.TORCHVISION)
def test_files_are_where_torchvision_has_them(name: str) -> None:
    assert weights._DOWNLOADS + weights.TORCHVISION[name] == torchvision.models.ResNet50_Weights[name].url


def test_an_unreachable_download_is_noticed_within_seconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # An address that never answers (RFC 5737), through a proxy setting, so that no test depends on the network.
    monkeypatch.setenv("https_proxy", "http://192.0.2.1:9")
    monkeypatch.setattr(weights, "_REACH_SECONDS", 1.0)
    started = time.monotonic()
    with pytest.raises(weights.WeightsUnavailableError, match=r"cannot be reached.*Three remedies"):
        weights.load("IMAGENET1K_V1")
    assert time.monotonic() - started < 60


def test_a_cached_file_whose_digest_is_wrong_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"broken off")
    with pytest.raises(errors.ConfigurationError, match=r"0676ba61.*delete it"):
        weights.load("IMAGENET1K_V1")
