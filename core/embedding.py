"""The backbone: a ResNet50 tapped at several levels, and with a fusion what makes pixels a fused embedding.

Source: He et al., *Deep Residual Learning for Image Recognition*, 2015; for the fusion see `core.fusing`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
import structlog
import torch

from core import device_fusing, errors, fusing, resnet, weights

TURNS = 4
"""Quarter turns that a drawing's embedding is averaged over."""

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


Precision = Literal["auto", "fp32", "fp16", "bf16"]
_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_BUCKETS = (1, 4, 16, 64, 256, 1024)
"""Batch sizes that compiled passes exist for; a batch in between is filled up."""

log = structlog.get_logger()


class Backbone:
    """A ResNet50 in evaluation mode on one device, tapped after the stem and each of its four layers.

    Args:
        source: its weights.
        device: torch's name of the device.
        form: of the network, see `core.resnet`; ``auto`` is ``fused`` on a CPU, ``compiled`` on a GPU. Where a form
            cannot be had, ``plain`` takes its place and the log says so.
        precision: ``auto`` is fp32 on a CPU, fp16 on a GPU. bf16 keeps three bits less, see `core.resnet.Taps.cast`.

    Several threads may call it at a time.
    """

    def __init__(
        self,
        source: weights.Weights,
        device: str = "cpu",
        form: resnet.Form | Literal["auto"] = "auto",
        precision: Precision = "auto",
    ) -> None:
        self.weights_name = source.name
        self.weights_sha256 = source.sha256
        self.untrained = source.untrained
        self.device = torch.device(device)
        on_gpu = self.device.type == "cuda"
        self.precision = ("fp16" if on_gpu else "fp32") if precision == "auto" else precision
        self._plain = resnet.plain(resnet.load(source)).to(self.device).cast(_TYPES[self.precision])
        self._wanted = ("compiled" if on_gpu else "fused") if form == "auto" else form
        self.form: resnet.Form = "plain"
        self._taps = self._plain
        if self._wanted == "fused":
            self._fuse()
        self._mean = torch.tensor(_IMAGENET_MEAN, device=self.device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(_IMAGENET_STD, device=self.device).view(1, 3, 1, 1) * 255
        self._own = threading.local()

    @property
    def batch_size(self) -> int:
        """Photos of a pass at which this device gives about the most a second."""
        return _batch_size(self.device.type)

    def _fuse(self) -> None:
        try:
            if self.device.type != "cpu" or self.precision != "fp32":
                raise RuntimeError(f"it is for fp32 on a CPU, not {self.precision} on {self.device}")
            self._taps, self.form = resnet.fused(self._plain), "fused"
            # 94 MB that nothing falls back to from here on.
            del self._plain
        except RuntimeError as error:
            self._fall_back(error)

    def _fall_back(self, error: Exception) -> None:
        self._taps, self.form = self._plain, "plain"
        log.warning("forward_falls_back", wanted=self._wanted, used=self.form, error=str(error).strip()[:300])

    def warm_up(self, size: int, batch: int) -> None:
        """Make ready for batches of up to `batch` pictures of this size; a ``compiled`` backbone is ``plain`` before.

        Where torch.compile cannot work, such as without a C++ compiler, it stays so.
        """
        sizes = [batch]
        if self._wanted == "compiled":
            self._taps, self.form = resnet.compiled(self._plain), "compiled"
            sizes = [bucket for bucket in _BUCKETS if bucket < 4 * batch]
        try:
            for count in sizes:
                self.pool(np.zeros((count, 3, size, size), np.uint8))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if self.form != "compiled":
                raise
            self._fall_back(error)

    def pool(self, pixels: npt.NDArray[np.uint8], turns: int = 1) -> fusing.Pooled:
        """Averages of the levels' feature maps, of the whole and by region.

        Args:
            pixels: (n, 3, size, size) uint8 RGB.
            turns: 4 for the average over the quarter turns of each picture, its regions turned back into place: what
                a picture scanned on its side has in common with itself. It costs four passes.
        """
        with self.computing():
            levels, cells = self.pooled(pixels, turns)
            return fusing.Pooled(
                levels=levels.cpu().numpy(),
                cells=cells.flatten(2).transpose(1, 2).half().cpu().numpy(),
            )

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Around everything that a thread does on the device."""
        with torch.inference_mode(), self._stream():
            yield

    def pooled(self, pixels: npt.NDArray[np.uint8], turns: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """As `pool`, left on the device: (n, 3904) levels, (n, 1024, GRID, GRID) cells. Within `computing` only."""
        upright = (self._sent(pixels).float() - self._mean) / self._std
        levels, cells = self._pass(upright)
        for turn in range(1, turns):
            turned_levels, turned_cells = self._pass(torch.rot90(upright, turn, dims=(2, 3)))
            levels = levels + turned_levels
            cells = cells + torch.rot90(turned_cells, -turn, dims=(2, 3))
        count = len(pixels)
        return levels[:count] / turns, cells[:count] / turns

    def _sent(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        """The pixels on the device; a compiled pass gets one of its batch sizes, filled up with black."""
        batch = torch.from_numpy(pixels)
        if self.form == "compiled":
            bucket = next((size for size in _BUCKETS if size >= len(pixels)), len(pixels))
            batch = torch.nn.functional.pad(batch, (0, 0, 0, 0, 0, 0, 0, bucket - len(pixels)))
        if self.device.type == "cuda":
            # From pinned memory the copy runs beside the other stream's pass.
            return batch.pin_memory().to(self.device, non_blocking=True)
        return batch.to(self.device)

    def _stream(self) -> contextlib.AbstractContextManager[object]:
        """Of the calling thread on a GPU, so that one batch is copied while another is computed."""
        if self.device.type != "cuda":
            return contextlib.nullcontext()
        if not hasattr(self._own, "stream"):
            self._own.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        return torch.cuda.stream(self._own.stream)

    def _pass(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        levels, cells = self._taps(features.contiguous(memory_format=torch.channels_last))
        return levels, cells


class Embedder:
    """Backbone and fusions together: pixels in, fused embeddings out. Several fusions share the passes."""

    def __init__(self, backbone: Backbone, *fusions: fusing.Fusion) -> None:
        self._backbone = backbone
        self._dims = sum(fusion.dims for fusion in fusions)
        self._fusions = [device_fusing.DeviceFusion(fusion, backbone.device) for fusion in fusions]

    @property
    def dims(self) -> int:
        """Length of what `embed` gives of a picture."""
        return self._dims

    def embed(self, pixels: npt.NDArray[np.uint8]) -> fusing.Vectors:
        """Fused embeddings of a batch.

        A photo's vector does not depend on the batch that it travels in, to fp16 rounding. Drawings, such as floor
        plans, take four passes more, since they are scanned on their side.

        Args:
            pixels: (n, 3, size, size) uint8 RGB, as `images.decode` gives them.

        Returns:
            (n, dims) float32, as `fusing.Fusion.fuse` says: each fusion's embeddings side by side.
        """
        with self._backbone.computing():
            levels, cells = self._backbone.pooled(pixels)
            drawings = [fusion.drawings(levels) for fusion in self._fusions]
            any_drawing = torch.stack(drawings).any(dim=0)
            drawn = any_drawing.cpu().numpy()
            if not drawn.any():
                fused = [
                    fusion.fuse(levels, cells, own)
                    for fusion, own in zip(self._fusions, drawings, strict=True)
                ]
                return torch.cat(fused, dim=1).cpu().numpy()
            turned_levels, turned_cells = self._backbone.pooled(np.ascontiguousarray(pixels[drawn]), TURNS)
            fused = []
            for fusion, own in zip(self._fusions, drawings, strict=True):
                # What is a drawing to one fusion need not be one to another.
                chosen = own[any_drawing]
                own_levels, own_cells = levels.clone(), cells.clone()
                own_levels[own], own_cells[own] = turned_levels[chosen], turned_cells[chosen]
                fused.append(fusion.fuse(own_levels, own_cells, own))
            return torch.cat(fused, dim=1).cpu().numpy()


def choose_device(wanted: str) -> str:
    """``auto`` becomes ``cuda`` where there is a usable one, else ``cpu``; other names are checked.

    Raises:
        ConfigurationError: the named device cannot be used on this machine.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise errors.ConfigurationError(
            f"DEDUP_DEVICE={wanted} cannot be used here ({error}); set DEDUP_DEVICE=auto or cpu."
        ) from error
    return wanted


def _batch_size(device: str) -> int:
    return 64 if device.startswith("cuda") else 8


def photos_in_flight(wanted: int | None, device: str, batch_size: int | None = None) -> int:
    """How many photos an embed worker fetches, decodes and embeds at a time, each in a thread.

    Args:
        wanted: so many; None for 20 on a CPU, for two batches that are computed and half of one that is made ready
            meanwhile. A GPU is done with a batch before the next one is decoded, if that one is not gathered meanwhile:
            there, for three batches, at most 512.
        device: torch's name of the device.
        batch_size: most photos in a forward pass; None for the device's own.
    """
    if wanted is not None:
        return wanted
    return min(512, 3 * (batch_size or _batch_size(device))) if device.startswith("cuda") else 20


def share_cores(streams: int | None, device: str) -> int:
    """How many forward passes run at a time; gives each of them its share of this process's cores.

    Args:
        streams: so many; None for two, but one on a single core. On two cores, two passes of one thread each give
            1.0 to 1.4 times the photos of one pass of two threads, which wait for each other after every layer,
            most of all while a photo is decoded beside them.
        device: torch's name of the device. On a GPU one batch is copied while the other is computed.
    """
    cores = torch.get_num_threads()
    if streams is None:
        streams = 2 if cores > 1 or device.startswith("cuda") else 1
    torch.set_num_threads(max(1, cores // streams))
    return streams
