"""Results of a benchmark: CSV beside the scripts, each row with the machine and the versions that gave it."""

from __future__ import annotations

import csv
import datetime
import json
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence

import torch
import torchvision

Row = Mapping[str, object]
"""One line of a table, by column."""

_FOLDER = pathlib.Path(__file__).parent / "results"


def machine() -> dict[str, str]:
    """What the figures depend on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu"
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": device,
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


def write(name: str, rows: Sequence[Row], *, as_json: bool) -> None:
    """Print the rows and, unless `as_json`, keep them as ``results/<name>.csv``."""
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
        print("  ".join(f"{key} {value}" for key, value in row.items()))
