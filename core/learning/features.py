"""What the backbone sees of pictures, computed once and kept on disk.

Training reads each picture many times but the backbone never changes, so its outputs are kept by what they depend
on: the weights' digest, the input size, the turns and the picture's own digest. A renamed picture is not computed
again, a changed one is. They take about 120 kB a picture, on disk and not in memory.
"""

from __future__ import annotations

import hashlib
import pathlib
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from core import embedding, errors, fusing, images
from core.learning import drawings

BATCH = 32
MAX_PIXELS = 100_000_000
_CHUNK = 256
_VERSION = 3
"""Of what is kept and how pictures are decoded: raised with either, so that nothing old is read."""

Progress = Callable[[int, int], None]
"""Called with the pictures done and the pictures in all."""

Tensors = dict[str, npt.NDArray[np.generic]]


class Features:
    """The backbone's outputs for pictures.

    Args:
        backbone: gives the values and, by its weights' digest, the place in the cache.
        input_size: side of the square that the backbone sees, in pixels.
        cache: folder to keep the values in; without one, they go with this object.

    Every method takes the pictures' files, tells `progress` after each batch, and raises ConfigurationError where a
    picture is missing or cannot be decoded (with its path).
    """

    def __init__(
        self, backbone: embedding.Backbone, input_size: int, cache: pathlib.Path | None = None
    ) -> None:
        self._backbone = backbone
        self._input_size = input_size
        root = cache or pathlib.Path(tempfile.mkdtemp(prefix="dedup-features-"))
        if cache is None:
            weakref.finalize(self, shutil.rmtree, root, ignore_errors=True)
        self._folder = root / f"{backbone.weights_sha256[:16]}-{input_size}-{_VERSION}"
        self._files: dict[tuple[pathlib.Path, int], pathlib.Path] = {}

    def levels(
        self, paths: Sequence[pathlib.Path], progress: Progress | None = None, turns: int = 1
    ) -> fusing.Vectors:
        """(n, 3904) float32, the global averages of all levels side by side."""
        dims = sum(fusing.LEVELS.values())
        return self._stacked("levels", paths, turns, progress).reshape(-1, dims).astype(np.float32)

    def few_colours(self, paths: Sequence[pathlib.Path]) -> npt.NDArray[np.float32]:
        """(n,) as `drawings.few_colours` says."""
        return self._stacked("few_colours", paths, 1, None).reshape(-1).astype(np.float32)

    def cells(self, paths: Sequence[pathlib.Path], turns: int = 1) -> npt.NDArray[np.float16]:
        """(n, CELLS, 1024) float16: 100 kB a picture, so not for many at once."""
        shape = (-1, fusing.CELLS, fusing.LEVELS[fusing.CELL_LEVEL])
        return self._stacked("cells", paths, turns, None).reshape(shape).astype(np.float16)

    def fused(
        self, paths: Sequence[pathlib.Path], fusion: fusing.Fusion, progress: Progress | None = None
    ) -> fusing.Vectors:
        """(n, dims) float32 fused embeddings as production stores them: rounded to float16."""
        result = np.empty((len(paths), fusion.dims), dtype=np.float32)
        drawn = fusion.drawings(self.levels(paths, progress))
        self._compute(
            [path for path, is_one in zip(paths, drawn, strict=True) if is_one], embedding.TURNS, progress
        )
        for turns, chosen in ((1, np.flatnonzero(~drawn)), (embedding.TURNS, np.flatnonzero(drawn))):
            for start in range(0, len(chosen), _CHUNK):
                rows = chosen[start : start + _CHUNK]
                part = [paths[row] for row in rows]
                pooled = fusing.Pooled(self.levels(part, turns=turns), self.cells(part, turns))
                result[rows] = fusion.fuse(pooled, drawn[rows]).astype(np.float16)
        return result

    def _stacked(
        self, key: str, paths: Sequence[pathlib.Path], turns: int, progress: Progress | None
    ) -> npt.NDArray[np.generic]:
        files = self._compute(paths, turns, progress)
        values = []
        for file in files:
            with safetensors.safe_open(file, framework="numpy") as tensors:
                values.append(tensors.get_tensor(key))
        return np.stack(values) if values else np.empty(0, np.float32)

    def _compute(
        self, paths: Sequence[pathlib.Path], turns: int, progress: Progress | None = None
    ) -> list[pathlib.Path]:
        """The files with the pictures' values, made where they are not there yet."""
        waiting: list[tuple[pathlib.Path, images.Pixels]] = []
        found: dict[pathlib.Path, pathlib.Path] = {}
        unique = list(dict.fromkeys(paths))
        for number, path in enumerate(unique):
            if (path, turns) not in self._files:
                data = _bytes(path)
                name = f"{hashlib.sha256(data).hexdigest()}-{turns}.safetensors"
                file = self._folder / name[:2] / name
                if not _whole(file):
                    waiting.append((file, _pixels(path, data, self._input_size)))
                found[path] = file
            if len(waiting) == BATCH or number + 1 == len(unique):
                self._write(waiting, turns)
                waiting.clear()
                self._files |= {(known, turns): file for known, file in found.items()}
                found.clear()
                if progress is not None:
                    progress(number + 1, len(unique))
        return [self._files[path, turns] for path in paths]

    def _write(self, waiting: Sequence[tuple[pathlib.Path, images.Pixels]], turns: int) -> None:
        if not waiting:
            return
        pooled = self._backbone.pool(np.stack([pixels for _, pixels in waiting]), turns)
        for row, (file, pixels) in enumerate(waiting):
            values: Tensors = {
                "levels": pooled.levels[row],
                "cells": pooled.cells[row],
                "few_colours": np.array(drawings.few_colours(pixels), np.float32),
            }
            file.parent.mkdir(parents=True, exist_ok=True)
            # Two trainings may share a cache: the other one never sees half a file.
            temporary = file.with_suffix(f".{secrets.token_hex(8)}.tmp")
            temporary.write_bytes(safetensors.numpy.save(values))
            temporary.replace(file)


def _bytes(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise errors.ConfigurationError(
            f"{path} cannot be read ({error.strerror}); put the picture there or take its pairs out of the set."
        ) from error


def _pixels(path: pathlib.Path, data: bytes, input_size: int) -> images.Pixels:
    try:
        return images.decode(data, size=input_size, max_pixels=MAX_PIXELS).pixels
    except errors.PermanentError as error:
        raise errors.ConfigurationError(f"{path}: {error}") from error


def _whole(file: pathlib.Path) -> bool:
    try:
        with safetensors.safe_open(file, framework="numpy") as tensors:
            return {"levels", "cells", "few_colours"} <= set(tensors.keys())
    except (OSError, safetensors.SafetensorError):
        # Absent, or left half-written by a crash: computed again.
        return False
