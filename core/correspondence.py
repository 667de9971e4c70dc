"""How the cells of two photos find each other: what an average of a whole picture cannot tell.

A level's average says what is on a photo, not where. The same room from another angle and the same floor plan
redrawn keep *where*: their cells match each other in the same arrangement. Here every cell of one photo is compared
with every cell of the other, and what comes out is described in a few numbers: how well the best matches do, how
many are mutual, how many agree on one displacement, and how alike the photos are in place, upright, turned by
quarters and mirrored.

Sources: mutual nearest neighbours and votes for a common displacement as in Lowe, *Distinctive Image Features from
Scale-Invariant Keypoints*, 2004 (Hough voting); cells of a convolutional map as local descriptors as in Noh et al.,
*Large-Scale Image Retrieval with Attentive Deep Local Features*, 2017.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from core import fusing

Floats = npt.NDArray[np.float32]

GRID, CELLS = fusing.GRID, fusing.CELLS
_MEASURES = ("displaced", "in_place", "near_place")
NAMES = (
    "best_matches",
    "lesser_side",
    "mutual",
    *(f"{name}_{kind}" for name in _MEASURES for kind in ("upright", "turned", "lead", "mirrored")),
)
"""What the columns of `describe` are."""

_TURNS = 4
_SPAN = 2 * GRID - 1
_CHUNK = 64
_TINY = np.float32(1e-9)
_ROW, _COLUMN = np.divmod(np.arange(CELLS), GRID)


def _symmetries() -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Where each cell goes under the four quarter turns, then under the mirrored four: rows and columns."""
    last = GRID - 1
    turned = [
        (_ROW, _COLUMN),
        (_COLUMN, last - _ROW),
        (last - _ROW, last - _COLUMN),
        (last - _COLUMN, _ROW),
    ]
    return [*turned, *((row, last - column) for row, column in turned)]


def _in_place() -> Floats:
    """(CELLS², 8): averages the likeness of the cells that lie on each other under each symmetry."""
    mask = np.zeros((CELLS, CELLS, 2 * _TURNS), dtype=np.float32)
    for place, (row, column) in enumerate(_symmetries()):
        mask[row * GRID + column, np.arange(CELLS), place] = 1 / CELLS
    return mask.reshape(CELLS * CELLS, -1)


def _displacements() -> npt.NDArray[np.int64]:
    """(CELLS², 8): the bin of displacement that a match of two cells votes for under each symmetry."""
    bins = [
        (_ROW[:, None] - row[None] + GRID - 1) * _SPAN + _COLUMN[:, None] - column[None] + GRID - 1
        for row, column in _symmetries()
    ]
    return np.stack(bins, axis=-1).reshape(CELLS * CELLS, -1)


_IN_PLACE, _DISPLACEMENTS = _in_place(), _displacements()
_IN_PLACE_BACK = np.ascontiguousarray(_IN_PLACE.reshape(CELLS, CELLS, -1).transpose(1, 0, 2)).reshape(
    CELLS**2, -1
)


def describe(a: Floats, b: Floats) -> Floats:
    """Numbers that say how well the cells of each pair find each other.

    Args:
        a: (n, CELLS, dims) float32, each cell of norm 1; or (1, CELLS, dims) to compare one photo with all of `b`.
        b: likewise.

    Returns:
        (n, len(NAMES)) float32; exactly the same with `a` and `b` exchanged.
    """
    count = max(len(a), len(b)) if len(a) and len(b) else 0
    result = np.empty((count, len(NAMES)), dtype=np.float32)
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        result[start:stop] = _describe(*_ordered(_part(a, start, stop), _part(b, start, stop)))
    return result


