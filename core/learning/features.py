"""Pooled backbone levels of pictures, computed once and kept on disk.

Training reads each picture many times but the backbone never changes, so its outputs are cached by what they
depend on: the weights' digest, the input size and the picture's own digest. A renamed picture is not computed
again, a changed one is.
"""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from core import embedding, errors, images

DIMS = sum(embedding.LEVELS.values())
BATCH = 32
MAX_PIXELS = 100_000_000

Progress = Callable[[int, int], None]
"""Called with the pictures done and the pictures in all."""


def pooled(
    paths: Sequence[pathlib.Path],
    backbone: embedding.Backbone,
    *,
    input_size: int,
    cache: pathlib.Path | None = None,
    progress: Progress | None = None,
) -> embedding.Vectors:
    """Global averages of all levels for each picture.

    Args:
        paths: the picture files.
        backbone: gives the values and, by its weights' digest, the place in the cache.
        input_size: side of the square that the backbone sees, in pixels.
        cache: folder to keep the values in; nothing is kept without one.
        progress: told after each batch.

    Returns:
        (n, 3904) float32, in the order of `paths`.

    Raises:
        ConfigurationError: a picture is missing or cannot be decoded (with its path).
    """
    result = np.empty((len(paths), DIMS), dtype=np.float32)
    folder = None if cache is None else cache / f"{backbone.weights_sha256[:16]}-{input_size}"
    done = 0
    waiting: list[tuple[int, str, images.Pixels]] = []

    def flush() -> None:
        nonlocal done
        if waiting:
            values = backbone.pool(np.stack([pixels for _, _, pixels in waiting]))
            for (row, name, _), value in zip(waiting, values, strict=True):
                result[row] = value
                if folder is not None:
                    _write(folder, name, value)
            done += len(waiting)
            waiting.clear()
        if progress is not None:
            progress(done, len(paths))

    for row, path in enumerate(paths):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise errors.ConfigurationError(
                f"{path} cannot be read ({error.strerror}); put the picture there or take its pairs out of the set."
            ) from error
        name = hashlib.sha256(data).hexdigest()
        known = None if folder is None else _read(folder, name)
        if known is not None:
            result[row] = known
            done += 1
            continue
        try:
            picture = images.decode(data, size=input_size, max_pixels=MAX_PIXELS)
        except errors.PermanentError as error:
            raise errors.ConfigurationError(f"{path}: {error}") from error
        waiting.append((row, name, picture.pixels))
        if len(waiting) == BATCH:
            flush()
    flush()
    return result


def _file(folder: pathlib.Path, name: str) -> pathlib.Path:
    return folder / name[:2] / f"{name}.npy"


def _read(folder: pathlib.Path, name: str) -> embedding.Vectors | None:
    try:
        values = np.load(_file(folder, name), allow_pickle=False)
    except (OSError, ValueError):
        # Absent, or left half-written by a crash: computed again.
        return None
    return values if values.shape == (DIMS,) and values.dtype == np.float32 else None


def _write(folder: pathlib.Path, name: str, values: embedding.Vectors) -> None:
    path = _file(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, values)
    # Two trainings may share a cache: the other one never sees half a file.
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_bytes(buffer.getvalue())
    temporary.replace(path)
