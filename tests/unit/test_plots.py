"""Plots and the sheet: small, complete, and the same bytes for the same figures."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from PIL import Image

from core import bundle, classifier
from core.learning import ablation, comparison, methods, pairs, plots, properties, record, sheet
from tests.unit import fusions

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[comparison.Task]:
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 20), "white").save(folder / name)
    found = tuple(
        pairs.Pair(
            "a.png", "b.png", number % 3 == 0, "test", str(number // 4), str(number // 4), f"kind-{number}"
        )
        for number in range(400)
    )
    return [comparison.Task(pairs.PairSet(name, folder, found)) for name in ("angles", "plans")]


@pytest.fixture(scope="module")
def results(tasks: list[comparison.Task]) -> list[comparison.Result]:
    found = []
    for seed, name in enumerate(("bundle & co", "pHash", "concatenated, network")):
        random = np.random.default_rng(seed)
        scores = {
            task.name: np.clip(methods.labels(task.measured) * 0.5 + random.random(400) * 0.6, 0, 1)
            for task in tasks
        }
        found.append(comparison.Result(name, comparison.fixed(0.55, tasks), scores))
    return found


def test_plots_are_small_and_the_same_again(
    tasks: list[comparison.Task], results: list[comparison.Result], tmp_path: pathlib.Path
) -> None:
    labels = {task.name: methods.labels(task.measured) for task in tasks}
    rows = comparison.compare(results, tasks, replicates=20)
    for name in ("one", "two"):
        plots.precision_recall(tmp_path / name / "curves.svg", results, labels)
        plots.reliability(tmp_path / name / "reliability.svg", results[0], labels)
        plots.ablation(tmp_path / name / "ablation.svg", rows)
    for plot in ("curves.svg", "reliability.svg", "ablation.svg"):
        first = (tmp_path / "one" / plot).read_bytes()
        assert first == (tmp_path / "two" / plot).read_bytes()
        assert len(first) < 150_000
        text = first.decode()
        assert "angles" in text
        assert "plans" in text
    curves = (tmp_path / "one" / "curves.svg").read_text()
    assert all(name in curves for name in ("bundle &amp; co", "pHash", "recall"))


def test_the_record_is_complete(
    tasks: list[comparison.Task], results: list[comparison.Result], tmp_path: pathlib.Path
) -> None:
    truth = {frozenset(("a", "b")): True}
    collection = properties.Collection("homes", tmp_path, (properties.Property("1", ("a", "b"), truth),))
    reports = [properties.report(collection, np.array([0.9]), 0.5, result.method) for result in results]
    ablated = [ablation.Ablated(result, {"angles": 0.9125, "plans": 0.8}) for result in results[1:]]
    figures = {"pairs": 70, "f1": 0.5, "precision": 0.6, "recall": 0.7, "average_precision": 0.8} | {
        "calibration_error": 0.0417
    }
    fusion = fusions.fusion()
    small = bundle.save(
        tmp_path / "bundle",
        name="small",
        fusion=fusion,
        classifier=classifier.PairClassifier(fusion.layout, fusions.head()),
        backbone=bundle.BackboneReference("resnet50", "some.pth", "ab" * 32),
        input_size=224,
        duplicate=0.8,
        decision=0.55,
        review=0.1,
        training={"houses_left_out": {"angles": figures}},
    )
    made = record.Record(small, "dedup evaluate x", tasks, results, reports, ablated)
    record.write(tmp_path / "out", made, seed=0)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {
        "evaluation.md", "comparison.csv", "properties.csv", "ablation.csv",
        "precision-recall.svg", "reliability.svg", "ablation.svg",
    }  # fmt: skip
    page = (tmp_path / "out" / "evaluation.md").read_text()
    for part in (
        f"bundle small ({small.id})",
        "| angles | 70 | 0.500 | 0.600 | 0.700 | 0.800 | 0.042 |",
        "pairs at or above 0.8 are flagged",
        "| 0.912 |",
        "dedup evaluate x",
        "### angles (400 pairs)",
        "### homes (1 properties, 2 photos",
    ):
        assert part in page
    for name in files - {"evaluation.md", "comparison.csv", "properties.csv", "ablation.csv"}:
        assert f"({name})" in page


def test_the_sheet_shows_the_worst_first(
    tasks: list[comparison.Task], results: list[comparison.Result], tmp_path: pathlib.Path
) -> None:
    sheet.write(tmp_path / "sheet.html", results[0], tasks[:1], each=3)
    text = (tmp_path / "sheet.html").read_text()
    scores, labels = results[0].scores["angles"], methods.labels(tasks[0].measured)
    wrong = int(((scores >= 0.55) & ~labels).sum())
    missed = int(((scores < 0.55) & labels).sum())
    assert f"flagged wrongly, {wrong} pairs" in text
    assert f"missed, {missed} pairs" in text
    assert text.count("<section>") == 6
    assert text.count("data:image/jpeg;base64,") == 12
    worst = int(np.flatnonzero(~labels)[scores[~labels].argmax()])
    assert text.index(f"kind-{worst}<") < text.index("missed,")
    assert f"score {scores[worst]:.3f}, kind-{worst}<" in text.split("</section>")[0]
    assert "bundle &amp; co" in text
