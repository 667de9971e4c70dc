"""What the fused embedding has to beat: keypoints, a perceptual hash, one level of the same backbone."""

from __future__ import annotations

import pathlib

import numpy as np
import numpy.typing as npt

from core import errors, fusing, images
from core.learning import evaluation, features, methods, pairs

_HASH_BITS = 64
_HASH_PIXELS = 256


class PerceptualHash:
    """64-bit DCT hash; score = 1 − Hamming distance / 64.

    Source: Zauner, *Implementation and Benchmarking of Perceptual Image Hash Functions*, 2010, as `imagehash.phash`.
    """

    name = "pHash DCT 64"

    def __init__(self) -> None:
        self._known: dict[pathlib.Path, npt.NDArray[np.bool_]] = {}

    def scores(self, pair_set: pairs.PairSet, progress: methods.Progress | None = None) -> evaluation.Scores:
        """(n,) in 0…1. Raises as `methods.Method.scores`."""
        pictures = pair_set.pictures
        for done, path in enumerate(pictures):
            if path not in self._known:
                self._known[path] = _hash(path)
            if progress is not None:
                progress(done + 1, len(pictures))
        hashes = np.stack([self._known[path] for path in pictures])
        left, right = methods.indices(pair_set)
        shares: evaluation.Scores = 1.0 - (hashes[left] != hashes[right]).sum(axis=1) / _HASH_BITS
        return shares


class LevelCosine:
    """Cosine of one level's global averages, as the backbone gives them."""

    def __init__(self, seen: features.Features, level: str = "layer4") -> None:
        self._seen = seen
        self._level = level

    @property
    def name(self) -> str:
        """The backbone and the level."""
        return f"ResNet50 {self._level} cosine"

    def scores(self, pair_set: pairs.PairSet, progress: methods.Progress | None = None) -> evaluation.Scores:
        """(n,) in −1…1. Raises as `methods.Method.scores`."""
        levels = self._seen.levels(pair_set.pictures, progress)
        return cosines(levels[:, fusing.slices()[self._level]], pair_set)


def cosines(vectors: fusing.Vectors, pair_set: pairs.PairSet) -> evaluation.Scores:
    """(n,) cosines of the pairs; `vectors` are (pictures, dims) in the order of `pair_set.pictures`."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(norms, 1e-12)
    left, right = methods.indices(pair_set)
    result: evaluation.Scores = np.einsum("nd,nd->n", unit[left], unit[right]).astype(np.float64)
    return result


def every(seen: features.Features, cache: pathlib.Path | None = None) -> list[methods.Method]:
    """All baselines.

    Raises:
        ConfigurationError: a library of the extra ``learn`` is not installed.
    """
    needs_extra("cv2", "imagehash")
    from core.learning import keypoints

    kinds: tuple[keypoints.Kind, ...] = ("sift", "orb")
    matchers = [keypoints.Matcher(kind, cache) for kind in kinds]
    local = [
        keypoints.KeypointMethod(matcher, geometry)
        for matcher in matchers
        for geometry in keypoints.GEOMETRIES
    ]
    return [*local, PerceptualHash(), LevelCosine(seen)]


def needs_extra(*modules: str) -> None:
    """Say which extra is missing, before work is done in vain.

    Raises:
        ConfigurationError: one of the modules cannot be imported.
    """
    for module in modules:
        try:
            __import__(module)
        except ImportError as error:
            raise errors.ConfigurationError(
                f"This needs {module}, which is not installed ({error}); "
                "install the extra: pip install 'listing-dedup[learn]'."
            ) from error


def _hash(path: pathlib.Path) -> npt.NDArray[np.bool_]:
    import imagehash
    from PIL import Image

    try:
        picture = images.decode(path.read_bytes(), size=_HASH_PIXELS, max_pixels=features.MAX_PIXELS)
    except (OSError, errors.PermanentError) as error:
        raise errors.ConfigurationError(f"{path}: {error}") from error
    found = imagehash.phash(Image.fromarray(picture.pixels.transpose(1, 2, 0)))
    bits: npt.NDArray[np.bool_] = found.hash.ravel()
    return bits
