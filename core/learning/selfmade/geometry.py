"""What of a floor plan survives another drawing office: its walls, and thin strokes such as doors that touch them.

Read from the picture alone by morphology (Serra, *Image Analysis and Mathematical Morphology*, 1982): walls are the
thick strokes, or pairs of thin ones with little between them.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int32]

_SMALL = 0.035
"""Parts of walls below this share of the sheet's long side are furniture or letters."""
_WORD = 0.09
_LEAST_CONTRAST = 25.0
_LEAST_WALL, _MOST_WALL = 0.15, 0.4
"""Walls hold at least this share of the ink, and cover at most this share of the sheet."""
_FINE = 0.012
"""Strokes thinner than this share of the sheet's long side may be outlines of walls."""
_HALF_WALL = 0.018
"""Spaces between strokes up to this share of the long side from the next stroke may be insides of walls."""
_SHAFT = 0.04
"""Solid ink wider than this share of the sheet's long side is no wall."""
_COVERED = 0.45
"""The box around the walls covers at least this share of the box around all larger strokes."""
_DOOR = 0.035
"""Half the width of a door that is closed to tell the rooms apart, as a share of the sheet's long side."""
_LEAST_ROOM = 0.004
_STROKES = (17, 15, 13, 11, 9, 8, 7, 6, 5, 4, 3)


@dataclasses.dataclass(frozen=True)
class Geometry:
    """`walls` and `details` (thin strokes at walls) are (height, width); `rooms` numbers rooms from 1, 0 is none."""

    walls: Mask
    details: Mask
    rooms: Labels


def of(image: Image.Image) -> Geometry:
    """The geometry of a plan (RGB)."""
    ink = inked(image)
    walls = walled(ink)
    return Geometry(walls, _details(ink, walls), _rooms(walls))


def inked(image: Image.Image) -> Mask:
    """(height, width): what is drawn; the paper is the commonest tone, light or dark, the ink what has most edges."""
    tones = np.asarray(image.convert("L")).astype(np.int16)
    # A few neighbouring tones count together: the paper of a scan is grained, a cover-up on it is not.
    counts = np.convolve(np.bincount(tones.ravel(), minlength=256), np.ones(17), mode="same")
    paper = int(counts.argmax())
    darker, lighter = _clear(paper - tones), _clear(tones - paper)
    return darker if _rim(darker) >= _rim(lighter) else lighter


