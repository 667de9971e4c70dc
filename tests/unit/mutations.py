"""Bytes with small damages, as fuzzing wants them: the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable

_NASTY = (
    b"\x00",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x00" * 8,
    b"\xff\xd8",
    b"\xff\xd9",
    b"%",
    b'"',
)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """`data` with one to six damages: bits turned, bytes put in, parts cut out, moved or doubled."""
    damages: tuple[Callable[[bytearray, random.Random], None], ...] = (
        _flip,
        _insert,
        _cut,
        _double,
        _end,
        _number,
    )
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        if changed:
            rng.choice(damages)(changed, rng)
    return bytes(changed)


def _place(data: bytearray, rng: random.Random) -> int:
    # Headers decide more than what follows them.
    return rng.randrange(min(len(data), 200) if rng.random() < 0.5 else len(data))


def _flip(data: bytearray, rng: random.Random) -> None:
    data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _insert(data: bytearray, rng: random.Random) -> None:
    place = _place(data, rng)
    data[place:place] = rng.choice(_NASTY)


def _number(data: bytearray, rng: random.Random) -> None:
    place, nasty = _place(data, rng), rng.choice(_NASTY)
    data[place : place + len(nasty)] = nasty


def _cut(data: bytearray, rng: random.Random) -> None:
    place = _place(data, rng)
    del data[place : place + rng.randint(1, 40)]


def _double(data: bytearray, rng: random.Random) -> None:
    place, target = _place(data, rng), _place(data, rng)
    data[target:target] = data[place : place + rng.randint(1, 40)]


def _end(data: bytearray, rng: random.Random) -> None:
    if rng.random() < 0.3:
        del data[_place(data, rng) + 1 :]
