"""The baseline of local features: keypoints that agree on one geometry count as evidence of a duplicate.

A picture's keypoints are matched by mutual nearest descriptors and Lowe's ratio test, and the matches that one
homography (a plane, or a camera that only turned) or one fundamental matrix (a camera that moved) explains are
counted by RANSAC. Sources: Lowe, *Distinctive Image Features from Scale-Invariant Keypoints*, 2004; Rublee et al.,
*ORB*, 2011; Fischler and Bolles, *Random Sample Consensus*, 1981; OpenCV's implementations.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from core import errors, images
from core.learning import evaluation, features, methods, pairs

Kind = Literal["sift", "orb"]
Geometry = Literal["homography", "fundamental"]
GEOMETRIES: tuple[Geometry, ...] = ("homography", "fundamental")

Descriptors = npt.NDArray[np.uint8]
Places = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int32]

_VERSION = 1
_SIDE_PIXELS = 512
_KEYPOINTS = 500
_RATIO = {"sift": 0.8, "orb": 0.85}
_HOMOGRAPHY_PIXELS = 5.0
_FUNDAMENTAL_PIXELS = 3.0
_TRIALS = 500
_LEAST = {"homography": 4, "fundamental": 8}


@dataclasses.dataclass(frozen=True)
class Keypoints:
    """`places` is (n, 2) in pixels of the picture shrunk to 512, `descriptors` (n, 128) for SIFT, (n, 32) for ORB."""

    places: Places
    descriptors: Descriptors


class Matcher:
    """Counts inliers of pairs; a picture's keypoints are computed once.

    Args:
        kind: of keypoints.
        cache: folder for the counts of whole pair sets, named by the pictures' digests; none are kept without one.
    """

    def __init__(self, kind: Kind, cache: pathlib.Path | None = None) -> None:
        self.kind = kind
        self._cache = cache
        self._known: dict[str, Keypoints] = {}

    def counts(self, pair_set: pairs.PairSet, progress: methods.Progress | None = None) -> Counts:
        """(n, 2) inliers of each pair, by homography and by fundamental matrix.

        Raises:
            ConfigurationError: a picture cannot be read or decoded (with its path).
        """
        digests = {path: hashlib.sha256(_read(path)).hexdigest() for path in pair_set.pictures}
        keys = [
            (digests[pair_set.images / pair.a], digests[pair_set.images / pair.b]) for pair in pair_set.pairs
        ]
        file = self._file(keys)
        if file is not None and file.is_file():
            known: Counts = np.load(file, allow_pickle=False)
            return known
        result = np.zeros((len(keys), len(GEOMETRIES)), np.int32)
        for row, (pair, (a, b)) in enumerate(zip(pair_set.pairs, keys, strict=True)):
            left = self._keypoints(pair_set.images / pair.a, a)
            right = self._keypoints(pair_set.images / pair.b, b)
            result[row] = inliers(left, right, self.kind)
            if progress is not None:
                progress(row + 1, len(keys))
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_suffix(".tmp.npy")
            np.save(temporary, result)
            temporary.replace(file)
        return result

    def _keypoints(self, path: pathlib.Path, name: str) -> Keypoints:
        if name not in self._known:
            try:
                self._known[name] = detect(_read(path), self.kind)
            except errors.PermanentError as error:
                raise errors.ConfigurationError(f"{path}: {error}") from error
        return self._known[name]

    def _file(self, keys: list[tuple[str, str]]) -> pathlib.Path | None:
        if self._cache is None:
            return None
        text = repr((_VERSION, self.kind, cv2.__version__, keys))
        return self._cache / "keypoints" / f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.npy"


class KeypointMethod:
    """Scores of pairs by the inliers of one geometry."""

    def __init__(self, matcher: Matcher, geometry: Geometry) -> None:
        self._matcher = matcher
        self._geometry = geometry

    @property
    def name(self) -> str:
        """Keypoints and geometry."""
        return f"{self._matcher.kind.upper()} {self._geometry}"

    def scores(self, pair_set: pairs.PairSet, progress: methods.Progress | None = None) -> evaluation.Scores:
        """(n,) numbers of inliers. Raises as `Matcher.counts`."""
        counts = self._matcher.counts(pair_set, progress)
        return counts[:, GEOMETRIES.index(self._geometry)].astype(np.float64)


def detect(data: bytes, kind: Kind) -> Keypoints:
    """Keypoints of a photo, the strongest first kept. Raises as `images.decode`."""
    # One thread: OpenCV's own would crowd out the workers, and the order of its sums is then fixed.
    cv2.setNumThreads(1)
    small = images.thumbnail(data, _SIDE_PIXELS, features.MAX_PIXELS)
    grey = cv2.imdecode(np.frombuffer(small, np.uint8), cv2.IMREAD_GRAYSCALE)
    # OpenCV's own type hints lack these two.
    opencv: Any = cv2
    detector = (
        opencv.SIFT_create(nfeatures=_KEYPOINTS)
        if kind == "sift"
        else opencv.ORB_create(nfeatures=_KEYPOINTS)
    )
    points, found = detector.detectAndCompute(grey, None)
    if found is None:
        return Keypoints(np.empty((0, 2), np.float32), np.empty((0, 128 if kind == "sift" else 32), np.uint8))
    # OpenCV's SIFT gives whole numbers of 0…255 as floats; a byte each holds them.
    return Keypoints(np.array([point.pt for point in points], np.float32), found.astype(np.uint8))


def inliers(a: Keypoints, b: Keypoints, kind: Kind) -> tuple[int, int]:
    """How many matches one homography explains, and how many one fundamental matrix."""
    rows, columns = _matches(a.descriptors, b.descriptors, kind)
    left, right = a.places[rows], b.places[columns]
    return _count(left, right, "homography"), _count(left, right, "fundamental")


def _matches(
    a: Descriptors, b: Descriptors, kind: Kind
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    if min(len(a), len(b)) < 2:
        nothing = np.empty(0, np.int64)
        return nothing, nothing
    if kind == "orb":
        # Squared Euclidean distance of bits is their Hamming distance.
        left, right = (np.unpackbits(values, axis=1).astype(np.float32) for values in (a, b))
        ratio = _RATIO[kind]
    else:
        left, right = a.astype(np.float32), b.astype(np.float32)
        ratio = _RATIO[kind] ** 2
    # Whole numbers below 2**24 are exact in float32, so the sums are the same in any order.
    distance = (left**2).sum(1)[:, None] + (right**2).sum(1)[None, :] - 2 * (left @ right.T)
    nearest, back = distance.argmin(1), distance.argmin(0)
    two = np.partition(distance, 1, axis=1)
    rows = np.flatnonzero((two[:, 0] < ratio * two[:, 1]) & (back[nearest] == np.arange(len(left))))
    return rows, nearest[rows]


def _count(left: Places, right: Places, geometry: Geometry) -> int:
    if len(left) < _LEAST[geometry]:
        return 0
    cv2.setRNGSeed(0)
    mask: Any
    if geometry == "homography":
        _, mask = cv2.findHomography(left, right, cv2.RANSAC, _HOMOGRAPHY_PIXELS, maxIters=_TRIALS)
    else:
        _, mask = cv2.findFundamentalMat(left, right, cv2.FM_RANSAC, _FUNDAMENTAL_PIXELS, 0.99, _TRIALS)
    return 0 if mask is None else int(mask.sum())


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise errors.ConfigurationError(f"{path} cannot be read ({error.strerror}).") from error
