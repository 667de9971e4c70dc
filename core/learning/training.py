"""Trains a model bundle from labelled pair sets; also the command that makes the shipped ones again."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from core import bundle, classifier, embedding, errors, weights
from core.learning import evaluation, features, fitting, pairs

INPUT_SIZE = 224
Progress = Callable[[str, int, int], None]
"""Called with the stage (``features`` or ``training``), the steps done and the steps in all."""

_REVIEW_PRECISION = 0.8
_REVIEW_LEAST = 0.1
_LEAST_STD = 0.1
"""Least deviation of a channel, as a share of the median one of its level's channels that vary at all."""
_PROVENANCE = (
    "Trained on pictures that are not part of this bundle; their licence decides what it may be used for."
)


@dataclasses.dataclass(frozen=True)
class _Data:
    vectors: embedding.Vectors
    fusion: embedding.Fusion
    learn: fitting.Table
    watch: dict[str, fitting.Table]


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
    precision: float = 0.0,
    provenance: str = _PROVENANCE,
    progress: Progress | None = None,
) -> bundle.Bundle:
    """Train a bundle on the train pairs of the sets; stop, calibrate and choose thresholds on their val pairs.

    Test pairs are not read. The same sets, weights, recipe and seed give the same digest on the same machine.

    Args:
        pair_sets: each with pairs in train and in val.
        source: the backbone's weights.
        output: folder of the bundle.
        name: of the bundle.
        cache: folder where the backbone's outputs are kept between trainings.
        precision: least precision of flags on all val pairs together; raises the threshold where it must.
        provenance: what the data may be used for, for the card.

    Raises:
        ConfigurationError: a set has no train or val pairs, or only one label there; a picture cannot be read.
    """
    recipe = recipe or fitting.Recipe()
    backbone = embedding.Backbone(source, device)
    data = _prepare(pair_sets, backbone, recipe, seed, cache, progress)
    watch = _joined(list(data.watch.values()))
    tell = None if progress is None else _stage(progress, "training")
    model = fitting.fit(data.vectors, data.fusion, data.learn, watch, recipe, seed, tell)
    # The sets count alike, or the largest of them, and the easiest, would be calibrated alone.
    counts = [np.full(len(table), len(watch) / len(data.watch) / len(table)) for table in data.watch.values()]
    logits = fitting.logits_of(model, data.vectors, watch)
    slope, offset = fitting.calibrate(logits, watch.duplicate, np.concatenate(counts))
    head = classifier.PairClassifier(data.fusion.levels, model.tensors(slope, offset))
    scores = {
        key: head.score(data.vectors[table.left], data.vectors[table.right])
        for key, table in data.watch.items()
    }
    pooled = np.concatenate(list(scores.values()))
    duplicate, review = _thresholds(
        [(scores[key], table.duplicate) for key, table in data.watch.items()], precision
    )
    record: dict[str, Any] = {
        "provenance": provenance,
        "seed": seed,
        "recipe": dataclasses.asdict(recipe),
        "sets": [_counts(pair_set) for pair_set in pair_sets],
        "val": {key: _figures(scores[key], table.duplicate, duplicate) for key, table in data.watch.items()}
        | {"pooled": _figures(pooled, watch.duplicate, duplicate)},
    }
    return bundle.save(
        output,
        name=name,
        fusion=data.fusion,
        classifier=head,
        backbone=bundle.BackboneReference(bundle.ARCHITECTURE, source.name, source.sha256),
        input_size=INPUT_SIZE,
        duplicate=duplicate,
        review=review,
        training=record,
    )


def fusion_of(raw: embedding.Vectors) -> embedding.Fusion:
    """Means and deviations of (n, 3904) pooled levels."""
    std = raw.std(axis=0)
    for place in embedding.Fusion(tuple(embedding.LEVELS), std, std).slices.values():
        # A channel that hardly varies here may do so in an unseen house, and would then drown its level.
        living = std[place][std[place] > 0]
        std[place] = np.maximum(std[place], _LEAST_STD * float(np.median(living)) if len(living) else 1.0)
    return embedding.Fusion(tuple(embedding.LEVELS), raw.mean(axis=0), std)


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
        review=made.review,
        training=dict(made.training) | {"backbone_note": note},
    )


