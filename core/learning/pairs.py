"""Labelled pair sets: which pictures are duplicates of which, and on which side of the split they stand.

A set is a folder with ``pairs_<anything>.csv`` (or one CSV file) and the pictures in ``images/`` beside it.
Columns: a, b (file names), label (1 duplicate, 0 not), split (train, val, test), property_a, property_b, kind
(free text: how the pair was made). A wrong set trains a model that looks better than it is, so what would leak
from one split into another is refused.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import pathlib

from core import errors

COLUMNS = ("a", "b", "label", "split", "property_a", "property_b", "kind")
SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two pictures of a set, by file name, and whether they are duplicates."""

    a: str
    b: str
    duplicate: bool
    split: str
    property_a: str
    property_b: str
    kind: str


@dataclasses.dataclass(frozen=True)
class PairSet:
    """Pairs of one set; `images` is the folder of its pictures."""

    name: str
    images: pathlib.Path
    pairs: tuple[Pair, ...]

    def of(self, split: str) -> PairSet:
        """The pairs of one split."""
        return dataclasses.replace(self, pairs=tuple(pair for pair in self.pairs if pair.split == split))

    @property
    def pictures(self) -> tuple[pathlib.Path, ...]:
        """Every picture once, in the order of the pairs."""
        names = dict.fromkeys(name for pair in self.pairs for name in (pair.a, pair.b))
        return tuple(self.images / name for name in names)


def read(path: pathlib.Path) -> PairSet:
    """Read a pair set and check it.

    Args:
        path: a folder with ``pairs*.csv``, or one CSV file; the set is named after the folder.

    Raises:
        ConfigurationError: nothing to read, a column or picture is missing, a value is not one of those allowed,
            a pair is labelled both ways or stands twice in different splits, or a property stands in two splits.
    """
    files = sorted(path.glob("pairs*.csv")) if path.is_dir() else [path]
    if not files:
        raise errors.ConfigurationError(
            f"{path}: expected pairs*.csv with the columns {','.join(COLUMNS)} and the pictures in images/; found none."
        )
    folder = files[0].parent
    pairs = tuple(pair for file in files for pair in _rows(file))
    if not pairs:
        raise errors.ConfigurationError(f"{path}: holds no pairs.")
    result = PairSet(name=folder.resolve().name, images=folder / "images", pairs=pairs)
    _check_pictures(result)
    _check_pairs(result)
    _check_properties(result)
    return result


def _rows(file: pathlib.Path) -> list[Pair]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise errors.ConfigurationError(
                    f"{file}: expected the columns {','.join(COLUMNS)}; missing {','.join(missing)}."
                )
            return [_pair(file, reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise errors.ConfigurationError(f"{file} cannot be read as a CSV of pairs ({error}).") from error


def _pair(file: pathlib.Path, line: int, row: dict[str, str | None]) -> Pair:
    values = {column: (row[column] or "").strip() for column in COLUMNS}
    for column in ("a", "b", "property_a", "property_b"):
        if not values[column]:
            raise errors.ConfigurationError(f"{file}, line {line}: {column} is empty.")
    if values["label"] not in {"0", "1"}:
        raise errors.ConfigurationError(
            f"{file}, line {line}: expected label 0 or 1, found {values['label']!r}."
        )
    if values["split"] not in SPLITS:
        raise errors.ConfigurationError(
            f"{file}, line {line}: expected split {', '.join(SPLITS)}, found {values['split']!r}."
        )
    return Pair(
        a=values["a"],
        b=values["b"],
        duplicate=values["label"] == "1",
        split=values["split"],
        property_a=values["property_a"],
        property_b=values["property_b"],
        kind=values["kind"],
    )


def _check_pictures(pair_set: PairSet) -> None:
    missing = [path.name for path in pair_set.pictures if not path.is_file()]
    if missing:
        raise errors.ConfigurationError(
            f"Pair set {pair_set.name}: {len(missing)} pictures are not in {pair_set.images}, the first {missing[0]}."
        )


def _check_pairs(pair_set: PairSet) -> None:
    seen: dict[tuple[str, str], Pair] = {}
    for pair in pair_set.pairs:
        key = (min(pair.a, pair.b), max(pair.a, pair.b))
        other = seen.setdefault(key, pair)
        if other.duplicate != pair.duplicate:
            raise errors.ConfigurationError(
                f"Pair set {pair_set.name}: {pair.a} and {pair.b} are labelled both 0 and 1."
            )
        if other.split != pair.split:
            raise errors.ConfigurationError(
                f"Pair set {pair_set.name}: {pair.a} and {pair.b} stand in {other.split} and in {pair.split}."
            )


def _check_properties(pair_set: PairSet) -> None:
    splits: dict[str, set[str]] = collections.defaultdict(set)
    for pair in pair_set.pairs:
        splits[pair.property_a].add(pair.split)
        splits[pair.property_b].add(pair.split)
    shared = {name: found for name, found in splits.items() if len(found) > 1}
    if shared:
        name = min(shared)
        raise errors.ConfigurationError(
            f"Pair set {pair_set.name}: {len(shared)} properties stand in several splits, the first {name} in "
            f"{' and '.join(sorted(shared[name]))}; keep each property in one."
        )
