"""An evaluation as files for the docs: tables, plots and the command that gives them again."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from core import bundle
from core.learning import ablation, comparison, evaluation, methods, plots, properties

PAGE = "evaluation.md"


@dataclasses.dataclass(frozen=True)
class Record:
    """What an evaluation of a bundle found. `results` starts with it; `ablation` may be empty.

    `command` is what was run.
    """

    bundle: bundle.Bundle
    command: str
    tasks: Sequence[comparison.Task]
    results: Sequence[comparison.Result]
    reports: Sequence[properties.Report]
    ablation: Sequence[ablation.Ablated]


def write(folder: pathlib.Path, record: Record, seed: int) -> list[comparison.Row]:
    """Write ``evaluation.md`` and, beside it, the tables as CSV and the plots as SVG; return the rows.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    labels = {task.name: methods.labels(task.measured) for task in record.tasks}
    rows = comparison.compare(record.results, record.tasks, seed)
    (folder / "comparison.csv").write_text(comparison.table_csv(rows), encoding="utf-8")
    (folder / "properties.csv").write_text(properties.table_csv(record.reports), encoding="utf-8")
    plots.precision_recall(folder / "precision-recall.svg", record.results, labels)
    plots.reliability(folder / "reliability.svg", record.results[0], labels)
    parts = [
        f"# Evaluation of bundle {record.bundle.name} ({record.bundle.id})\n",
        f"The command that gave this page:\n\n```sh\n{record.command}\n```\n",
        _NOTE,
        "## Pairs\n",
        comparison.markdown(rows),
        f"### Bands\n\n{_bands(record, labels)}",
        f"### Houses left out\n\n{_houses_left_out(record.bundle)}",
        "![Precision and recall](precision-recall.svg)\n",
        "![Reliability](reliability.svg)\n",
        f"## Whole properties\n\n{_PROPERTIES_NOTE}",
        properties.markdown(record.reports),
    ]
    if record.ablation:
        ablated = comparison.compare([item.result for item in record.ablation], record.tasks, seed)
        plots.ablation(folder / "ablation.svg", ablated)
        (folder / "ablation.csv").write_text(comparison.table_csv(ablated), encoding="utf-8")
        parts += [
            f"## Ablation\n\n{_ABLATION_NOTE}",
            _short(record.ablation, ablated),
            "![Ablation](ablation.svg)\n",
        ]
    (folder / PAGE).write_text("\n".join(parts), encoding="utf-8")
    return rows


def _bands(record: Record, labels: Mapping[str, evaluation.Labels]) -> str:
    """What is flagged, what is left to a person, and what of the duplicates is in neither."""
    duplicate, review = record.bundle.duplicate, record.bundle.review
    lines = [_BANDS_NOTE.format(duplicate=duplicate, review=review, decision=record.bundle.decision)]
    lines.append(
        "| set | precision of flags | duplicates flagged | for review: duplicates | for review: others |"
    )
    lines.append(f"|{'---|' * 5}")
    for name, duplicates in labels.items():
        scores = record.results[0].scores[name]
        flagged, kept = scores >= duplicate, (scores >= review) & (scores < duplicate)
        found = evaluation.report(scores, duplicates, duplicate)
        lines.append(
            f"| {name} | {found.precision:.3f} | {int((flagged & duplicates).sum())} of {int(duplicates.sum())} | "
            f"{int((kept & duplicates).sum())} | {int((kept & ~duplicates).sum())} |"
        )
    return "\n".join([*lines, ""])


def _houses_left_out(of: bundle.Bundle) -> str:
    figures = of.training.get("houses_left_out", {})
    keys = ("f1", "precision", "recall", "average_precision", "calibration_error")
    lines = [_HOUSES_NOTE, f"| set | pairs | {' | '.join(comparison.FIGURES[key] for key in keys)} |"]
    lines.append(f"|{'---|' * (len(keys) + 2)}")
    for name, row in figures.items():
        lines.append(f"| {name} | {row['pairs']} | {' | '.join(f'{row[key]:.3f}' for key in keys)} |")
    return "\n".join([*lines, ""])


def _short(ablated: Sequence[ablation.Ablated], rows: Sequence[comparison.Row]) -> str:
    sets = [name for name in dict.fromkeys(row.set for row in rows) if name != comparison.POOLED]
    cells = {(row.method, row.set): str(row.figures["f1"]) for row in rows}
    held = list(ablated[0].houses_left_out)
    heads = [*(f"{name}, houses left out" for name in held), *sets]
    lines = [f"| F1 | {' | '.join(heads)} |", f"|{'---|' * (len(heads) + 1)}"]
    for item in ablated:
        method = item.result.method
        values = [f"{item.houses_left_out[name]:.3f}" for name in held] + [
            cells[method, name] for name in sets
        ]
        lines.append(f"| {method} | {' | '.join(values)} |")
    return "\n".join([*lines, ""])


_NOTE = """Each cell is a figure and its 95 % interval (bootstrap over properties, 1,000 draws; a set of few properties
has wide ones). The bundle decides every set at its own one threshold, that of the best F1 on houses left out. Each
baseline gets a threshold of its own for each set, the one with the best F1 on that set's val pairs; where sets are
pooled, and in whole properties, it gets one for all. Baselines' scores are no probabilities: for the calibration
error they went through Platt's scaling, fitted to val. Recall at precision 0.99 is read off the measured pairs, at
whatever threshold reaches it.
"""
_PROPERTIES_NOTE = """Every pair within a property is decided and groups are formed as in production: the
bundle flags from its duplicate band on, which is stricter than the threshold of the best F1 that the baselines have.
 What is known of
a pair, and when a flag counts as unknown, stands in `core/learning/properties.py`. A duplicate is found when both its
photos end in one group. Where a set has one subject a property (a plan and its copies), no flag can be wrong.
"""
_BANDS_NOTE = """Without a person, pairs at or above {duplicate} are flagged; pairs from {review} up to there are
kept for review. The figures above are read at {decision}, where precision and recall together are best.
"""
_HOUSES_NOTE = """From the bundle's card: every train and val pair scored by a network that did not see the house of its
first photo. Every choice was made by these figures, none by those of the measured pairs.
"""
_ABLATION_NOTE = """What describes a pair, in parts, each decided by a network of its own that is fitted the same way.
Thresholds are the best on train and val pairs of houses left out: for the columns *houses left out* one for all
sets, for the measured pairs one for each set. Every row but one is told whether the photos are drawings. What a row
leaves out is written in `core/learning/ablation.py`.
"""
