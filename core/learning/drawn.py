"""A pair set of drawn properties: what the bundle for untrained weights learns from, as no real photo may ship.

``python -m core.learning.drawn OUTPUT --properties 160 --seed 1`` writes ``pairs.csv`` and ``images/``.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import pathlib
from collections.abc import Callable, Sequence

from core import errors
from core.drawing import properties
from core.learning import pairs

_VAL_EACH = 4
"""Every fourth property goes to val: whole properties, as a property may not stand in two splits."""


def write(
    output: pathlib.Path,
    count: int,
    seed: int,
    strength: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> pairs.PairSet:
    """Draw properties and write every pair within each of them, in the format of `pairs.read`.

    Args:
        output: an empty or absent folder.
        count: properties, at least `_VAL_EACH` so that val has one.
        seed: of the drawing; the same one gives the same files.
        strength: how far duplicates are from each other, see `properties.draw_property`.

    Raises:
        ConfigurationError: the folder already holds something, or there are too few properties.
    """
    if count < _VAL_EACH:
        raise errors.ConfigurationError(f"Expected at least {_VAL_EACH} properties to draw, found {count}.")
    if output.exists() and any(output.iterdir()):
        raise errors.ConfigurationError(f"{output} is not empty; give a new folder.")
    (output / "images").mkdir(parents=True)
    with (output / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(pairs.COLUMNS)
        for number, (photos, known) in enumerate(properties.draw_properties(count, seed, strength)):
            split = "val" if number % _VAL_EACH == _VAL_EACH - 1 else "train"
            kinds = {frozenset((pair.a, pair.b)): pair.kind for pair in known}
            for photo in photos:
                (output / "images" / _name(photo.property_id, photo.name)).write_bytes(photo.jpeg)
            for a, b in itertools.combinations(photos, 2):
                kind = kinds.get(frozenset((a.name, b.name)))
                names = [_name(photo.property_id, photo.name) for photo in (a, b)]
                label = int(kind is not None)
                writer.writerow([*names, label, split, a.property_id, b.property_id, kind or "property"])
            if progress is not None:
                progress(number + 1, count)
    return pairs.read(output)


def _name(property_id: str, name: str) -> str:
    return f"{property_id}-{name}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw a pair set from the command line."""
    parser = argparse.ArgumentParser(prog="python -m core.learning.drawn", description=__doc__)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--properties", type=int, default=160)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--strength", type=float, default=1.0)
    options = parser.parse_args(arguments)
    made = write(options.output, options.properties, options.seed, options.strength)
    print(f"{len(made.pictures)} pictures, {len(made.pairs)} pairs in {options.output}")


if __name__ == "__main__":
    main()
