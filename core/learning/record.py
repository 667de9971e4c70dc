"""An evaluation as files for the docs: tables, plots and the command that gives them again."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

from core.learning import comparison, methods, plots, properties

PAGE = "evaluation.md"


@dataclasses.dataclass(frozen=True)
class Record:
    """What an evaluation found. `results` starts with the bundle; `ablation` may be empty.

    `title` names the bundle and its digest, `command` is what was run.
    """

    title: str
    command: str
    tasks: Sequence[comparison.Task]
    results: Sequence[comparison.Result]
    reports: Sequence[properties.Report]
    ablation: Sequence[comparison.Result]


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
        f"# Evaluation of {record.title}\n\nThe command that gave this page:\n\n```sh\n{record.command}\n```\n",
        _NOTE,
        "## Pairs\n",
        comparison.markdown(rows),
        "![Precision and recall](precision-recall.svg)\n",
        "![Reliability](reliability.svg)\n",
        f"## Whole properties\n\n{_PROPERTIES_NOTE}",
        properties.markdown(record.reports),
    ]
    if record.ablation:
        ablated = comparison.compare(record.ablation, record.tasks, seed)
        plots.ablation(folder / "ablation.svg", ablated)
        (folder / "ablation.csv").write_text(comparison.table_csv(ablated), encoding="utf-8")
        parts += [f"## Ablation\n\n{_ABLATION_NOTE}", _short(ablated), "![Ablation](ablation.svg)\n"]
    (folder / PAGE).write_text("\n".join(parts), encoding="utf-8")
    return rows


def _short(rows: Sequence[comparison.Row]) -> str:
    sets = [name for name in dict.fromkeys(row.set for row in rows) if name != comparison.POOLED]
    cells = {(row.method, row.set): str(row.figures["f1"]) for row in rows}
    lines = [f"| F1 | {' | '.join(sets)} |", f"|{'---|' * (len(sets) + 1)}"]
    lines += [
        f"| {method} | {' | '.join(cells[method, name] for name in sets)} |"
        for method in dict.fromkeys(row.method for row in rows)
    ]
    return "\n".join([*lines, ""])


_NOTE = """Each cell is a figure and its 95 % interval (bootstrap over properties, 1,000 draws; a set of few properties
has wide ones). The bundle decides every set at its own one threshold. Each baseline gets a threshold of its own for
each set, the one with the best F1 on that set's val pairs; where sets are pooled, and in whole properties, it gets
one for all. Baselines' scores are no probabilities: for the calibration error they went through Platt's scaling,
fitted to val. Recall at precision 0.99 is read off the measured pairs, at whatever threshold reaches it.
"""
_PROPERTIES_NOTE = """Every pair within a property is decided and groups are formed as in production. What is known of
a pair, and when a flag counts as unknown, stands in `core/learning/properties.py`. A duplicate is found when both its
photos end in one group. Where a set has one subject a property (a plan and its copies), no flag can be wrong.
"""
_ABLATION_NOTE = """How levels become one vector, scored by the same decision network (trained the same way, on the
labelled train pairs only) and by plain cosine; thresholds from val, one a set. How levels of different width are
averaged is written in `core/learning/ablation.py`.
"""
