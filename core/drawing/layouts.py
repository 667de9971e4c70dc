"""Where the furniture of a room may stand: at a wall or in the middle, never in another piece."""

from __future__ import annotations

import numpy

from core.drawing import furniture, materials, solids

WALLS = ("west", "east", "south", "north")


class Layout:
    """What already stands where, so that no two pieces stand in each other."""

    def __init__(self, size: tuple[float, float, float]) -> None:
        self.size = size
        self.parts: list[solids.Solid] = []
        self.taken: list[tuple[materials.Array, materials.Array]] = []

    def put(
        self, rng: numpy.random.Generator, piece: furniture.Piece, wall: str | None, clearance: float = 0.0
    ) -> tuple[float, float] | None:
        """Stands `piece` at `wall` (or in the middle) where it fits; its place (x, y), or None where none was found."""
        width, depth, _ = self.size
        low, high = _bounds(piece)
        order = [WALLS[k] for k in rng.permutation(4)]
        for attempt in range(32):
            side = wall if attempt < 16 and wall else order[attempt % 4]
            if wall is None:
                x = width * float(rng.uniform(0.4, 0.6)) - (low[0] + high[0]) / 2
                y = depth * float(rng.uniform(0.4, 0.6)) - (low[1] + high[1]) / 2
                turn = 0.0 if attempt % 2 else 90.0
                placed = furniture.turned(furniture.turned(piece, 0, -(low[1] + high[1]) / 2, 0), 0, 0, turn)
                placed = furniture.turned(placed, x, y + (low[1] + high[1]) / 2, 0)
            else:
                length = depth if side in {"west", "east"} else width
                free = length - (high[0] - low[0]) - 0.1
                if free < 0:
                    continue
                along = 0.05 - float(low[0]) + free * float(rng.uniform(0, 1))
                x, y, turn = {
                    "south": (along, 0.0, 0.0),
                    "north": (width - along, depth, 180.0),
                    "west": (0.0, depth - along, -90.0),
                    "east": (width, along, 90.0),
                }[side]
                placed = furniture.turned(piece, x, y, turn)
            if self._free(placed, clearance):
                self.parts += placed
                return x, y
        return None

    def _free(self, piece: furniture.Piece, clearance: float) -> bool:
        low, high = _bounds(piece)
        if (low < -0.02).any() or (high > numpy.asarray(self.size) + 0.02).any():
            return False
        if any((low < other[1]).all() and (high > other[0]).all() for other in self.taken):
            return False
        self.taken.append((low - clearance, high + clearance))
        return True


def _bounds(piece: furniture.Piece) -> tuple[materials.Array, materials.Array]:
    corners = numpy.concatenate([solid.corners for solid in piece])
    return corners.min(axis=0), corners.max(axis=0)
