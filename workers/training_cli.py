"""The command `dedup train`: how to get a bundle of one's own, with labels or without."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import rich.console
import typer

from core import errors, settings
from workers import learning_cli, logs

if TYPE_CHECKING:
    # Importing torch takes seconds, and `dedup flags` needs none of it.
    from core.learning import features, pairs
    from core.learning.selfmade import pairsets

_output = rich.console.Console(highlight=False)


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(train)


def train(
    pair_folders: Annotated[
        list[pathlib.Path] | None,
        typer.Argument(metavar="[PAIRS_DIR]...", help="Labelled pairs: folders with pairs*.csv and images/."),
    ] = None,
    *,
    output: Annotated[pathlib.Path, typer.Option(help="Folder of the bundle.")],
    photo_folder: Annotated[
        pathlib.Path | None,
        typer.Option("--photos", help="Unlabelled photos, a sub-folder a property: pairs are made of them."),
    ] = None,
    bucket: Annotated[
        str | None,
        typer.Option(help="Unlabelled photos of this bucket, fetched by DEDUP_S3_… and the key pattern."),
    ] = None,
    prefix: Annotated[str, typer.Option(help="Only the bucket's keys that begin so.")] = "",
    with_verdicts: Annotated[
        bool, typer.Option("--verdicts", help="People's verdicts of the database are labelled pairs too.")
    ] = False,
    made_pairs: Annotated[
        int,
        typer.Option("--made-pairs", min=50, help="Pairs made of unlabelled photos, for each of three sets."),
    ] = 2_000,
    name: Annotated[str | None, typer.Option(help="Of the bundle; default: its folder's name.")] = None,
    seed: Annotated[int, typer.Option(help="The same one gives the same bundle on the same machine.")] = 0,
    precision: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="Least precision of what is flagged without a person.")
    ] = 0.99,
    weights_source: learning_cli.WeightsOption = None,
) -> None:
    """Train a model bundle, verify it, and say how good it is on houses that it did not see.

    From labelled pairs, from unlabelled photos, from people's verdicts, or from all of these together.
    """
    if not (pair_folders or photo_folder or bucket or with_verdicts):
        raise errors.ConfigurationError(
            "Nothing to train on: give folders of labelled pairs, --photos FOLDER, --bucket NAME or --verdicts."
        )
    from core import bundle, embedding, weights
    from core.learning import features, pairs, training

    config = settings.get()
    logs.configure(config.log_level, "train")
    sets = [pairs.read(path) for path in pair_folders or []]
    source = weights.load(weights_source or config.weights_sources[0])
    backbone = embedding.Backbone(source, embedding.choose_device(config.device))
    cache = learning_cli.cache()
    seen = features.Features(backbone, training.INPUT_SIZE, cache)
    with (
        tempfile.TemporaryDirectory(prefix="training-", dir=cache) as temporary,
        learning_cli.progress() as tell,
    ):
        folder = pathlib.Path(temporary)
        if photo_folder is not None or bucket is not None:
            photos = _photos(photo_folder, bucket, prefix, folder / "photos", tell)
            sets += _self_made(photos, seen, folder / "made", seed, made_pairs, tell)
        if with_verdicts:
            sets.append(_verdicts(folder / "verdicts", tell))
        made = training.train(
            sets,
            source,
            output,
            name=name or output.resolve().name,
            seed=seed,
            seen=seen,
            precision=precision,
            progress=tell,
        )
    # Read back from the disk: what is printed is what a worker will load.
    found = bundle.load(output)
    if found.digest != made.digest:
        raise errors.ConfigurationError(
            f"{output}: expected a bundle with digest {made.digest}, found {found.digest}; train it again."
        )
    for key, figures in found.training["houses_left_out"].items():
        shown = ", ".join(f"{figure} {value}" for figure, value in figures.items())
        _output.print(f"houses left out, {key}: {shown}", soft_wrap=True, markup=False)
    _output.print(f"bundle {found.name} {found.digest}", soft_wrap=True, markup=False)


def _photos(
    photo_folder: pathlib.Path | None,
    bucket: str | None,
    prefix: str,
    output: pathlib.Path,
    tell: Callable[[str, int, int], None],
) -> list[pairsets.Photo]:
    from core import events, objects
    from core.learning import sources
    from core.learning.selfmade import pairsets
    from workers import folders

    config = settings.get()
    found = [] if photo_folder is None else folders.find(photo_folder)
    photos = [pairsets.Photo(item.property_id, item.path) for item in found]
    if bucket is not None:
        photos += sources.from_bucket(
            objects.client(config),
            bucket,
            prefix,
            events.key_pattern(config.key_pattern, (bucket,)),
            output,
            max_photo_bytes=config.max_photo_bytes,
            progress=functools.partial(tell, f"photos of {bucket}"),
        )
    return photos


def _self_made(
    photos: Sequence[pairsets.Photo],
    seen: features.Features,
    output: pathlib.Path,
    seed: int,
    count: int,
    tell: Callable[[str, int, int], None],
) -> list[pairs.PairSet]:
    from core.learning import sources

    return sources.self_made(photos, seen, output, seed=seed, count=count, progress=tell)


def _verdicts(output: pathlib.Path, tell: Callable[[str, int, int], None]) -> pairs.PairSet:
    from core import database, objects
    from core.learning import verdicts

    config = settings.get()
    with contextlib.closing(database.Database(config.database_url)) as base:
        return verdicts.write(
            base,
            objects.client(config),
            output,
            max_photo_bytes=config.max_photo_bytes,
            max_photo_pixels=config.max_photo_pixels,
            progress=functools.partial(tell, "photos with verdicts"),
        )
