"""Writes labelled pair sets that are made of a portal's own photos, none of which was labelled."""

from __future__ import annotations

import collections
import concurrent.futures
import csv
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import structlog

from core import errors, images
from core.learning import baselines, features, pairs
from core.learning.selfmade import mining, pairing, recipes

COUNT = 2_000

Progress = Callable[[int, int], None]
"""Called with the photos done and the photos in all."""

_VAL_SHARE = 0.2
_DECODED_PIXELS = 800
"""Views are cut from photos of this size, so that they are as sharp as what is posted."""
_PHOTOS_EACH = 2
"""Photos that are searched for look-alikes, for each pair that is asked for: their comparison grows with the square."""

_log = structlog.get_logger()


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photo of a property, as a file."""

    property_id: str
    path: pathlib.Path


def write(
    photos: Sequence[Photo],
    levels: npt.NDArray[np.float32],
    drawings: npt.NDArray[np.bool_],
    output: pathlib.Path,
    *,
    seed: int,
    count: int = COUNT,
    progress: Progress | None = None,
) -> list[pairs.PairSet]:
    """Write the sets ``self-overlays``, ``self-angles`` and ``self-plans`` under `output`, and read them back.

    One in five properties is for validation, by the hash of its id; the same photos, seed and count give the same
    files. A photo that cannot be decoded is left out with a warning, and so is a set that the photos do not give:
    one that would lack duplicates or different pictures in train or val.

    Args:
        photos: of any properties, unlabelled; duplicates may be among them.
        levels: (n, 3904) pooled levels of the photos, only used to find look-alikes.
        drawings: (n,) whether a photo is a floor plan or another line drawing.
        output: an empty or absent folder.
        count: pairs in each set, train and val together; fewer where photos are few.

    Raises:
        ConfigurationError: no photos, or too few for any set; arguments do not fit together; a property id is
            empty; `output` holds something; OpenCV is not installed, but there are plans.
    """
    _check(photos, levels, drawings, output, count)
    owners = [photo.property_id.strip() for photo in photos]
    side = _splits(owners, drawings)
    planned: dict[str, list[pairing.Planned]] = {}
    for sorts, members, same_picture in (
        ((pairing.OVERLAYS, pairing.ANGLES), np.flatnonzero(~drawings), mining.SAME_PHOTO),
        ((pairing.PLANS,), np.flatnonzero(drawings), mining.SAME_PLAN),
    ):
        if len(members):
            chosen = _sampled(members, owners, _PHOTOS_EACH * count, seed)
            planned |= _planned(sorts, chosen, levels, owners, side, same_picture, count, seed)
    if planned.get(pairing.PLANS.name):
        baselines.needs_extra("cv2")
    made = _render(photos, planned, output, seed, progress)
    result = []
    for name, rows in planned.items():
        kept = [row for row in rows if {(name, row.left.name), (name, row.right.name)} <= made]
        if missing := _missing(kept):
            _log.warning("self-made pair set left out", set=name, missing=missing)
            _remove(output / name)
            continue
        _write_rows(output / name, kept, owners)
        result.append(pairs.read(output / name))
    if not result:
        raise errors.ConfigurationError(
            f"{len(photos)} photos of {len(set(owners))} properties give no pair set with duplicates and different "
            "pictures in both train and val; give readable photos of at least four properties."
        )
    return result


def _check(
    photos: Sequence[Photo],
    levels: npt.NDArray[np.float32],
    drawings: npt.NDArray[np.bool_],
    output: pathlib.Path,
    count: int,
) -> None:
    if not photos:
        raise errors.ConfigurationError(
            "Expected photos to make pair sets of, found none; check the bucket and its prefix, or the folder."
        )
    if levels.ndim != 2 or len(levels) != len(photos) or drawings.shape != (len(photos),):
        raise errors.ConfigurationError(
            f"Expected levels and drawings of {len(photos)} photos, found shapes {levels.shape} and {drawings.shape}."
        )
    if not np.isfinite(levels).all():
        raise errors.ConfigurationError(
            "The levels of the photos hold values that are not finite; compute them anew."
        )
    for photo in photos:
        if not photo.property_id.strip():
            raise errors.ConfigurationError(f"{photo.path}: its property id is empty; name its property.")
    if count < 1:
        raise errors.ConfigurationError(f"Expected at least 1 pair in each set, found {count}.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise errors.ConfigurationError(f"{output} is not empty; give a new folder.")


def _splits(owners: Sequence[str], drawings: npt.NDArray[np.bool_]) -> dict[str, str]:
    """The split of each property. Both splits get two properties with photos and two with plans, if there are four."""
    places = {owner: _place(owner) for owner in owners}
    val = {owner for owner, place in places.items() if place < _VAL_SHARE}
    for kind in (False, True):
        with_kind = {owner for owner, drawing in zip(owners, drawings, strict=True) if drawing == kind}
        ordered = sorted(with_kind, key=lambda owner: (places[owner], owner))
        least = min(2, len(ordered) // 2)
        val |= set(ordered[:least])
        if least:
            val -= set(ordered[-least:])
    return {owner: "val" if owner in val else "train" for owner in places}


def _place(owner: str) -> float:
    """0…1, evenly spread and the same in every run."""
    digest = hashlib.blake2b(owner.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _sampled(members: mining.Indices, owners: Sequence[str], most: int, seed: int) -> mining.Indices:
    """Photos of whole properties, about `most` of them: half a property would lose its own different photos."""
    of: dict[str, list[int]] = collections.defaultdict(list)
    for member in members:
        of[owners[member]].append(int(member))
    names = sorted(of)
    chosen: list[int] = []
    for number in np.random.default_rng((seed, 3)).permutation(len(names)):
        chosen += of[names[number]]
        if len(chosen) >= most:
            break
    return np.array(sorted(chosen), dtype=np.int64)


def _planned(
    sorts: Sequence[pairing.Sort],
    members: mining.Indices,
    levels: npt.NDArray[np.float32],
    owners: Sequence[str],
    side: dict[str, str],
    same_picture: float,
    count: int,
    seed: int,
) -> dict[str, list[pairing.Planned]]:
    numbers = {owner: number for number, owner in enumerate(sorted(set(owners)))}
    owner = np.array([numbers[owners[member]] for member in members], dtype=np.int64)
    directions = mining.units(levels[members])
    limit = mining.different(directions, owner, seed)
    result: dict[str, list[pairing.Planned]] = {sort.name: [] for sort in sorts}
    for split, share in (("train", 1 - _VAL_SHARE), ("val", _VAL_SHARE)):
        here = np.array([side[owners[member]] == split for member in members])
        if not here.any():
            continue
        mined = mining.mine(directions[here], owner[here], same_picture=same_picture, limit=limit)
        for sort in sorts:
            result[sort.name] += pairing.planned(
                sort, members[here], mined, round(count * share), split, seed
            )
    missing = {name: _missing(rows) for name, rows in result.items()}
    for name, what in missing.items():
        if what:
            _log.warning("self-made pair set left out", set=name, missing=what)
    return {name: rows for name, rows in result.items() if not missing[name]}


def _render(
    photos: Sequence[Photo],
    planned: dict[str, list[pairing.Planned]],
    output: pathlib.Path,
    seed: int,
    progress: Progress | None,
) -> set[tuple[str, str]]:
    """Write every picture; the set and name of each that could be made."""
    wanted: dict[int, dict[tuple[str, str], recipes.Recipe]] = collections.defaultdict(dict)
    for name, rows in planned.items():
        (output / name / "images").mkdir(parents=True, exist_ok=True)
        for row in rows:
            for recipe in (row.left, row.right):
                wanted[recipe.photo][name, recipe.name] = recipe

    def render(photo: int) -> list[tuple[str, str]]:
        try:
            image = images.upright(photos[photo].path.read_bytes(), _DECODED_PIXELS, features.MAX_PIXELS)
        except (OSError, errors.DedupError) as error:
            _log.warning(
                "photo left out of self-made pair sets", path=str(photos[photo].path), error=str(error)
            )
            return []
        for (name, file), recipe in wanted[photo].items():
            (output / name / "images" / file).write_bytes(recipes.jpeg(image, recipe, seed))
        return list(wanted[photo])

    made: set[tuple[str, str]] = set()
    # Decoding, filters and coding release the interpreter's lock.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, files in enumerate(pool.map(render, sorted(wanted)), start=1):
            made.update(files)
            if progress is not None:
                progress(done, len(wanted))
    return made


def _missing(rows: Sequence[pairing.Planned]) -> str:
    """Which labels are not there, empty when all are."""
    there = {(row.left.split, row.duplicate) for row in rows}
    return ", ".join(
        f"{'duplicates' if duplicate else 'different pictures'} in {split}"
        for split in ("train", "val")
        for duplicate in (True, False)
        if (split, duplicate) not in there
    )


def _write_rows(folder: pathlib.Path, rows: Sequence[pairing.Planned], owners: Sequence[str]) -> None:
    used = {name for row in rows for name in (row.left.name, row.right.name)}
    for path in (folder / "images").iterdir():
        # Partners of pictures that could not be decoded.
        if path.name not in used:
            path.unlink()
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(pairs.COLUMNS)
        for row in rows:
            owned = owners[row.left.photo], owners[row.right.photo]
            writer.writerow(
                [row.left.name, row.right.name, int(row.duplicate), row.left.split, *owned, row.kind]
            )


def _remove(folder: pathlib.Path) -> None:
    for path in (folder / "images").iterdir():
        path.unlink()
    (folder / "images").rmdir()
    folder.rmdir()
