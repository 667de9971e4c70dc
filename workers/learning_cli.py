"""The command `dedup evaluate`: how good a bundle is."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import pathlib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import rich.console
import rich.markup
import rich.progress
import rich.table
import typer

from core import errors, settings

if TYPE_CHECKING:
    # Importing torch takes seconds, and `dedup flags` needs none of it.
    from core import bundle
    from core.learning import ablation, comparison, features, methods, pairs, properties

_console = rich.console.Console(stderr=True, highlight=False)
_output = rich.console.Console(highlight=False)

WeightsOption = Annotated[
    str | None,
    typer.Option("--weights", help="Backbone weights; default: DEDUP_BACKBONE_WEIGHTS.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(evaluate)


def evaluate(
    pair_files: Annotated[
        list[pathlib.Path],
        typer.Argument(
            metavar="PAIRS.csv...", help="Each is one set; its pictures stand in images/ beside it."
        ),
    ],
    split: Annotated[str, typer.Option(help="Rows of other splits are left out.")] = "test",
    bundle_folder: Annotated[
        pathlib.Path | None,
        typer.Option("--bundle", help="Default: DEDUP_BUNDLE, or the shipped one that fits the weights."),
    ] = None,
    weights_source: WeightsOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a set on stdout, nothing else.")
    ] = False,
    output: Annotated[
        pathlib.Path | None,
        typer.Option(help="Folder for tables and plots; whole properties are measured too (extra: learn)."),
    ] = None,
    with_baselines: Annotated[
        bool, typer.Option("--baselines", help="Compare with every baseline; needs val rows (extra: learn).")
    ] = False,
    with_ablation: Annotated[
        bool,
        typer.Option("--ablation", help="With --output: what each part is worth; needs train rows."),
    ] = False,
    property_folders: Annotated[
        list[pathlib.Path] | None,
        typer.Option(
            "--properties", help="With --output: a folder a property and duplicates.csv beside them."
        ),
    ] = None,
    sheet_file: Annotated[
        pathlib.Path | None,
        typer.Option("--sheet", help="HTML page of the worst-decided pairs, with pictures."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the intervals' draws and the ablation's networks.")] = 0,
) -> None:
    """Measure a model bundle on labelled pairs."""
    from core.learning import pairs, properties

    if output is None and (with_ablation or property_folders):
        raise errors.ConfigurationError("--ablation and --properties write into a folder: give --output too.")
    sets = [_split(pairs.read(path), split, path) for path in pair_files]
    whole = [pairs.read(_folder(path)) for path in pair_files] if with_baselines or with_ablation else sets
    tasks = _tasks(sets, [part.of("val") for part in whole])
    collections = [properties.read_folder(path) for path in property_folders or []]

    # Only now, when the arguments are known to be right: these take seconds to import.
    from core.learning import baselines, comparison, methods, record, sheet

    if with_baselines:
        baselines.needs_extra("cv2", "imagehash")
    if output is not None:
        baselines.needs_extra("matplotlib")
    model_bundle, seen = _load(bundle_folder, weights_source)
    own = methods.BundleMethod(model_bundle, seen)
    compared: list[methods.Method] = baselines.every(seen, cache()) if with_baselines else []
    with progress() as tell:
        results = [comparison.measure(own, tasks, _decision(model_bundle, tasks), tell)]
        results += [comparison.measure(method, tasks, progress=tell) for method in compared]
        if sheet_file is not None:
            sheet.write(sheet_file, results[0], tasks)
        if output is not None:
            collections = [properties.of_pairs(task.measured) for task in tasks] + collections
            reports = _properties(collections, [own, *compared], results, seed, tell)
            ablated = _ablation(whole, tasks, seen, seed, tell) if with_ablation else []
            command = f"dedup {shlex.join(sys.argv[1:])}"
            record.write(output, record.Record(model_bundle, command, tasks, results, reports, ablated), seed)
    if as_json:
        _print_json(sets, tasks, results[0])
        return
    _print_table(comparison.compare(results, tasks, seed))
    if output is not None:
        _output.print(f"Tables and plots: {output / record.PAGE}", soft_wrap=True, markup=False)


def _load(
    bundle_folder: pathlib.Path | None, weights_source: str | None
) -> tuple[bundle.Bundle, features.Features]:
    from core import bundle, embedding, weights
    from core.learning import features

    config = settings.get()
    folder = bundle_folder or config.bundle
    chosen = None if folder is None else bundle.load(folder)
    device = embedding.choose_device(config.device)
    backbone = embedding.Backbone(weights.load(weights_source or config.weights_sources[0]), device)
    chosen = chosen or bundle.for_backbone(backbone.weights_sha256)
    bundle.check_backbone(chosen, backbone)
    return chosen, features.Features(backbone, chosen.input_size, cache())


def cache() -> pathlib.Path | None:
    """Where what the backbone sees is kept between runs, if anything can be kept."""
    folder = settings.get().data_dir / "cache"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        # It only saves time: a reader without a home of its own can measure all the same.
        _console.print(
            f"Nothing is kept for the next run: {folder}: {error.strerror}. Set DEDUP_DATA_DIR to a folder of yours.",
            soft_wrap=True,
            markup=False,
        )
        return None
    return folder


def _split(pair_set: pairs.PairSet, split: str, path: pathlib.Path) -> pairs.PairSet:
    found = pair_set.of(split)
    if not found.pairs:
        there = sorted({pair.split for pair in pair_set.pairs})
        raise errors.ConfigurationError(
            f"{path}: no pairs of split {split}; it holds {', '.join(there)}. Choose with --split."
        )
    return found


def _folder(path: pathlib.Path) -> pathlib.Path:
    return path if path.is_dir() else path.parent


def _tasks(sets: Sequence[pairs.PairSet], val: Sequence[pairs.PairSet]) -> list[comparison.Task]:
    """Tasks with names of their own, also where two folders are called alike."""
    from core.learning import comparison

    tasks: list[comparison.Task] = []
    for measured, watched in zip(sets, val, strict=True):
        alike = sum(part.name == measured.name for part in sets[: len(tasks)])
        name = f"{measured.name} {alike + 1}" if alike else measured.name
        tasks.append(
            comparison.Task(dataclasses.replace(measured, name=name), watched if watched.pairs else None)
        )
    return tasks


def _decision(model_bundle: bundle.Bundle, tasks: Sequence[comparison.Task]) -> comparison.Decision:
    from core.learning import comparison

    return comparison.fixed(model_bundle.decision, tasks, model_bundle.duplicate)


def _properties(
    collections: Sequence[properties.Collection],
    every: Sequence[methods.Method],
    results: Sequence[comparison.Result],
    seed: int,
    tell: Callable[[str, int, int], None],
) -> list[properties.Report]:
    from core.learning import properties

    reports = []
    for collection in collections:
        for method, result in zip(every, results, strict=True):
            label = f"{method.name}: whole properties of {collection.name}"
            scores = method.scores(collection.pair_set(), functools.partial(tell, label))
            threshold = result.decision.flags
            reports.append(properties.report(collection, scores, threshold, method.name, seed))
    return reports


def _ablation(
    whole: Sequence[pairs.PairSet],
    tasks: Sequence[comparison.Task],
    seen: features.Features,
    seed: int,
    tell: Callable[[str, int, int], None],
) -> list[ablation.Ablated]:
    from core.learning import ablation

    return ablation.run(whole, tasks, seen, seed=seed, progress=tell)


def _print_json(
    sets: Sequence[pairs.PairSet], tasks: Sequence[comparison.Task], result: comparison.Result
) -> None:
    from core.learning import evaluation, methods

    for pair_set, task in zip(sets, tasks, strict=True):
        found = evaluation.report(
            result.scores[task.name], methods.labels(task.measured), result.decision.thresholds[task.name]
        )
        keys = ("f1", "precision", "recall", "average_precision", "threshold")
        figures = {key: round(getattr(found, key), 6) for key in keys}
        print(json.dumps({"set": pair_set.name, "pairs": found.pairs, **figures}, ensure_ascii=False))


def _print_table(rows: Sequence[comparison.Row]) -> None:
    table = rich.table.Table("set", "method", "F1 [95 %]", "precision", "recall", title="Pairs")
    for row in rows:
        figures = row.figures
        shown = [f"{figures[key].value:.3f}" for key in ("precision", "recall")]
        table.add_row(f"{row.set} ({row.pairs})", row.method, rich.markup.escape(str(figures["f1"])), *shown)
    _output.print(table)


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each stage, on stderr."""
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=_console) as bar:
        known: dict[str, rich.progress.TaskID] = {}

        def tell(label: str, done: int, total: int) -> None:
            if label not in known:
                known[label] = bar.add_task(label, total=total)
            bar.update(known[label], completed=done, total=total)

        yield tell
