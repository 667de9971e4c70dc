"""What a portal sees: whole properties, every pair within one decided, groups formed as in production.

Balanced pairs flatter a method: among the photos of one property most pairs are no duplicates, and one wrong flag
spoils the listing. What is known of a pair comes from labels. Of pairs without one, only those are counted whose
truth is certain: in a folder with ``duplicates.csv`` every pair that is not listed is no duplicate; in a pair set
whose pictures are named ``<subject>.jpg``, ``<subject>_v0.jpg``, ``<subject>_r1.jpg`` (a picture, its copies, its
redrawings), pairs of one subject are duplicates and pairs of two are not, provided that no label of the set says
otherwise. All other pairs are unknown: a flag on one is neither right nor wrong, and is counted apart.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from core import errors, groups
from core.learning import bootstrap, evaluation, pairs

TRUTH = "duplicates.csv"
_COLUMNS = ("property", "a", "b")
_COPY = re.compile(r"(?P<subject>.+)_[vr]\d+")

Key = frozenset[str]
"""A pair of photos of one property, by name."""


@dataclasses.dataclass(frozen=True)
class Property:
    """Photos in the order of their upload (by name), and what is known of their pairs."""

    id: str
    photos: tuple[str, ...]
    truth: Mapping[Key, bool]


@dataclasses.dataclass(frozen=True)
class Collection:
    """Properties whose photos are files below `images`."""

    name: str
    images: pathlib.Path
    properties: tuple[Property, ...]

    def pair_set(self) -> pairs.PairSet:
        """Every pair within each property; an unknown one is labelled as no duplicate, for scoring only."""
        found = tuple(
            pairs.Pair(a, b, item.truth.get(frozenset((a, b)), False), "test", item.id, item.id, "property")
            for item in self.properties
            for a, b in itertools.combinations(item.photos, 2)
        )
        return pairs.PairSet(self.name, self.images, found)


@dataclasses.dataclass(frozen=True)
class Counts:
    """What was flagged in one property. `found` of `duplicates` known pairs ended in one group."""

    duplicates: int
    found: int
    right: int
    wrong: int
    unknown: int


@dataclasses.dataclass(frozen=True)
class Report:
    """Figures over a collection at one threshold; shares with 95 % intervals over properties."""

    method: str
    collection: str
    threshold: float
    properties: int
    photos: int
    totals: Counts
    wrong_properties: bootstrap.Estimate
    found: bootstrap.Estimate
    precision: bootstrap.Estimate


def read_folder(folder: pathlib.Path) -> Collection:
    """A folder per property, and ``duplicates.csv`` (property, a, b) beside them, which lists every duplicate.

    Raises:
        ConfigurationError: there is no such file, it lacks a column, or it names a picture that is not there.
    """
    known: dict[str, set[Key]] = collections.defaultdict(set)
    try:
        with (folder / TRUTH).open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise errors.ConfigurationError(
                    f"{folder / TRUTH}: expected the columns {','.join(_COLUMNS)}; missing {','.join(missing)}."
                )
            for row in reader:
                names = [f"{row['property']}/{row[column]}" for column in ("a", "b")]
                gone = [name for name in names if not (folder / name).is_file()]
                if gone:
                    raise errors.ConfigurationError(
                        f"{folder / TRUTH}, line {reader.line_num}: no picture {gone[0]}."
                    )
                known[row["property"]].add(frozenset(names))
    except OSError as error:
        raise errors.ConfigurationError(
            f"{folder}: expected a folder a property and {TRUTH} beside them ({error.strerror})."
        ) from error
    found = []
    for home in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        photos = tuple(f"{home.name}/{path.name}" for path in sorted(home.iterdir()) if path.is_file())
        truth = {
            frozenset(names): frozenset(names) in known[home.name]
            for names in itertools.combinations(photos, 2)
        }
        found.append(Property(home.name, photos, truth))
    return Collection(folder.resolve().name, folder, tuple(found))


def of_pairs(pair_set: pairs.PairSet) -> Collection:
    """All pictures of one property in a pair set; what is known as the module says."""
    photos: dict[str, set[str]] = collections.defaultdict(set)
    labels: dict[Key, bool] = {}
    for pair in pair_set.pairs:
        photos[pair.property_a].add(pair.a)
        photos[pair.property_b].add(pair.b)
        if pair.property_a == pair.property_b:
            labels[frozenset((pair.a, pair.b))] = pair.duplicate
    subjects = _subjects({name for names in photos.values() for name in names})
    if any(
        (subjects[a] == subjects[b]) != duplicate
        for (a, b), duplicate in (
            (sorted(key), duplicate) for key, duplicate in labels.items() if len(key) == 2
        )
        if a in subjects and b in subjects
    ):
        subjects = {}
    found = []
    for item, names in sorted(photos.items()):
        truth = {}
        for a, b in itertools.combinations(sorted(names), 2):
            key = frozenset((a, b))
            if key in labels:
                truth[key] = labels[key]
            elif a in subjects and b in subjects:
                truth[key] = subjects[a] == subjects[b]
        found.append(Property(item, tuple(sorted(names)), truth))
    return Collection(pair_set.name, pair_set.images, tuple(found))


def count(item: Property, scores: Mapping[tuple[str, str], float], threshold: float) -> Counts:
    """Form the property's groups as production does and hold the flags against what is known.

    Args:
        scores: of every pair, by the names in the order of upload.
        threshold: pairs at or above it are duplicates.
    """
    number = {name: place for place, name in enumerate(item.photos)}
    decided = {
        groups.pair(number[a], number[b]): score for (a, b), score in scores.items() if score >= threshold
    }
    flags = groups.flags(range(len(item.photos)), decided, {})
    canonical = {
        name: flags[place].duplicate_of if place in flags else place for name, place in number.items()
    }
    known = [
        item.truth.get(frozenset((item.photos[flag.photo_id], item.photos[flag.duplicate_of])))
        for flag in flags.values()
    ]
    duplicates = [sorted(key) for key, duplicate in item.truth.items() if duplicate]
    return Counts(
        duplicates=len(duplicates),
        found=sum(canonical[a] == canonical[b] for a, b in duplicates),
        right=known.count(True),
        wrong=known.count(False),
        unknown=known.count(None),
    )


def report(
    collection: Collection,
    scores: evaluation.Scores,
    threshold: float,
    method: str,
    seed: int = 0,
    replicates: int = bootstrap.REPLICATES,
) -> Report:
    """Figures of scored pairs.

    Args:
        scores: (n,) of `collection.pair_set()`, in its order.
        seed: of the bootstrap, which draws properties.
    """
    by_property: dict[str, dict[tuple[str, str], float]] = collections.defaultdict(dict)
    for pair, score in zip(collection.pair_set().pairs, scores, strict=True):
        by_property[pair.property_a][pair.a, pair.b] = float(score)
    counts = [count(item, by_property[item.id], threshold) for item in collection.properties]
    table = np.array([dataclasses.astuple(item) for item in counts], dtype=np.float64)
    size = len(counts)
    drawn = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=replicates)
    times = np.vstack([np.ones(size), drawn])
    duplicates, found, right, wrong, _ = (times @ table).T
    return Report(
        method=method,
        collection=collection.name,
        threshold=threshold,
        properties=size,
        photos=sum(len(item.photos) for item in collection.properties),
        totals=Counts(*(int(value) for value in table.sum(axis=0))),
        wrong_properties=bootstrap.estimate(times @ (table[:, 3] > 0) / size),
        found=bootstrap.estimate(bootstrap.share(found, duplicates)),
        precision=bootstrap.estimate(bootstrap.share(right, right + wrong)),
    )


def markdown(reports: Sequence[Report]) -> str:
    """One table a collection."""
    heads = ["method", "threshold", "properties with a wrong flag", "duplicates found", "precision of flags",
             "flags right / wrong / unknown"]  # fmt: skip
    parts = []
    for name in dict.fromkeys(item.collection for item in reports):
        here = [item for item in reports if item.collection == name]
        parts += [
            f"### {name} ({here[0].properties} properties, {here[0].photos} photos, "
            f"{here[0].totals.duplicates} known duplicate pairs)",
            "",
            f"| {' | '.join(heads)} |",
            f"|{'---|' * len(heads)}",
        ]
        for item in here:
            flags = f"{item.totals.right} / {item.totals.wrong} / {item.totals.unknown}"
            shown = [str(item.wrong_properties), str(item.found), str(item.precision), flags]
            parts.append(f"| {' | '.join([item.method, f'{item.threshold:.4g}', *shown])} |")
        parts.append("")
    return "\n".join(parts)


def table_csv(reports: Sequence[Report]) -> str:
    """One row a method and collection."""
    shares = ("wrong_properties", "found", "precision")
    counts = [field.name for field in dataclasses.fields(Counts)]
    lines = [
        ["method", "collection", "threshold", "properties", "photos"]
        + [f"{share}{end}" for share in shares for end in ("", "_low", "_high")]
        + [f"{name}_count" for name in counts]
    ]
    for item in reports:
        estimates = [getattr(item, share) for share in shares]
        lines.append(
            [item.method, item.collection, f"{item.threshold:.6g}", str(item.properties), str(item.photos)]
            + [f"{value:.4f}" for part in estimates for value in (part.value, part.low, part.high)]
            + [str(value) for value in dataclasses.astuple(item.totals)]
        )
    return "".join(f"{','.join(line)}\n" for line in lines)


def _subjects(names: set[str]) -> dict[str, str]:
    """What a picture shows, by its name; pictures whose name does not tell are left out."""
    stems = {name: pathlib.PurePath(name).stem for name in names}
    copies = {name: found["subject"] for name, stem in stems.items() if (found := _COPY.fullmatch(stem))}
    originals = {name: stem for name, stem in stems.items() if stem in set(copies.values())}
    return originals | copies
