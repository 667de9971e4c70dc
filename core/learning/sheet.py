"""A page of the pairs that were decided worst, for a person's eyes: wrong labels and weak spots show there first."""

from __future__ import annotations

import base64
import html
import pathlib
from collections.abc import Sequence

import numpy as np

from core import errors, images
from core.learning import comparison, features, pairs

_THUMBNAIL_PIXELS = 260


def write(
    path: pathlib.Path, result: comparison.Result, tasks: Sequence[comparison.Task], each: int = 20
) -> None:
    """Write one HTML file, pictures inside it: by set, the wrongly flagged and the missed pairs, the worst first.

    Args:
        each: most pairs of either kind a set.

    Raises:
        ConfigurationError: a picture cannot be read or decoded.
    """
    parts = []
    for task in tasks:
        scores, threshold = result.scores[task.name], result.decision.thresholds[task.name]
        wrong = [row for row in np.argsort(-scores, kind="stable") if scores[row] >= threshold]
        missed = [row for row in np.argsort(scores, kind="stable") if scores[row] < threshold]
        for title, rows, duplicate in (("flagged wrongly", wrong, False), ("missed", missed, True)):
            found = [row for row in rows if task.measured.pairs[row].duplicate == duplicate]
            parts.append(f"<h2>{html.escape(task.name)}: {title}, {len(found)} pairs</h2>")
            parts += [
                _row(task.measured, task.measured.pairs[row], float(scores[row])) for row in found[:each]
            ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        _PAGE.format(title=html.escape(f"Worst-decided pairs: {result.method}"), rows="\n".join(parts)),
        encoding="utf-8",
    )


def _row(pair_set: pairs.PairSet, pair: pairs.Pair, score: float) -> str:
    figures = "".join(_figure(pair_set.images / name, name) for name in (pair.a, pair.b))
    return f"<section><p>score {score:.3f}, {html.escape(pair.kind)}</p><div>{figures}</div></section>"


def _figure(path: pathlib.Path, name: str) -> str:
    try:
        small = images.thumbnail(path.read_bytes(), _THUMBNAIL_PIXELS, features.MAX_PIXELS)
    except (OSError, errors.PermanentError) as error:
        raise errors.ConfigurationError(f"{path}: {error}") from error
    data = base64.b64encode(small).decode()
    shown = html.escape(name)
    return f'<figure><img src="data:image/jpeg;base64,{data}" alt="{shown}"><figcaption>{shown}</figcaption></figure>'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem; background: #fafafa; color: #222 }}
section {{ background: #fff; border: 1px solid #ddd; border-radius: 6px; padding: .2rem 1rem; margin: .6rem 0 }}
section div {{ display: flex; gap: 1rem }}
p {{ margin: .3rem 0 }}
figure {{ margin: 0; max-width: 260px }}
img {{ max-width: 100%; display: block }}
figcaption {{ font-size: .8rem; overflow-wrap: anywhere }}
</style></head><body><h1>{title}</h1>
{rows}
</body></html>
"""
