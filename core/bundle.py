"""The model bundle: all that decides a pair besides the backbone itself, named by its digest.

A bundle is a folder of two files. ``bundle.json``, the card, says which backbone, levels and thresholds, how it
was trained, and carries the SHA-256 of ``bundle.safetensors``, the tensors. The digest of the card therefore
fixes every number: equal digests decide equally, and embeddings of different bundles never meet.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import re
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from core import classifier as pair_classifier
from core import errors, fusing, weights

if TYPE_CHECKING:
    # A match worker loads bundles too, and must not need torch for it.
    from core import embedding

FORMAT = 2
CARD = "bundle.json"
TENSORS = "bundle.safetensors"
ARCHITECTURE = "resnet50"
_FUSION = ("mean", "std", "cell_mean", "cell_projection", "drawing_weight", "drawing_bias")
_SHIPPED = pathlib.Path(__file__).parent / "bundles"
_REMEDY = "Fetch the bundle again, or train one with `dedup train`."


@dataclasses.dataclass(frozen=True)
class Files:
    """A bundle's two files, as bytes."""

    card: bytes
    tensors: bytes


@dataclasses.dataclass(frozen=True)
class BackboneReference:
    """The backbone that a bundle was made for. `weights_sha256` is the digest of its weights file, in hex."""

    architecture: str
    weights_name: str
    weights_sha256: str


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A model bundle. Scores are probabilities, in two bands: pairs at or above `duplicate` are flagged, those
    below it at or above `review` are kept for a person to look at.

    `decision`, between the two, is where "duplicate" is likelier right than wrong for precision and recall together
    (the best F1): what evaluations are read at. `input_size` is in pixels. `training` is the record of how it was
    made (data, seed, metrics, provenance), as plain JSON values.
    """

    name: str
    fusion: fusing.Fusion
    classifier: pair_classifier.PairClassifier
    backbone: BackboneReference
    input_size: int
    duplicate: float
    decision: float
    review: float
    training: Mapping[str, Any]
    digest: str
    files: Files = dataclasses.field(repr=False, compare=False)

    @property
    def id(self) -> str:
        """First 16 hex digits of the digest: the model's id in the database."""
        return self.digest[:16]

    @property
    def dims(self) -> int:
        """Length of the fused embedding."""
        return self.fusion.dims

    @property
    def untrained(self) -> bool:
        """True when made for the seeded random backbone, which knows nothing of rooms."""
        return self.backbone.weights_sha256 == weights.UNTRAINED_SHA256


def save(
    path: pathlib.Path,
    *,
    name: str,
    fusion: fusing.Fusion,
    classifier: pair_classifier.PairClassifier,
    backbone: BackboneReference,
    input_size: int,
    duplicate: float,
    decision: float,
    review: float,
    training: Mapping[str, Any],
) -> Bundle:
    """Write a bundle into the folder `path` (made if absent) and return it as `load` reads it back.

    The same arguments give the same bytes.

    Raises:
        ConfigurationError: the parts do not fit together.
    """
    tensors: dict[str, npt.NDArray[Any]] = {f"fusion.{key}": getattr(fusion, key) for key in _FUSION}
    tensors |= {f"fusion.projections.{level}": values for level, values in fusion.projections.items()}
    # As the training rounds them; they are most of a bundle.
    tensors |= {key: tensors[key].astype(np.float16) for key in tensors if "projection" in key}
    tensors |= {f"classifier.{key}": value for key, value in classifier.tensors.items()}
    data = safetensors.numpy.save({key: np.ascontiguousarray(tensors[key]) for key in sorted(tensors)})
    card = {
        "format": FORMAT,
        "name": name,
        "backbone": dataclasses.asdict(backbone),
        "levels": list(fusion.projections),
        "dims": fusion.dims,
        "input_size": input_size,
        "thresholds": {"duplicate": duplicate, "decision": decision, "review": review},
        "training": dict(training),
        "tensors_sha256": hashlib.sha256(data).hexdigest(),
    }
    path.mkdir(parents=True, exist_ok=True)
    # A folder beside the target is checked first: a refused bundle never replaces a good one.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
        draft = pathlib.Path(temporary)
        (draft / TENSORS).write_bytes(data)
        (draft / CARD).write_text(_readable(card), encoding="utf-8")
        load(draft)
        for file in (TENSORS, CARD):
            (draft / file).replace(path / file)
    return load(path)