def _prepare(
    pair_sets: Sequence[pairs.PairSet],
    backbone: embedding.Backbone,
    recipe: fitting.Recipe,
    seed: int,
    cache: pathlib.Path | None,
    progress: Progress | None,
) -> _Data:
    rows: dict[pathlib.Path, int] = {}
    learn = [_table(pair_set, "train", rows) for pair_set in pair_sets]
    learned = len(rows)
    watch = {pair_set.name: _table(pair_set, "val", rows) for pair_set in pair_sets}
    tell = None if progress is None else _stage(progress, "features")
    raw = features.pooled(list(rows), backbone, input_size=INPUT_SIZE, cache=cache, progress=tell)
    fusion = fusion_of(raw[:learned])
    made = _self_labelled(learn, recipe, np.random.default_rng(seed))
    return _Data(fusion.fuse(raw), fusion, _joined([*learn, made]), watch)


def _table(pair_set: pairs.PairSet, split: str, rows: dict[pathlib.Path, int]) -> fitting.Table:
    part = pair_set.of(split)
    labels = {pair.duplicate for pair in part.pairs}
    if labels != {True, False}:
        raise errors.ConfigurationError(
            f"Pair set {pair_set.name}: expected pairs of both labels in split {split}, found "
            f"{len(part.pairs)} pairs with labels {sorted(int(label) for label in labels)}."
        )
    left = [rows.setdefault(part.images / pair.a, len(rows)) for pair in part.pairs]
    right = [rows.setdefault(part.images / pair.b, len(rows)) for pair in part.pairs]
    duplicate = [pair.duplicate for pair in part.pairs]
    return fitting.Table(np.array(left, np.int64), np.array(right, np.int64), np.array(duplicate, np.bool_))


def _self_labelled(
    learn: Sequence[fitting.Table], recipe: fitting.Recipe, random: np.random.Generator
) -> fitting.Table:
    labelled = sum(len(table) for table in learn)
    pictures = [np.unique(np.concatenate([table.left, table.right])) for table in learn]
    same = random.choice(np.concatenate(pictures), round(recipe.identical * labelled))
    made = [fitting.Table(same, same, np.ones(len(same), np.bool_))]
    if len(pictures) > 1:
        count = round(recipe.strangers * labelled)
        first = random.integers(0, len(pictures), count)
        second = (first + random.integers(1, len(pictures), count)) % len(pictures)
        left = np.array([random.choice(pictures[place]) for place in first], np.int64)
        right = np.array([random.choice(pictures[place]) for place in second], np.int64)
        made.append(fitting.Table(left, right, np.zeros(count, np.bool_)))
    return _joined(made)


def _joined(tables: Sequence[fitting.Table]) -> fitting.Table:
    result = tables[0]
    for table in tables[1:]:
        result = result + table
    return result


def _thresholds(
    watch: Sequence[tuple[evaluation.Scores, evaluation.Labels]], precision: float
) -> tuple[float, float]:
    # The sets count alike, however many pairs each has.
    best = evaluation.best_mean_f1(watch)[0]
    scores = np.concatenate([part[0] for part in watch])
    labels = np.concatenate([part[1] for part in watch])
    precise = evaluation.threshold_at_precision(scores, labels, precision)
    if precise is None:
        raise errors.ConfigurationError(f"No threshold reaches a precision of {precision} on the val pairs.")
    duplicate = round(max(best, precise), 4)
    loose = evaluation.threshold_at_precision(scores, labels, _REVIEW_PRECISION)
    review = max(_REVIEW_LEAST, loose if loose is not None else duplicate)
    return duplicate, round(min(duplicate, review), 4)


def _counts(pair_set: pairs.PairSet) -> dict[str, Any]:
    return {
        "name": pair_set.name,
        "train_pairs": len(pair_set.of("train").pairs),
        "val_pairs": len(pair_set.of("val").pairs),
    }


def _figures(scores: evaluation.Scores, duplicate: evaluation.Labels, threshold: float) -> dict[str, Any]:
    values = dataclasses.asdict(evaluation.report(scores, duplicate, threshold))
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()}


def _stage(progress: Progress, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(stage, done, total)


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m core.learning.training PAIRS... --weights W --output DIR --name NAME [--seed 0]``."""
    parser = argparse.ArgumentParser(prog="python -m core.learning.training", description=__doc__)
    parser.add_argument("pair_sets", nargs="+", type=pathlib.Path, metavar="PAIRS_DIR")
    parser.add_argument("--weights", required=True, help="file, IMAGENET1K_V1, IMAGENET1K_V2 or untrained")
    parser.add_argument("--output", required=True, type=pathlib.Path, help="folder of the bundle")
    parser.add_argument("--name", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=pathlib.Path, help="folder for the backbone's outputs")
    parser.add_argument("--precision", type=float, default=0.0, help="least precision of flags on val")
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
    for key, figures in made.training["val"].items():
        print(f"{key}: {figures}")


def _print_progress(stage: str, done: int, total: int) -> None:
    print(f"\r{stage} {done}/{total}", end="" if done < total else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