def walled(ink: Mask) -> Mask:
    """(height, width): the thick strokes of `ink`, or all of its larger strokes where none is thick."""
    whole = _large(ink)
    outer, fine = _extent(whole), _FINE * max(ink.shape)
    thickest = _thickest(ink, ink)
    candidates = [(ink, thickest, _SMALL)]
    if thickest < fine:
        # Lines as thin as letters are the outlines of hollow walls; words are filled along with them.
        filled = _filled(ink)
        candidates.insert(0, (filled, _thickest(filled, ink), _WORD))
    for candidate, stroke, least in candidates:
        # Walls between rooms are about half as thick as those outside.
        walls = _large(_opened(candidate, max((stroke + 1) // 2, 3)), least)
        if stroke and _extent(walls) >= _COVERED * outer and walls.mean() < _MOST_WALL:
            # Opening rounds corners off; what it cut from the strokes that stay is theirs.
            return walls | (candidate & dilated(walls, 1))
    return whole


def _thickest(candidate: Mask, ink: Mask) -> int:
    """Pixels across the thickest strokes that make up a good part of the ink, 0 for none."""
    least = _LEAST_WALL * ink.sum()
    # A black square in a plan is a shaft, and no measure of the walls.
    strokes = candidate & ~dilated(_opened(candidate, max(round(_SHAFT * max(ink.shape)), 5)), 1)
    for side in _STROKES:
        opened = _opened(strokes, side)
        if opened.sum() >= least > 0 and _large(opened).sum() >= least:
            return side
    return 0


def _clear(contrast: npt.NDArray[np.int16]) -> Mask:
    positive = np.clip(contrast, 0, 255).astype(np.uint8)
    level, _ = cv2.threshold(positive, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    found: Mask = positive > max(float(level), _LEAST_CONTRAST)
    return found


def _rim(mask: Mask) -> int:
    return int((mask[:, 1:] != mask[:, :-1]).sum() + (mask[1:] != mask[:-1]).sum())


def _details(ink: Mask, walls: Mask) -> Mask:
    thin = ink & ~dilated(walls, 1)
    near = dilated(walls, 3)
    long = max(ink.shape)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(thin.astype(np.uint8), connectivity=8)
    touching = set(np.unique(labels[near & thin]).tolist())
    keep = [
        number
        for number in range(1, count)
        if number in touching
        and 0.02 * long
        < max(stats[number, cv2.CC_STAT_WIDTH], stats[number, cv2.CC_STAT_HEIGHT])
        < 0.2 * long
    ]
    found: Mask = np.isin(labels, keep)
    return found


def _rooms(walls: Mask) -> Labels:
    reach = max(round(_DOOR * max(walls.shape)), 2)
    # Walls are grown until doors close; each room that is left is grown back as far.
    free = np.pad(~dilated(walls, reach), 1, constant_values=True)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(free.astype(np.uint8), connectivity=4)
    outside = {0, *labels[0].tolist(), *labels[-1].tolist(), *labels[:, 0].tolist(), *labels[:, -1].tolist()}
    inner = labels[1:-1, 1:-1]
    rooms = np.zeros(walls.shape, dtype=np.int32)
    number = 0
    for label in range(1, len(stats)):
        if label in outside or stats[label, cv2.CC_STAT_AREA] < _LEAST_ROOM * walls.size:
            continue
        number += 1
        grown = dilated(inner == label, reach) & ~walls & (rooms == 0)
        rooms[grown] = number
    return rooms


def _filled(ink: Mask) -> Mask:
    """`ink` with the narrow spaces between its strokes filled: hollow and hatched walls become solid."""
    closed = cv2.morphologyEx(ink.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    spaces = 1 - closed
    _, labels, _, _ = cv2.connectedComponentsWithStats(spaces, connectivity=4)
    depth = cv2.distanceTransform(spaces, cv2.DIST_L2, 3)
    deepest = np.zeros(int(labels.max()) + 1, dtype=np.float32)
    np.maximum.at(deepest, np.asarray(labels, dtype=np.int64).ravel(), np.asarray(depth, np.float32).ravel())
    narrow = deepest <= max(_HALF_WALL * max(ink.shape), 3.0)
    filled: Mask = (closed > 0) | narrow[labels]
    return filled


def _large(mask: Mask, share: float = _SMALL) -> Mask:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    least = share * max(mask.shape)
    sides = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    # A frame around the sheet is no wall.
    frame = (stats[:, cv2.CC_STAT_WIDTH] > 0.95 * mask.shape[1]) & (
        stats[:, cv2.CC_STAT_HEIGHT] > 0.95 * mask.shape[0]
    )
    keep = [number for number in range(1, count) if sides[number] >= least and not frame[number]]
    found: Mask = np.isin(labels, keep)
    return found


def _extent(mask: Mask) -> float:
    """The area of the box around `mask`, in pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(np.ptp(rows) * np.ptp(columns)) if len(rows) else 0.0


def _opened(mask: Mask, side: int) -> Mask:
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    return np.asarray(opened, dtype=np.bool_)


def eroded(mask: Mask, reach: int) -> Mask:
    """`mask` without its rim of `reach` pixels."""
    side = 2 * reach + 1
    return np.asarray(cv2.erode(mask.astype(np.uint8), np.ones((side, side), np.uint8)), dtype=np.bool_)


def dilated(mask: Mask, reach: int) -> Mask:
    """`mask` with `reach` pixels more all around."""
    side = 2 * reach + 1
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)), dtype=np.bool_)
