"""What a scan or demo shows a person: the table of flags and an HTML sheet of every group."""

from __future__ import annotations

import base64
import dataclasses
import html
import pathlib

import rich.console
import rich.table
import rich.text

from core import database, images, settings
from workers import folders

_THUMBNAIL_PIXELS = 280


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag as a person or a script reads it; photos by their names within the property."""

    property: str
    photo: str
    duplicate_of: str
    score: float


def read(rows: list[database.Row]) -> list[Flag]:
    """Flags out of the rows of `matching.flags`."""
    return [
        Flag(
            row["property_id"],
            folders.photo_name(row["photo"]),
            folders.photo_name(row["duplicate_of"]),
            round(row["score"], 4),
        )
        for row in rows
    ]


def table(flags: list[Flag]) -> rich.table.Table:
    """Flags as a table for the terminal."""
    result = rich.table.Table("property", "photo", "duplicate of", "score", title="Duplicate flags")
    for flag in flags:
        # Plain text: file names may hold what rich would read as markup.
        names = (flag.property, flag.photo, flag.duplicate_of)
        result.add_row(*(rich.text.Text(name) for name in names), f"{flag.score:.2f}")
    return result


def sheet(path: pathlib.Path, title: str, flags: list[Flag], uploads: list[folders.Upload]) -> None:
    """Write one HTML file with a row a group: the canonical photo, then its duplicates with their scores."""
    files = {(item.property_id, item.name): item.path for item in uploads}
    groups: dict[tuple[str, str], list[Flag]] = {}
    for flag in flags:
        groups.setdefault((flag.property, flag.duplicate_of), []).append(flag)
    rows = []
    for (property_id, canonical), members in groups.items():
        figures = [_figure(files[property_id, canonical], canonical, "canonical", "canonical")]
        figures += [
            _figure(files[property_id, flag.photo], flag.photo, f"duplicate, score {flag.score:.2f}", "")
            for flag in sorted(members, key=lambda flag: -flag.score)
        ]
        rows.append(f"<section><h2>{html.escape(property_id)}</h2><div>{''.join(figures)}</div></section>")
    path.write_text(
        _PAGE.format(
            title=html.escape(title),
            summary=f"{len(groups)} groups, {len(flags)} duplicates among {len(uploads)} photos",
            rows="\n".join(rows),
        ),
        encoding="utf-8",
    )


def failed(console: rich.console.Console, failures: list[database.Row]) -> None:
    """Print every photo that failed, with its reason."""
    for row in failures:
        name = folders.photo_name(row["key"])
        console.print(
            f"failed: {row['property_id']}/{name}: {row['failure']}: {row['failure_message']}",
            markup=False,
            soft_wrap=True,
        )


def summary(
    console: rich.console.Console, flags: list[Flag], photos: int, failures: list[database.Row]
) -> None:
    """Print how many photos, duplicates and groups there are, and every photo that failed with its reason."""
    properties = len({flag.property for flag in flags})
    groups = len({(flag.property, flag.duplicate_of) for flag in flags})
    console.print(
        f"{photos} photos, {len(flags)} flagged as duplicates, in {groups} groups of {properties} properties."
    )
    failed(console, failures)


def _figure(path: pathlib.Path, name: str, note: str, kind: str) -> str:
    small = images.thumbnail(path.read_bytes(), _THUMBNAIL_PIXELS, settings.get().max_photo_pixels)
    data = base64.b64encode(small).decode()
    return (
        f'<figure class="{kind}"><img src="data:image/jpeg;base64,{data}" alt="{html.escape(name)}">'
        f"<figcaption><b>{html.escape(name)}</b><br>{html.escape(note)}</figcaption></figure>"
    )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem; background: #fafafa; color: #222 }}
section {{ background: #fff; border: 1px solid #ddd; border-radius: 6px; padding: .5rem 1rem; margin: 1rem 0 }}
section div {{ display: flex; flex-wrap: wrap; gap: 1rem }}
h2 {{ font-size: 1rem; margin: .3rem 0 }}
figure {{ margin: 0; padding: 4px; border: 3px solid #e0a030; border-radius: 4px; max-width: 280px }}
figure.canonical {{ border-color: #2a8f4a }}
img {{ max-width: 100%; display: block }}
figcaption {{ font-size: .85rem; padding-top: 4px; overflow-wrap: anywhere }}
</style></head><body><h1>{title}</h1><p>{summary}. Green: the canonical photo; amber: its duplicates.</p>
{rows}
</body></html>
"""
