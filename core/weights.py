"""Where the backbone's weights come from: a file, torchvision's cache or download, or seeded noise."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import socket
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from core import errors

if TYPE_CHECKING:
    # Importing torch takes seconds; who only asks for a file and its digest shall not pay them.
    import torch

UNTRAINED = "untrained"
UNTRAINED_SHA256 = hashlib.sha256(b"listing-dedup untrained resnet50, seed 0").hexdigest()
TORCHVISION = {"IMAGENET1K_V1": "resnet50-0676ba61.pth", "IMAGENET1K_V2": "resnet50-11ad3fa6.pth"}
"""Names of torchvision's ResNet50_Weights, and of their files."""
_DOWNLOADS = "https://download.pytorch.org/models/"
_REACH_SECONDS = 5.0
_STALL_SECONDS = 20.0
_REMEDIES = (
    "Three remedies: (1) let this machine reach torchvision's download host once; "
    "(2) fetch the file elsewhere and set DEDUP_BACKBONE_WEIGHTS=/path/to/resnet50.pth (or .safetensors); "
    "(3) for a trial without any network, set DEDUP_BACKBONE_WEIGHTS=untrained (embedded database only)."
)


class WeightsUnavailableError(errors.ConfigurationError):
    """No backbone weights can be had; the text lists the remedies."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """A ResNet50 state dict in torchvision's key names, float32, and what it is.

    `sha256` is the digest of the file (of a fixed text for the untrained ones).
    """

    name: str
    sha256: str
    state: dict[str, torch.Tensor]

    @property
    def untrained(self) -> bool:
        """True for seeded random weights, which know nothing of rooms."""
        return self.name == UNTRAINED


def load(source: str) -> Weights:
    """Load backbone weights.

    Args:
        source: path of a ``.safetensors`` or ``.pth`` file, ``IMAGENET1K_V1``, ``IMAGENET1K_V2``
            (torchvision's ResNet50_Weights), or ``untrained``.

    Raises:
        ConfigurationError: the file is missing, is not a ResNet50 or its digest is wrong.
        WeightsUnavailableError: torchvision's file is neither cached nor to be downloaded.
    """
    if source == UNTRAINED:
        warnings.warn(
            "DEDUP_BACKBONE_WEIGHTS=untrained: seeded random weights, for tests and trials only; "
            "they see overlays and pixels but do not know rooms.",
            RuntimeWarning,
            stacklevel=2,
        )
        return Weights(UNTRAINED, UNTRAINED_SHA256, _random_state())
    path = _file(source)
    return _read(path, source if source in TORCHVISION else path.name)


def source_digest(source: str) -> str:
    """SHA-256 of the weights that `source` names, without loading them. Raises as `load` does."""
    return UNTRAINED_SHA256 if source == UNTRAINED else digest(_file(source))


def digest(path: pathlib.Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file(source: str) -> pathlib.Path:
    if source in TORCHVISION:
        return _torchvision_file(source)
    path = pathlib.Path(source).expanduser()
    if not path.is_file():
        raise errors.ConfigurationError(f"DEDUP_BACKBONE_WEIGHTS={source}: no such file. {_REMEDIES}")
    return path


def _random_state() -> dict[str, torch.Tensor]:
    import torch

    from core import resnet50

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return dict(resnet50.ResNet50().state_dict())


def _read(path: pathlib.Path, name: str) -> Weights:
    import safetensors.torch
    import torch

    state: object
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise errors.ConfigurationError(
            f"{path} cannot be read as weights ({type(error).__name__}: {error}); "
            "give a torchvision ResNet50 state dict as .safetensors or .pth."
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or "conv1.weight" not in state:
        raise errors.ConfigurationError(
            f"{path} holds no ResNet50 in torchvision's key names (conv1.weight … layer4.2.conv3.weight)."
        )
    tensors = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    return Weights(name, digest(path), tensors)


def _torchvision_file(name: str) -> pathlib.Path:
    import torch

    file_name = TORCHVISION[name]
    path = pathlib.Path(torch.hub.get_dir()) / "checkpoints" / file_name
    if not path.is_file():
        url = _DOWNLOADS + file_name
        _reach(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _socket_timeout(_STALL_SECONDS):
                torch.hub.download_url_to_file(url, str(path), hash_prefix=_hash_prefix(file_name))
        except (OSError, RuntimeError) as error:
            raise WeightsUnavailableError(f"{url} broke off: {error}. {_REMEDIES}") from error
    found = digest(path)
    if not found.startswith(_hash_prefix(file_name)):
        raise errors.ConfigurationError(
            f"{path} has SHA-256 {found[:8]}…, its name promises {_hash_prefix(file_name)}…; delete it and start again."
        )
    return path


def _hash_prefix(file_name: str) -> str:
    # torchvision names its files <architecture>-<first 8 hex digits of SHA-256>.pth.
    return pathlib.PurePath(file_name).stem.rpartition("-")[2]


def _reach(url: str) -> None:
    """Fail within seconds where the host cannot be reached; a resolver alone may take half a minute."""
    problem: list[str] = []
    done = threading.Event()

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - torchvision's own https URL
            with urllib.request.urlopen(request, timeout=_REACH_SECONDS):  # noqa: S310
                pass
        except (OSError, urllib.error.URLError) as error:
            problem.append(str(error))
        done.set()

    threading.Thread(target=ask, daemon=True).start()
    if not done.wait(_REACH_SECONDS):
        problem.append(f"no answer within {_REACH_SECONDS:.0f} s")
    if problem:
        raise WeightsUnavailableError(f"{url} cannot be reached: {problem[0]}. {_REMEDIES}")


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    # torch.hub passes no timeout of its own, so a stalled download would hang for ever.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