def load(path: pathlib.Path) -> Bundle:
    """Read a bundle and verify it.

    Raises:
        ConfigurationError: a file is missing or unreadable, the format is of another version, the tensors are
            not those of the card, or shapes, levels or thresholds do not fit together.
    """
    return parse(Files(_file(path, CARD), _file(path, TENSORS)), str(path))


def parse(files: Files, place: str) -> Bundle:
    """Verify a bundle's files; `place` says in errors where they are from. Raises as `load` does."""
    card = _card(files.card, place)
    _same(
        place, "SHA-256 of the tensors", card.get("tensors_sha256"), hashlib.sha256(files.tensors).hexdigest()
    )
    try:
        bundle = _build(card, safetensors.numpy.load(files.tensors), files)
    except errors.ConfigurationError as error:
        raise errors.ConfigurationError(f"Bundle {place}: {error} {_REMEDY}") from error
    except (KeyError, TypeError, ValueError, AttributeError, safetensors.SafetensorError) as error:
        raise errors.ConfigurationError(
            f"Bundle {place}: {CARD} or {TENSORS} is not as format {FORMAT} says "
            f"({type(error).__name__}: {error}). {_REMEDY}"
        ) from error
    _same(place, "dims", card.get("dims"), bundle.dims)
    _check(place, bundle)
    return bundle


def find(name: str) -> Bundle:
    """A bundle by the name of a shipped one, or by its folder. Raises as `load` does."""
    path = pathlib.Path(name).expanduser()
    shipped_path = _SHIPPED / name
    if not path.is_dir() and re.fullmatch(r"[\w.-]+", name) and (shipped_path / CARD).is_file():
        return load(shipped_path)
    if not path.is_dir():
        known = ", ".join(sorted(item.parent.name for item in _SHIPPED.glob(f"*/{CARD}")))
        raise errors.ConfigurationError(
            f"Bundle {name}: no such folder, and no shipped bundle of that name ({known}). {_REMEDY}"
        )
    return load(path)


def check_backbone(bundle: Bundle, backbone: embedding.Backbone) -> None:
    """Refuse a backbone that the bundle was not made for.

    Raises:
        ConfigurationError: the weights' digests differ.
    """
    if bundle.backbone.weights_sha256 != backbone.weights_sha256:
        raise errors.ConfigurationError(
            f"Bundle {bundle.name} ({bundle.id}): expected backbone weights {bundle.backbone.weights_name} with "
            f"SHA-256 {bundle.backbone.weights_sha256}, found {backbone.weights_name} with SHA-256 "
            f"{backbone.weights_sha256}. Set DEDUP_BACKBONE_WEIGHTS to the expected file, or train a bundle for "
            "these weights with `dedup train`."
        )


def shipped() -> dict[str, Bundle]:
    """The bundles that come with the package, by name."""
    return {path.parent.name: load(path.parent) for path in sorted(_SHIPPED.glob(f"*/{CARD}"))}


def shipped_by_id() -> dict[str, Bundle]:
    """The bundles that come with the package, by id."""
    return {item.id: item for item in shipped().values()}


def for_backbone(weights_sha256: str) -> Bundle:
    """The shipped bundle made for these backbone weights.

    Raises:
        ConfigurationError: there is none.
    """
    bundles = shipped()
    for bundle in bundles.values():
        if bundle.backbone.weights_sha256 == weights_sha256:
            return bundle
    known = ", ".join(f"{name} ({item.backbone.weights_sha256[:16]}…)" for name, item in bundles.items())
    raise errors.ConfigurationError(
        f"No shipped bundle fits backbone weights with SHA-256 {weights_sha256}; shipped: {known or 'none'}. "
        "Train one for these weights with `dedup train`, or set DEDUP_BACKBONE_WEIGHTS to weights that one fits."
    )


