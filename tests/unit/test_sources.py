"""Which of a portal's photos training looks at."""

from __future__ import annotations

import pathlib
from typing import cast

import pytest

from core import errors
from core.learning import features, sources
from core.learning.selfmade import pairsets


def _photos(properties: int, each: int) -> list[tuple[str, str]]:
    return [
        (f"house {number}", f"{number}/{photo}.jpg") for number in range(properties) for photo in range(each)
    ]


def test_of_many_photos_whole_properties_are_taken_and_always_the_same() -> None:
    chosen = sources.sample(_photos(50, 4), 30)
    assert len(chosen) == 28
    assert {owner: sum(other == owner for other, _ in chosen) for owner, _ in chosen} == dict.fromkeys(
        {owner for owner, _ in chosen}, 4
    )
    assert chosen == sources.sample(list(reversed(_photos(50, 4))), 30)
    # More properties change which are taken, but never split one.
    assert sources.sample(_photos(50, 4), 1000) == sorted(_photos(50, 4))


def test_a_property_larger_than_all_that_is_looked_at_is_cut() -> None:
    assert len(sources.sample(_photos(1, 100), 30)) == 30


def test_photos_of_which_none_can_be_decoded_are_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    photos = [pairsets.Photo("1", tmp_path / name) for name in ("x.jpg", "gone.jpg")]
    with pytest.raises(errors.ConfigurationError, match="None of 2 photos can be decoded"):
        sources.self_made(photos, cast(features.Features, None), tmp_path / "out", seed=0)
