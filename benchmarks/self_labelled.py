"""What a portal gets without labels: bundles trained on pairs made of unlabelled photos, on labelled ones, on both.

``python -m benchmarks.self_labelled BENCH... --weights FILE --cache FOLDER [--pairs 400]``. The train pictures of each
labelled set stand for the portal's bucket: what edits of them the set has (names ending in ``_v0``, ``_r1`` …) is left
out, and no label is read. Every row is measured on the val pairs, of other houses. The rows with labels are scored
leaving houses out, since their training learns from val houses, too.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import tempfile

import numpy as np

from benchmarks import results
from core import classifier, embedding, weights
from core.learning import (
    evaluation,
    examples,
    features,
    fitting,
    methods,
    pairs,
    sources,
    training,
    whitening,
)
from core.learning.selfmade import pairsets

_EDIT = re.compile(r"_[vr]\d+$")


def bucket(sets: list[pairs.PairSet]) -> list[pairsets.Photo]:
    """The unedited train pictures, with their properties."""
    photos = {}
    for pair_set in sets:
        for pair in pair_set.of("train").pairs:
            for name, owner in ((pair.a, pair.property_a), (pair.b, pair.property_b)):
                if not _EDIT.search(pathlib.PurePath(name).stem):
                    photos[pair_set.images / name] = f"{pair_set.name} {owner}"
    return [pairsets.Photo(owner, path) for path, owner in photos.items()]


def without_labels(
    sets: list[pairs.PairSet], made: list[pairs.PairSet], source: weights.Weights, seen: features.Features
) -> dict[str, evaluation.Scores]:
    """Scores of the val pairs, by a bundle that saw no label."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = training.train(made, source, pathlib.Path(folder) / "self", name="self", seen=seen)
    method = methods.BundleMethod(bundle, seen)
    return {part.name: method.scores(part.of("val")) for part in sets}


def with_labels(
    sets: list[pairs.PairSet], others: list[pairs.PairSet], seen: features.Features
) -> dict[str, evaluation.Scores]:
    """Scores of the val pairs, each by a network that did not see its house."""
    recipe = fitting.Recipe()
    table = examples.gather([*sets, *others], recipe, 0)
    whitened = whitening.fit(seen, [training.learned(part) for part in (*sets, *others)], 0)
    inputs = classifier.Inputs(whitened.fusion.layout, whitened.variance)
    described = examples.describe(table, seen.fused(table.paths, whitened.fusion), inputs)
    _, logits = fitting.leave_houses_out(described, recipe, 0)
    scores = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
    return {part.name: scores[(table.part == place) & table.val] for place, part in enumerate(sets)}


def main() -> None:
    """Measure, print, and keep the CSV."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.self_labelled", description=__doc__)
    parser.add_argument("bench", nargs="+", type=pathlib.Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--cache", type=pathlib.Path)
    parser.add_argument("--pairs", type=int, default=400, help="made for each of three sets")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sets = [pairs.read(path) for path in options.bench]
    source = weights.load(options.weights)
    backbone = embedding.Backbone(source, embedding.choose_device("auto"))
    seen = features.Features(backbone, training.INPUT_SIZE, options.cache)
    with tempfile.TemporaryDirectory() as folder:
        made = sources.self_made(
            bucket(sets), seen, pathlib.Path(folder) / "made", seed=0, count=options.pairs
        )
        kinds = {
            "self-labelled only": without_labels(sets, made, source, seen),
            "labelled only": with_labels(sets, [], seen),
            "both": with_labels(sets, made, seen),
        }
    table: list[dict[str, object]] = []
    for kind, scores in kinds.items():
        labels = {part.name: methods.labels(part.of("val")) for part in sets}
        threshold, _ = evaluation.best_mean_f1([(scores[name], labels[name]) for name in labels])
        for name, duplicate in labels.items():
            table.append(
                {
                    "trained_on": kind,
                    "set": name,
                    "val_pairs": len(duplicate),
                    "f1": round(evaluation.f1_at(scores[name], duplicate, threshold), 4),
                    "average_precision": round(evaluation.average_precision(scores[name], duplicate), 4),
                }
            )
    results.write("self_labelled", table, as_json=options.json)


if __name__ == "__main__":
    main()
