"""How alike two photos of a property may be to stand for different ones when nobody labelled them.

``python -m benchmarks.selfmade_negatives SET... --weights FILE`` with folders of pair sets, or with a folder that
holds ``duplicates.csv`` (property, a, b) over one folder of photos for each property. For several quantiles of the
cosines between different properties (of standardised pooled levels): which share of each kind of pair within a
property lies below, and how many of those would be duplicates. Train pairs only.
"""

from __future__ import annotations

import argparse
import collections
import csv
import itertools
import pathlib
from collections.abc import Sequence

import numpy as np

from benchmarks import results
from core import embedding, images, weights
from core.learning import pairs
from core.learning.selfmade import mining

QUANTILES = (0.5, 0.75, 0.9)
_BATCH = 16


def measure(folder: pathlib.Path, backbone: embedding.Backbone) -> list[dict[str, object]]:
    """A row for each quantile and kind of pair within a property."""
    kinds = _listed(folder) if (folder / "duplicates.csv").is_file() else _paired(folder)
    owners = {
        path: owner for pairs_of in kinds.values() for one, other, owner in pairs_of for path in (one, other)
    }
    paths = sorted(owners)
    numbers = {name: number for number, name in enumerate(sorted(set(owners.values())))}
    owner = np.array([numbers[owners[path]] for path in paths], dtype=np.int64)
    directions = mining.units(_levels(paths, backbone))
    at = {path: number for number, path in enumerate(paths)}
    rows: list[dict[str, object]] = []
    for quantile in QUANTILES:
        limit = mining.different(directions, owner, 0, quantile)
        for kind, found in sorted(kinds.items()):
            cosines = np.array([directions[at[one]] @ directions[at[other]] for one, other, _ in found])
            below = {"below": round(float((cosines < limit).mean()), 4), "pairs": len(found)}
            rows.append(
                {"set": folder.name, "quantile": quantile, "limit": round(limit, 3), "kind": kind, **below}
            )
    return rows


def _paired(folder: pathlib.Path) -> dict[str, list[tuple[pathlib.Path, pathlib.Path, str]]]:
    made = pairs.read(folder).of("train")
    kinds = collections.defaultdict(list)
    for pair in made.pairs:
        if pair.property_a == pair.property_b:
            label = "duplicate" if pair.duplicate else "different"
            kinds[f"{label} {pair.kind}"].append(
                (made.images / pair.a, made.images / pair.b, pair.property_a)
            )
    return kinds


def _listed(folder: pathlib.Path) -> dict[str, list[tuple[pathlib.Path, pathlib.Path, str]]]:
    with (folder / "duplicates.csv").open(newline="", encoding="utf-8") as file:
        known = {
            frozenset((row["property"] + row["a"], row["property"] + row["b"]))
            for row in csv.DictReader(file)
        }
    kinds = collections.defaultdict(list)
    for home in sorted(path for path in folder.iterdir() if path.is_dir()):
        for one, other in itertools.combinations(sorted(home.glob("*.jpg")), 2):
            duplicate = frozenset((home.name + one.name, home.name + other.name)) in known
            kinds["duplicate" if duplicate else "different"].append((one, other, home.name))
    return kinds


def _levels(paths: Sequence[pathlib.Path], backbone: embedding.Backbone) -> mining.Vectors:
    batches = []
    for start in range(0, len(paths), _BATCH):
        pixels = [
            images.decode(path.read_bytes(), size=224, max_pixels=10**8).pixels
            for path in paths[start : start + _BATCH]
        ]
        batches.append(backbone.pool(np.stack(pixels)).levels)
    return np.concatenate(batches)


def main() -> None:
    """Measure the folders named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selfmade_negatives", description=__doc__)
    parser.add_argument("folders", type=pathlib.Path, nargs="+")
    parser.add_argument("--weights", required=True, help="as DEDUP_BACKBONE_WEIGHTS")
    parser.add_argument("--json", action="store_true", help="print rows, write no CSV")
    options = parser.parse_args()
    backbone = embedding.Backbone(weights.load(options.weights), "cpu")
    rows = [row for folder in options.folders for row in measure(folder, backbone)]
    results.write("selfmade_negatives", rows, as_json=options.json)


if __name__ == "__main__":
    main()
