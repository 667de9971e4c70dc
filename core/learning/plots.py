"""The comparison as pictures for the docs: SVG, the same bytes for the same figures."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from core.learning import baselines, comparison, evaluation

_COLOURS = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#0072b2", "#7f7f7f")
"""Okabe and Ito's palette, told apart by colour-blind readers too; the first is the bundle's."""
_STYLES = ("-", "--", "-.", ":")
_POINTS = 160
_BINS = 10
_STYLE: Any = {
    # Ids in an SVG are hashed with this, text stays text: the file is small and comes out the same again.
    "svg.hashsalt": "listing-dedup",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "axes.axisbelow": True,
}


def precision_recall(
    path: pathlib.Path, results: Sequence[comparison.Result], labels: Mapping[str, evaluation.Labels]
) -> None:
    """Write the precision–recall curves of all methods, one panel a set; dots mark the thresholds.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    figure, panels = _figure(len(labels), 3.5)
    for panel, (name, duplicate) in zip(panels, labels.items(), strict=True):
        for place, result in enumerate(results):
            colour = _COLOURS[place % len(_COLOURS)]
            style = _STYLES[place // len(_COLOURS) % len(_STYLES)]
            recall, precision = _curve(result.scores[name], duplicate)
            width = 2.2 if place == 0 else 1.1
            # The first method lies on top: it is what the others are compared with.
            panel.plot(
                recall, precision, style, color=colour, lw=width, label=result.method, zorder=3 - (place > 0)
            )
            found = evaluation.report(result.scores[name], duplicate, result.decision.thresholds[name])
            panel.plot([found.recall], [found.precision], "o", color=colour, ms=4, zorder=4)
        panel.set(title=name, xlabel="recall", xlim=(0.0, 1.01), ylim=(0.4, 1.01))
    panels[0].set_ylabel("precision")
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=4, frameon=False)
    _save(figure, path)


def reliability(
    path: pathlib.Path, result: comparison.Result, labels: Mapping[str, evaluation.Labels]
) -> None:
    """Write how often pairs of a score are duplicates, one panel a set; below, how many pairs have that score.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    figure, panels = _figure(len(labels), 3.0)
    edges = np.linspace(0.0, 1.0, _BINS + 1)
    for panel, (name, duplicate) in zip(panels, labels.items(), strict=True):
        probabilities = result.decision.probabilities(result.scores[name])
        place = np.minimum((probabilities * _BINS).astype(np.int64), _BINS - 1)
        counts = np.bincount(place, minlength=_BINS)
        some = counts > 0
        mean = np.bincount(place, weights=probabilities, minlength=_BINS)[some] / counts[some]
        share = np.bincount(place, weights=duplicate, minlength=_BINS)[some] / counts[some]
        panel.bar(edges[:-1], counts / counts.sum(), 1 / _BINS, align="edge", color="#dddddd", lw=0)
        panel.plot([0, 1], [0, 1], "--", color="#7f7f7f", lw=1)
        panel.plot(mean, share, "o-", color=_COLOURS[6], lw=1.5, ms=4)
        error = evaluation.calibration_error(probabilities, duplicate)
        panel.set(title=f"{name}: error {error:.3f}", xlabel="score", xlim=(0, 1), ylim=(0, 1.01))
    panels[0].set_ylabel("share of duplicates; grey: share of pairs")
    _save(figure, path)


def ablation(path: pathlib.Path, rows: Sequence[comparison.Row]) -> None:
    """Write the F1 of every row with its interval, one panel a set.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    sets = [name for name in dict.fromkeys(row.set for row in rows) if name != comparison.POOLED]
    names = list(dict.fromkeys(row.method for row in rows))
    figure, panels = _figure(len(sets), 1.0 + 0.19 * len(names))
    for panel, name in zip(panels, sets, strict=True):
        values = [
            row.figures["f1"] for method in names for row in rows if (row.set, row.method) == (name, method)
        ]
        centre = np.array([estimate.value for estimate in values])
        spread = [
            centre - [estimate.low for estimate in values],
            np.array([estimate.high for estimate in values]) - centre,
        ]
        height = np.arange(len(names))[::-1]
        panel.errorbar(centre, height, xerr=spread, fmt="none", ecolor="#7f7f7f", elinewidth=1.0, zorder=2)
        panel.scatter(centre, height, color=_COLOURS[6], s=18, zorder=3)
        panel.set(title=name, xlabel="F1", xlim=(0.5, 1.0), ylim=(-0.7, len(names) - 0.3))
        panel.set_yticks(height, names if panel is panels[0] else [""] * len(names))
        panel.grid(axis="y", visible=False)
    _save(figure, path)


def _curve(
    scores: evaluation.Scores, duplicate: evaluation.Labels
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(duplicate[order])[last]
    recall, precision = hits / max(1, hits[-1]), hits / (last + 1)
    # More points than the panel has pixels would only make the file large.
    kept = np.unique(np.linspace(0, len(last) - 1, _POINTS).astype(np.int64))
    return recall[kept], precision[kept]


def _figure(panels: int, height: float) -> tuple[Any, list[Any]]:
    baselines.needs_extra("matplotlib")
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    with mpl.rc_context(_STYLE):
        figure, axes = pyplot.subplots(
            1, panels, figsize=(3.3 * panels + 0.6, height), squeeze=False, layout="constrained"
        )
    return figure, list(axes[0])


def _save(figure: Any, path: pathlib.Path) -> None:
    import matplotlib as mpl
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_STYLE):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
