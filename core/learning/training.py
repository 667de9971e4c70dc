"""Trains a model bundle from pair sets; also the command that makes the shipped ones again."""

from __future__ import annotations

import argparse
import dataclasses
import math
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from core import bundle, classifier, embedding, errors, weights
from core.learning import evaluation, examples, features, fitting, pairs, whitening

INPUT_SIZE = 224
PRECISION = 0.99
"""Least precision of what is flagged without a person."""

Progress = Callable[[str, int, int], None]
"""Called with the stage, the steps done and the steps in all."""

_REVIEW_PRECISION = 0.8
_REVIEW_LEAST = 0.1
_PROVENANCE = (
    "Trained on pictures that are not part of this bundle; their licence decides what it may be used for."
)


def train(
    pair_sets: Sequence[pairs.PairSet],
    source: weights.Weights,
    output: pathlib.Path,
    *,
    name: str,
    seed: int = 0,
    recipe: fitting.Recipe | None = None,
    cache: pathlib.Path | None = None,
    device: str = "cpu",
    seen: features.Features | None = None,
    precision: float = PRECISION,
    provenance: str = _PROVENANCE,
    progress: Progress | None = None,
) -> bundle.Bundle:
    """Train a bundle on the train and val pairs of the sets.

    The fusion is fitted to the train pictures. The decision network is fitted leaving houses out (see `fitting`):
    calibration, thresholds and the figures on the card rest on what networks said of houses that they had not seen.
    Test pairs are not read. The same sets, weights, recipe and seed give the same digest on the same machine.

    Args:
        pair_sets: each with pairs of both labels in train and val.
        source: the backbone's weights.
        output: folder of the bundle.
        name: of the bundle.
        cache: folder where the backbone's outputs are kept between trainings.
        seen: the outputs of a backbone with these weights, where the caller has it at hand already.
        precision: least precision of the `duplicate` band, on the val pairs and on all.
        provenance: what the data may be used for, for the card.

    Raises:
        ConfigurationError: a set has not both labels among its train and val pairs; all pairs are of one property;
            a picture cannot be read; no threshold reaches the precision.
    """
    recipe = recipe or fitting.Recipe()
    names = [part.name for part in pair_sets]
    if len(set(names)) < len(names):
        raise errors.ConfigurationError(
            f"Two pair sets have one name, of {', '.join(names)}; rename a folder."
        )
    seen = seen or features.Features(embedding.Backbone(source, device), INPUT_SIZE, cache)
    table = examples.gather(pair_sets, recipe, seed)
    if len(np.unique(table.houses)) < 2:
        raise errors.ConfigurationError(
            "Every pair is of one property, and what holds for others is learned from others: give pairs of several."
        )
    whitened = whitening.fit(seen, [learned(part) for part in pair_sets], seed, _stage(progress, "features"))
    vectors = seen.fused(table.paths, whitened.fusion, _stage(progress, "features of all splits"))
    inputs = classifier.Inputs(whitened.fusion.layout, whitened.variance)
    described = examples.describe(table, vectors, inputs)
    network, logits = fitting.leave_houses_out(described, recipe, seed, _stage(progress, "training"))
    labelled = table.part >= 0
    slope, offset = fitting.calibrate(
        logits[labelled], table.duplicate[labelled], described.counts[labelled].astype(np.float64)
    )
    scores = 1 / (1 + np.exp(-np.clip(slope * logits + offset, -80, 80)))
    duplicate, decision, review = _thresholds(table, scores, precision)
    head = classifier.PairClassifier(
        whitened.fusion.layout, {"variance": whitened.variance, **network.tensors(slope, offset)}
    )
    record: dict[str, Any] = {
        "provenance": provenance,
        "seed": seed,
        "recipe": dataclasses.asdict(recipe),
        "sets": [_counts(pair_set) for pair_set in pair_sets],
        "houses_left_out": _figures(pair_sets, table, scores, table.part >= 0, decision, duplicate),
        "val": _figures(pair_sets, table, scores, table.val, decision, duplicate),
    }
    return bundle.save(
        output,
        name=name,
        fusion=whitened.fusion,
        classifier=head,
        backbone=bundle.BackboneReference(bundle.ARCHITECTURE, source.name, source.sha256),
        input_size=INPUT_SIZE,
        duplicate=duplicate,
        decision=decision,
        review=review,
        training=record,
    )


def reissue(
    made: bundle.Bundle, backbone: bundle.BackboneReference, output: pathlib.Path, *, name: str
) -> bundle.Bundle:
    """Write the bundle again for other weights that give nearly the same features; the card says so."""
    note = (
        f"The head was trained on {made.backbone.weights_name} (SHA-256 {made.backbone.weights_sha256}), a "
        f"compressed copy of {backbone.weights_name}; it was not measured on {backbone.weights_name} itself."
    )
    return bundle.save(
        output,
        name=name,
        fusion=made.fusion,
        classifier=made.classifier,
        backbone=backbone,
        input_size=made.input_size,
        duplicate=made.duplicate,
        decision=made.decision,
        review=made.review,
        training=dict(made.training) | {"backbone_note": note},
    )


