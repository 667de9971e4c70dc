"""A demo or a scan: a folder of photos through the whole embedded stack, and what came out."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator

import rich.console
import rich.progress

from core import bundle, census, database, matching, settings, weights
from workers import embedded, folders, report

Bar = Callable[[str], rich.progress.Progress]

_TRUTH = "duplicates.json"
_DEMO_SEED = 7
_SQL = (
    "SELECT property_id, key, duplicate_of_key, score\nFROM listing_duplicates\n"
    "ORDER BY property_id, duplicate_of_key, key;"
)


@dataclasses.dataclass(frozen=True)
class Result:
    """What a scan found. `stack_home` holds the sheet, the logs and the data."""

    flags: list[report.Flag]
    failures: list[database.Row]
    uploads: list[folders.Upload]
    stack_home: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Model:
    """What a scan decides with: the backbone weights and the bundle that fits them."""

    weights: str
    bundle_id: str
    untrained: bool


def choose_model(*, fall_back: bool) -> Model:
    """The model of the settings.

    Args:
        fall_back: go on with the untrained weights where no others can be had.

    Raises:
        WeightsUnavailableError: there are none, and `fall_back` is off.
        ConfigurationError: no bundle fits them.
    """
    config = settings.get()
    source = config.backbone_weights
    try:
        sha256 = weights.source_digest(config.weights_sources[0])
    except weights.WeightsUnavailableError:
        # A bundle of the user's own would not fit the untrained weights.
        if not fall_back or config.bundle is not None:
            raise
        source, sha256 = weights.UNTRAINED, weights.UNTRAINED_SHA256
    chosen = bundle.load(config.bundle) if config.bundle else bundle.for_backbone(sha256)
    return Model(source, chosen.id, source == weights.UNTRAINED)


def home(kind: str, folder: pathlib.Path, model: Model) -> pathlib.Path:
    """A data folder of its own for each scanned folder and model: neither may meet another's."""
    path = str(folder.resolve())
    name = f"{folder.resolve().name}-{hashlib.sha256(path.encode()).hexdigest()[:8]}-{model.bundle_id[:8]}"
    return settings.get().data_dir / kind / name


def run(folder: pathlib.Path, kind: str, model: Model, bar: Bar) -> Result:
    """Bring a stack in line with `folder`, wait for every photo, read the flags."""
    uploads = folders.find(folder)
    place = home(kind, folder, model)
    with (
        embedded.Stack(place, {"DEDUP_BACKBONE_WEIGHTS": model.weights}) as stack,
        contextlib.closing(database.Database(stack.environment["DEDUP_DATABASE_URL"])) as base,
    ):
        with _report(bar("uploading")) as update:
            contents = folders.upload(stack.s3(), stack.store.bucket, uploads, update)
        with _report(bar("embedding and matching")) as update:
            folders.wait(stack, base, contents, update)
        with base.transaction() as connection:
            flags = report.read(matching.flags(connection))
            failures = census.failures(connection)
        return Result(flags, failures, uploads, place)


def draw(folder: pathlib.Path, properties: int, strength: float, bar: Bar) -> pathlib.Path:
    """Draw the demo's properties below `folder`, unless they are there already, and what they duplicate.

    `strength` in 0…1 is how far duplicates are from each other.
    """
    from core.drawing import properties as drawing

    target = folder / f"{properties}-{strength}"
    if (target / _TRUTH).is_file():
        return target
    target.mkdir(parents=True, exist_ok=True)
    truth: list[dict[str, str]] = []
    with _report(bar("drawing")) as update:
        for number, (drawn, pairs) in enumerate(drawing.draw_properties(properties, _DEMO_SEED, strength), 1):
            for photo in drawn:
                path = target / photo.property_id / photo.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(photo.jpeg)
            truth += [dataclasses.asdict(pair) for pair in pairs]
            update(number, properties)
    (target / _TRUTH).write_text(json.dumps(truth, indent=1), encoding="utf-8")
    return target


def show(result: Result, console: rich.console.Console, title: str) -> None:
    """Print the table and the summary, write the sheet."""
    console.print(report.table(result.flags))
    report.summary(console, result.flags, len(result.uploads), result.failures)
    sheet = result.stack_home / "sheet.html"
    report.sheet(sheet, title, result.flags, result.uploads)
    console.print(f"Sheet of every group: {sheet}", soft_wrap=True, markup=False)


def show_sql(console: rich.console.Console) -> None:
    """Print the SQL by which the listing system reads these flags."""
    console.print("\nThe listing system reads them as dedup_reader by:", markup=False)
    console.print(_SQL, markup=False)


def show_truth(result: Result, folder: pathlib.Path, console: rich.console.Console) -> None:
    """Say how many of the duplicates drawn into `folder` were found."""
    pairs = json.loads((folder / _TRUTH).read_text(encoding="utf-8"))
    group = {(flag.property, flag.photo): flag.duplicate_of for flag in result.flags}
    drawn = {(pair["property_id"], frozenset((pair["a"], pair["b"]))): pair["kind"] for pair in pairs}
    found = {key for key in drawn if len({group.get((key[0], photo), photo) for photo in key[1]}) == 1}
    wrong = [
        flag
        for flag in result.flags
        if (flag.property, frozenset((flag.photo, flag.duplicate_of))) not in drawn
    ]
    kinds = ", ".join(
        f"{kind} {sum(drawn[key] == kind for key in found)} of {sum(value == kind for value in drawn.values())}"
        for kind in sorted(set(drawn.values()))
    )
    console.print(
        f"\nDrawn duplicates found: {len(found)} of {len(drawn)} ({kinds}); wrong flags: {len(wrong)}."
    )


@contextlib.contextmanager
def _report(progress: rich.progress.Progress) -> Iterator[folders.Report]:
    with progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