def _describe(a: Floats, b: Floats) -> Floats:
    # A product a pair, as which of two equal cells is the greater must not depend on where they stand in a larger one.
    # (n, cells of b, cells of a) and turned about: what is taken over cells then runs along whole rows of memory.
    likeness = b @ a.transpose(0, 2, 1)
    turned_about = np.ascontiguousarray(likeness.transpose(0, 2, 1))
    count = len(likeness)
    there, back = likeness.max(axis=1), turned_about.max(axis=1)
    flat = likeness.reshape(count, -1)
    # Mutual: no other cell is more alike, seen from either side. Cells that are exactly alike (a blank picture) all
    # match each other; what they vote is bounded below.
    least = np.maximum(np.maximum(there, _TINY)[:, None], back[:, :, None])
    found = np.flatnonzero(likeness >= least)
    pair, match = found // CELLS**2, found % CELLS**2
    weight = flat[pair, match] / CELLS
    # The best of those next to a cell, looked for in either photo: which one comes first must not matter.
    near: Floats = _near(likeness) @ _IN_PLACE + _near(turned_about) @ _IN_PLACE_BACK
    near *= 0.5
    measures: list[npt.NDArray[np.floating]] = [_votes(count, pair, match, weight), flat @ _IN_PLACE, near]
    mean_there, mean_back = there.mean(axis=1), back.mean(axis=1)
    columns = [
        (mean_there + mean_back) / 2,
        np.minimum(mean_there, mean_back),
        np.minimum(np.bincount(pair, weight, count), 1.0),
    ]
    for measure in measures:
        turns = np.sort(measure[:, :_TURNS], axis=1)
        columns += [measure[:, 0], turns[:, -1], turns[:, -1] - turns[:, -2], measure[:, _TURNS:].max(axis=1)]
    return np.stack(columns, axis=1).astype(np.float32)


def _votes(
    count: int, pair: npt.NDArray[np.int64], match: npt.NDArray[np.int64], weight: npt.NDArray[np.floating]
) -> Floats:
    """(count, 8): the share of cells whose mutual matches agree on a displacement, to one cell's breadth."""
    # (displacements, pairs and symmetries): neighbouring displacements are then added by whole rows of memory.
    columns = count * 2 * _TURNS
    bins = _DISPLACEMENTS[match] * columns + (pair * 2 * _TURNS)[:, None] + np.arange(2 * _TURNS)
    counted = np.bincount(bins.ravel(), np.repeat(weight, 2 * _TURNS), _SPAN**2 * columns)
    votes: Floats = counted.astype(np.float32).reshape(_SPAN, _SPAN, columns)
    rows = votes.copy()
    rows[1:] += votes[:-1]
    rows[:-1] += votes[1:]
    both = rows.copy()
    both[:, 1:] += rows[:, :-1]
    both[:, :-1] += rows[:, 1:]
    result: Floats = np.minimum(both.max(axis=(0, 1)), 1.0).reshape(count, 2 * _TURNS)
    return result


def _near(likeness: Floats) -> Floats:
    """(n, CELLS²): as `likeness`, but each cell of its first axis lends its best to those next to it."""
    rows = likeness.reshape(-1, GRID, GRID, CELLS).copy()
    grid = likeness.reshape(-1, GRID, GRID, CELLS)
    np.maximum(rows[:, 1:], grid[:, :-1], out=rows[:, 1:])
    np.maximum(rows[:, :-1], grid[:, 1:], out=rows[:, :-1])
    both = rows.copy()
    np.maximum(both[:, :, 1:], rows[:, :, :-1], out=both[:, :, 1:])
    np.maximum(both[:, :, :-1], rows[:, :, 1:], out=both[:, :, :-1])
    return both.reshape(len(likeness), -1)


def _ordered(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """The lesser photo of each pair first: sums are then taken in one order, and no digit depends on who came first."""
    a, b = np.broadcast_arrays(a, b)
    # Nearly always the first cells differ already; only where they do not, all are compared.
    swapped, same = _greater(a[:, 0], b[:, 0])
    if same.any():
        swapped[same] = _greater(a[same].reshape(same.sum(), -1), b[same].reshape(same.sum(), -1))[0]
    if swapped.any():
        a, b = a.copy(), b.copy()
        a[swapped], b[swapped] = b[swapped], a[swapped]
    return a, b


def _greater(a: Floats, b: Floats) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which rows of `a` are greater by the first value that differs, and which are the same."""
    rows = np.arange(len(a))
    first = (a != b).argmax(axis=1)
    return a[rows, first] > b[rows, first], a[rows, first] == b[rows, first]


def _part(cells: Floats, start: int, stop: int) -> Floats:
    return cells if len(cells) == 1 else cells[start:stop]