def _counts(pair_set: pairs.PairSet) -> dict[str, Any]:
    return {
        "name": pair_set.name,
        "train_pairs": len(pair_set.of("train").pairs),
        "val_pairs": len(pair_set.of("val").pairs),
    }


def _thresholds(
    table: examples.Table, scores: evaluation.Scores, precision: float
) -> tuple[float, float, float]:
    """Of the duplicate band, of the best F1, and of the review band."""
    sets = [(scores[here], table.duplicate[here]) for here in (table.part == part for part in _parts(table))]
    # Of calibrated scores the best F1 is had at half of itself (Lipton et al., *Optimal Thresholding of Classifiers to
    # Maximize F1 Measure*, 2014). The measured curve is flat around there, and its very top a matter of chance.
    decision = round(evaluation.best_mean_f1(sets)[1] / 2, 4)
    labelled = table.part >= 0
    groups = [here for here in (labelled, labelled & table.val) if table.duplicate[here].any()]
    precise = evaluation.precise_threshold(
        [(scores[here], table.duplicate[here]) for here in groups], precision, at_least=decision
    )
    if precise is None:
        raise errors.ConfigurationError(
            f"No threshold reaches a precision of {precision}: what is flagged would be wrong more often. "
            "Give more or cleaner pairs, or ask for less with --precision."
        )
    duplicate = min(math.ceil(precise * 1e6) / 1e6, 1.0)
    loose = evaluation.threshold_at_precision(scores[labelled], table.duplicate[labelled], _REVIEW_PRECISION)
    review = max(_REVIEW_LEAST, loose if loose is not None else decision)
    return duplicate, min(decision, duplicate), round(min(decision, duplicate, review), 4)


def learned(pair_set: pairs.PairSet) -> tuple[pathlib.Path, ...]:
    """The train pictures; of a small set without any, the others that are not for testing."""
    return pair_set.of("train").pictures or pair_set.of("val").pictures


def _parts(table: examples.Table) -> list[int]:
    return sorted(set(table.part[table.part >= 0].tolist()))


def _figures(
    pair_sets: Sequence[pairs.PairSet],
    table: examples.Table,
    scores: evaluation.Scores,
    chosen: evaluation.Labels,
    decision: float,
    duplicate: float,
) -> dict[str, Any]:
    parts = {pair_sets[part].name: table.part == part for part in _parts(table)}
    result = {}
    for name, here in (parts | {"pooled": table.part >= 0}).items():
        labels, values = table.duplicate[here & chosen], scores[here & chosen]
        if not len(labels):
            continue
        band = evaluation.report(values, labels, duplicate)
        found = dataclasses.asdict(evaluation.report(values, labels, decision)) | {
            "band_precision": band.precision,
            "band_recall": band.recall,
        }
        result[name] = {
            key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()
        }
    return result


def _stage(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(stage, done, total)


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m core.learning.training PAIRS... --weights W --output DIR --name NAME [--seed 0]``."""
    parser = argparse.ArgumentParser(prog="python -m core.learning.training", description=__doc__)
    parser.add_argument("pair_sets", nargs="+", type=pathlib.Path, metavar="PAIRS_DIR")
    parser.add_argument("--weights", required=True, help="file, IMAGENET1K_V1, IMAGENET1K_V2 or untrained")
    parser.add_argument("--output", required=True, type=pathlib.Path, help="folder of the bundle")
    parser.add_argument("--name", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=pathlib.Path, help="folder for the backbone's outputs")
    parser.add_argument("--precision", type=float, default=PRECISION, help="least precision of flags")
    parser.add_argument("--provenance", default=_PROVENANCE)
    parser.add_argument(
        "--reissue",
        nargs=4,
        action="append",
        default=[],
        metavar=("WEIGHTS_NAME", "SHA256", "NAME", "OUTPUT"),
        help="write the bundle once more for weights of which --weights is a compressed copy",
    )
    options = parser.parse_args(arguments)
    try:
        made = train(
            [pairs.read(path) for path in options.pair_sets],
            weights.load(options.weights),
            options.output,
            name=options.name,
            seed=options.seed,
            cache=options.cache,
            precision=options.precision,
            provenance=options.provenance,
            progress=_print_progress,
        )
        for weights_name, sha256, name, output in options.reissue:
            reference = bundle.BackboneReference(bundle.ARCHITECTURE, weights_name, sha256)
            reissue(made, reference, pathlib.Path(output), name=name)
    except errors.ConfigurationError as error:
        sys.exit(str(error))
    print(f"\n{made.name} {made.digest}")
    for key, figures in made.training["houses_left_out"].items():
        print(f"{key}: {figures}")


def _print_progress(stage: str, done: int, total: int) -> None:
    print(f"\r{stage} {done}/{total}", end="" if done < total else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