def canonical(card: Mapping[str, Any]) -> bytes:
    """The card as the bytes that are hashed: keys sorted, no spaces, UTF-8, no NaN.

    Close to RFC 8785 (JSON Canonicalization Scheme); numbers are written as Python's shortest repr.
    """
    text = json.dumps(card, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def _readable(card: Mapping[str, Any]) -> str:
    return json.dumps(card, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _file(path: pathlib.Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except OSError as error:
        raise errors.ConfigurationError(
            f"Bundle {path}: expected a folder with {CARD} and {TENSORS}, found no {name} ({error.strerror}). {_REMEDY}"
        ) from error


def _card(text: bytes, place: str) -> dict[str, Any]:
    try:
        card = json.loads(text)
    except ValueError as error:
        raise errors.ConfigurationError(f"Bundle {place}: {CARD} is not JSON ({error}). {_REMEDY}") from error
    if not isinstance(card, dict):
        raise errors.ConfigurationError(
            f"Bundle {place}: expected {CARD} to hold an object, found {type(card).__name__}. {_REMEDY}"
        )
    _same(place, "format", FORMAT, card.get("format"))
    return card


def _build(card: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]], files: Files) -> Bundle:
    fusion = fusing.Fusion(
        projections={level: _vector(tensors, f"fusion.projections.{level}") for level in card["levels"]},
        **{key: _vector(tensors, f"fusion.{key}") for key in _FUSION},
    )
    head = {key.removeprefix("classifier."): tensors[key] for key in tensors if key.startswith("classifier.")}
    return Bundle(
        name=str(card["name"]),
        fusion=fusion,
        classifier=pair_classifier.PairClassifier(fusion.layout, head),
        backbone=BackboneReference(**card["backbone"]),
        input_size=int(card["input_size"]),
        duplicate=float(card["thresholds"]["duplicate"]),
        decision=float(card["thresholds"]["decision"]),
        review=float(card["thresholds"]["review"]),
        training=dict(card["training"]),
        digest=hashlib.sha256(canonical(card)).hexdigest(),
        files=files,
    )


def _vector(tensors: Mapping[str, npt.NDArray[Any]], key: str) -> fusing.Vectors:
    return np.ascontiguousarray(tensors[key], dtype=np.float32)


def _same(place: str, what: str, expected: object, found: object) -> None:
    if expected != found:
        raise errors.ConfigurationError(
            f"Bundle {place}: {what}: expected {expected}, found {found}. {_REMEDY}"
        )


def _check(place: str, bundle: Bundle) -> None:
    _same(place, "architecture", ARCHITECTURE, bundle.backbone.architecture)
    if not 0.0 <= bundle.review <= bundle.decision <= bundle.duplicate <= 1.0:
        raise errors.ConfigurationError(
            f"Bundle {place}: expected thresholds 0 ≤ review ≤ decision ≤ duplicate ≤ 1, found review {bundle.review}, "
            f"decision {bundle.decision} and duplicate {bundle.duplicate}. {_REMEDY}"
        )
    fusion = bundle.fusion
    parts = [*(getattr(fusion, key) for key in _FUSION), *fusion.projections.values()]
    if not all(np.isfinite(part).all() for part in parts) or not (fusion.std > 0).all():
        raise errors.ConfigurationError(
            f"Bundle {place}: expected a fusion of finite values and positive deviations, found others. {_REMEDY}"
        )
    if bundle.input_size < 32:
        raise errors.ConfigurationError(
            f"Bundle {place}: expected an input size of at least 32 pixels, found {bundle.input_size}. {_REMEDY}"
        )
