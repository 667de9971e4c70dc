"""Results of a benchmark: CSV beside the scripts, each row with the machine and the versions that gave it."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence

import PIL
import torch

Row = Mapping[str, object]
"""One line of a table, by column."""

_FOLDER = pathlib.Path(__file__).parent / "results"


def machine() -> dict[str, str]:
    """What the figures depend on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": device,
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": importlib.metadata.version("torchvision"),
        "pillow": PIL.__version__,
    }


def _processor() -> str:
    """The processor's name and what torch makes of its vector units."""
    name = platform.processor() or "cpu"
    information = pathlib.Path("/proc/cpuinfo")
    if information.is_file():
        lines = information.read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def write(name: str, rows: Sequence[Row], *, as_json: bool, by: Sequence[str] = (), value: str = "") -> None:
    """Print the rows and, unless `as_json`, keep them as ``results/<name>.csv``.

    With a column `value` they are plotted, too: a bar for each row that has one, named by its columns `by`.
    """
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    complete = [{**row, **machine()} for row in rows]
    _FOLDER.mkdir(exist_ok=True)
    with (_FOLDER / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(complete[0]))
        writer.writeheader()
        writer.writerows(complete)
    for row in rows:
        print("  ".join(f"{key} {cell}" for key, cell in row.items()))
    if value:
        bars = [
            (" ".join(str(row[key]) for key in by), float(str(row[value])))
            for row in rows
            if row[value] != ""
        ]
        plot(name, [label for label, _ in bars], [length for _, length in bars], value)


def plot(name: str, labels: Sequence[str], values: Sequence[float], unit: str) -> None:
    """A bar for each label, as ``results/<name>.svg``."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = name
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.8 + 0.3 * len(labels)), layout="constrained")
    bars = axes.barh(range(len(labels)), values)
    axes.bar_label(bars, [f"{value:.3g}" for value in values], padding=3)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(f"{unit}; {machine()['device']}")
    figure.savefig(_FOLDER / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
