"""`dedup evaluate` and `dedup train` as their user runs them, on drawn properties and untrained weights."""

from __future__ import annotations

import csv
import functools
import json
import os
import pathlib
import subprocess
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from core import bundle
from core.drawing import overlays, properties, rooms
from core.learning import pairs
from tests.integration import forking

WEIGHTS = ("--weights", "untrained")


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """One cache for all tests."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def dedup(home: pathlib.Path) -> Iterator[Run]:
    """`dedup` with the arguments given, in a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DEDUP_")}
    with forking.server() as run:
        yield functools.partial(run, env={**clean, "DEDUP_DATA_DIR": str(home)})


@pytest.fixture(scope="module")
def pair_set(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Two rooms a property, one of them twice, in three files by split."""
    folder = tmp_path_factory.mktemp("sets") / "drawn"
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, first, last in (("train", 0, 3), ("val", 3, 5), ("test", 5, 8)):
        rows: list[list[object]] = []
        for number in range(first, last):
            names = [f"{number}_hall.jpg", f"{number}_hall_v0.jpg", f"{number}_bath.jpg"]
            for name, kind in ((names[0], "living"), (names[2], "bathroom")):
                room = rooms.Room.random(random, kind)
                room.view(room.camera(random), 160, 120).save(folder / "images" / name, quality=92)
                if name == names[0]:
                    again = overlays.mark(
                        room.view(room.camera(random), 160, 120), overlays.AGENCIES[0], random
                    )
                    again.save(folder / "images" / names[1], quality=80)
            common = [split, number, number]
            rows += [
                [names[0], names[1], 1, *common, "overlay"],
                [names[0], names[2], 0, *common, "property"],
            ]
        with (folder / f"pairs_{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([pairs.COLUMNS, *rows])
    return folder


def test_json_is_all_there_is_on_stdout(dedup: Run, home: pathlib.Path, pair_set: pathlib.Path) -> None:
    shown = dedup("evaluate", pair_set / "pairs_test.csv", *WEIGHTS, "--json")
    assert shown.returncode == 0, shown.stderr
    (line,) = shown.stdout.splitlines()
    found = json.loads(line)
    assert list(found) == ["set", "pairs", "f1", "precision", "recall", "average_precision", "threshold"]
    assert (found["set"], found["pairs"]) == ("drawn", 6)
    untrained = next(item for item in bundle.shipped().values() if item.untrained)
    assert found["threshold"] == untrained.decision
    assert all(0 <= found[key] <= 1 for key in ("f1", "precision", "recall", "average_precision"))
    assert "untrained" in shown.stderr
    assert list((home / "cache").rglob("*.safetensors"))
    again = dedup("evaluate", pair_set, *WEIGHTS, "--json")
    assert again.stdout == shown.stdout


def test_a_split_that_is_not_there_is_exit_code_78(dedup: Run, pair_set: pathlib.Path) -> None:
    shown = dedup("evaluate", pair_set / "pairs_val.csv", *WEIGHTS, "--json")
    assert (shown.returncode, shown.stdout) == (78, "")
    assert "no pairs of split test; it holds val" in shown.stderr
    chosen = dedup("evaluate", pair_set / "pairs_val.csv", *WEIGHTS, "--split", "val", "--json")
    assert json.loads(chosen.stdout)["pairs"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--weights", "missing.pth"), "Three remedies"),
        ((*WEIGHTS, "--bundle", "missing"), "expected a folder with bundle.json"),
        ((*WEIGHTS, "--ablation"), "give --output too"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(
    dedup: Run, pair_set: pathlib.Path, arguments: tuple[str, ...], message: str
) -> None:
    shown = dedup("evaluate", pair_set / "pairs_test.csv", *arguments)
    assert (shown.returncode, shown.stdout) == (78, "")
    assert message in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_missing_picture_is_named(dedup: Run, tmp_path: pathlib.Path) -> None:
    (tmp_path / "images").mkdir()
    row = ["x.jpg", "y.jpg", 1, "test", 1, 1, "k"]
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([pairs.COLUMNS, row])
    shown = dedup("evaluate", tmp_path / "pairs.csv", *WEIGHTS)
    assert shown.returncode == 78
    assert "x.jpg" in shown.stderr


def test_the_whole_comparison_in_one_command(
    dedup: Run, pair_set: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    pytest.importorskip("cv2")
    pytest.importorskip("imagehash")
    pytest.importorskip("matplotlib")
    homes = tmp_path / "homes" / "7"
    homes.mkdir(parents=True)
    for name in ("7_hall.jpg", "7_hall_v0.jpg"):
        (homes / name).write_bytes((pair_set / "images" / name).read_bytes())
    (tmp_path / "homes" / "duplicates.csv").write_text("property,a,b\n7,7_hall.jpg,7_hall_v0.jpg\n")
    output, sheet = tmp_path / "out", tmp_path / "sheet.html"
    shown = dedup(
        "evaluate", pair_set / "pairs_test.csv", *WEIGHTS, "--baselines", "--properties", tmp_path / "homes",
        "--output", output, "--sheet", sheet,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert str(output) in shown.stdout.replace("\n", "")
    with (output / "comparison.csv").open(newline="") as file:
        compared = list(csv.DictReader(file))
    assert [row["method"] for row in compared] == [
        "bundle untrained", "SIFT homography", "SIFT fundamental", "ORB homography", "ORB fundamental",
        "pHash DCT 64", "ResNet50 layer4 cosine",
    ]  # fmt: skip
    with (output / "properties.csv").open(newline="") as file:
        assert [row["collection"] for row in csv.DictReader(file)] == ["drawn"] * 7 + ["homes"] * 7
    page = (output / "evaluation.md").read_text()
    assert "dedup evaluate" in page
    assert "Worst-decided pairs" in sheet.read_text()


def test_baselines_need_val_pairs(dedup: Run, pair_set: pathlib.Path, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("cv2")
    pytest.importorskip("imagehash")
    (tmp_path / "images").symlink_to(pair_set / "images")
    (tmp_path / "pairs.csv").write_bytes((pair_set / "pairs_test.csv").read_bytes())
    shown = dedup("evaluate", tmp_path / "pairs.csv", *WEIGHTS, "--baselines")
    assert shown.returncode == 78
    assert "no val pairs" in shown.stderr


def test_train_ends_with_a_bundle_that_evaluates(
    dedup: Run, pair_set: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shown = dedup(
        "train", pair_set, "--output", tmp_path / "mine", "--seed", "1", "--precision", "0.5", *WEIGHTS
    )
    assert shown.returncode == 0, shown.stderr
    made = bundle.load(tmp_path / "mine")
    assert made.name == "mine"
    assert f"bundle mine {made.digest}" in shown.stdout
    assert "houses left out, drawn: " in shown.stdout
    measured = dedup(
        "evaluate", pair_set / "pairs_test.csv", *WEIGHTS, "--bundle", tmp_path / "mine", "--json"
    )
    assert json.loads(measured.stdout)["threshold"] == made.decision
    for arguments, message in (((tmp_path,), "expected pairs*.csv"), ((), "Nothing to train on")):
        nothing = dedup("train", *arguments, "--output", tmp_path / "other", *WEIGHTS)
        assert (nothing.returncode, nothing.stdout) == (78, "")
        assert message in " ".join(nothing.stderr.split())


@pytest.mark.slow
def test_train_needs_no_labels(dedup: Run, home: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for number, (photos, _) in enumerate(properties.draw_properties(8, seed=3)):
        for photo in photos:
            path = tmp_path / "photos" / str(number) / photo.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(photo.jpeg)
    (tmp_path / "photos" / "0" / "broken.jpg").write_bytes(b"no picture")
    shown = dedup(
        "train", "--photos", tmp_path / "photos", "--made-pairs", "50", "--output", tmp_path / "mine",
        "--precision", "0.5", *WEIGHTS,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    made = bundle.load(tmp_path / "mine")
    assert {part["name"] for part in made.training["sets"]} >= {"self-overlays", "self-angles"}
    assert "broken.jpg" in shown.stderr
    assert not list((home / "cache").glob("training-*"))
