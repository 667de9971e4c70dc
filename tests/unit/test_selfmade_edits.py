"""What is made of a photo for self-labelled pairs: edits, views, copies of plans."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from core.drawing import plans as drawn_plans
from core.drawing import rooms, styles
from core.learning.selfmade import geometry, overlays, plans, views

COUNT = 60


def test_edits_keep_the_picture_and_leave_the_original_alone() -> None:
    random = np.random.default_rng(1)
    room = rooms.Room.random(random, "kitchen")
    image = room.view(room.camera(random), 320, 240)
    before = image.tobytes()
    for _ in range(20):
        made = overlays.edited(image, random, overlays.House.random(random))
        assert 0.6 <= made.width / image.width <= 1.25
        assert made.tobytes() != before
    assert image.tobytes() == before


def test_houses_have_marks_of_every_sort() -> None:
    random = np.random.default_rng(2)
    houses = [overlays.House.random(random) for _ in range(200)]
    assert {kind for house in houses for kind in house.loud} == set(overlays.LOUD)
    assert all(house.loud or house.agency.marks for house in houses)
    image = Image.new("RGB", (300, 200), (120, 120, 120))
    for house in houses[:40]:
        assert overlays.marked(image, random, house).tobytes() != image.tobytes()


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (900, 400), (60, 40)])
def test_views_lie_in_the_photo_and_share_what_they_should(size: tuple[int, int]) -> None:
    random = np.random.default_rng(3)
    for _ in range(40):
        left, right = views.quads(size, random)
        for quad in (left, right):
            assert quad.min() >= -1e-6
            assert (quad.max(axis=0) <= np.array(size) + 1e-6).all()
        found = min(views.shared(left, right), views.shared(right, left))
        assert views.SHARED[0] - 0.05 <= found <= views.SHARED[1] + 0.05


def test_what_a_view_shows_is_where_its_corners_are() -> None:
    rows, columns = np.mgrid[:200, :300]
    image = Image.fromarray(np.stack([columns % 256, rows, 0 * rows], axis=-1).astype(np.uint8))
    quad = np.array([[40, 30], [220, 20], [230, 150], [30, 160]], dtype=np.float64)
    seen = np.asarray(views.seen(image, quad)).astype(int)
    for (y, x), (u, v) in zip(((0, 0), (0, -1), (-1, -1), (-1, 0)), quad, strict=True):
        assert np.abs(seen[y, x, :2] - (u, v)).max() <= 3


def test_shared_is_the_overlap_of_plain_rectangles() -> None:
    left = np.array([[0, 0], [100, 0], [100, 100], [0, 100]], dtype=np.float64)
    assert views.shared(left, left + np.array([50, 0])) == pytest.approx(0.5, abs=0.03)
    assert views.shared(left, left + np.array([200, 0])) == 0.0


@pytest.mark.parametrize("style", range(len(styles.STYLES)))
def test_walls_are_found_in_each_style_and_survive_redrawing(style: int) -> None:
    plan = drawn_plans.Plan.random(np.random.default_rng(11))
    read = geometry.of(drawn_plans.draw(plan, styles.STYLES[style]))
    truth = _solid_walls(plan, styles.STYLES[style])
    assert (truth & geometry.dilated(read.walls, 2)).sum() > 0.75 * truth.sum()
    # Hollow walls are filled in, and narrow furniture along with them.
    assert (read.walls & geometry.dilated(truth, 2)).sum() > 0.7 * read.walls.sum()
    random = np.random.default_rng(style)
    for _ in range(8):
        office = plans.Office.random(random)
        bare = dataclasses.replace(office.style, labels=False, furniture=False, fills=())
        ink = geometry.inked(plans.drawn(read, random, dataclasses.replace(office, style=bare, doors=False)))
        # Walls differ by two pixels at each side; hollow ones have no ink but at their rims.
        assert (ink & geometry.dilated(read.walls, 4)).sum() > 0.99 * ink.sum(), office
        rim = read.walls & ~geometry.eroded(read.walls, 1)
        assert (rim & geometry.dilated(ink, 4)).sum() > 0.9 * rim.sum(), office


def test_walls_of_other_plans_do_not_overlap_like_that() -> None:
    random = np.random.default_rng(5)
    one, other = (
        geometry.of(drawn_plans.draw(drawn_plans.Plan.random(random), styles.STYLES[0])) for _ in range(2)
    )
    assert _overlap(one.walls, other.walls) < 0.4


def _solid_walls(plan: drawn_plans.Plan, style: styles.Style) -> geometry.Mask:
    """The walls with nothing else, as large as `style` draws them."""
    bare = dataclasses.replace(
        style, wall="filled", ink=(0, 0, 0), paper=(255, 255, 255), fills=(), labels=False, furniture=False
    )
    walls = drawn_plans.draw(dataclasses.replace(plan, doors=(), windows=()), bare)
    return geometry.inked(walls)


def _overlap(one: geometry.Mask, other: geometry.Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_labels_and_furniture_are_no_walls() -> None:
    plan = drawn_plans.Plan.random(np.random.default_rng(4))
    full = dataclasses.replace(styles.STYLES[0], labels=True, furniture=True)
    bare = dataclasses.replace(styles.STYLES[0], labels=False, furniture=False, areas=False)
    with_all = geometry.of(drawn_plans.draw(plan, full))
    assert _overlap(with_all.walls, geometry.of(drawn_plans.draw(plan, bare)).walls) > 0.9
    assert with_all.rooms.max() >= 2


def test_dark_paper_is_no_ink() -> None:
    plan = drawn_plans.Plan.random(np.random.default_rng(4))
    light = drawn_plans.draw(plan, styles.STYLES[0])
    dark = Image.fromarray(255 - np.asarray(light))
    assert _overlap(geometry.inked(light), geometry.inked(dark)) > 0.95
    assert not geometry.of(Image.new("RGB", (80, 60), "white")).walls.any()


def test_a_blank_sheet_does_not_stop_anything() -> None:
    random = np.random.default_rng(1)
    for _ in range(10):
        office = plans.Office.random(random)
        assert plans.redrawn(Image.new("RGB", (90, 60), "white"), random, office).size
        assert plans.rescanned(Image.new("RGB", (90, 60), "black"), random, office).size


def test_copies_differ_between_offices_and_agree_within_a_seed() -> None:
    plan = drawn_plans.draw(drawn_plans.Plan.random(np.random.default_rng(4)), styles.STYLES[0])
    for make in (plans.rescanned, plans.redrawn):
        made = []
        for seed in (1, 1, 2):
            random = np.random.default_rng(seed)
            made.append(make(plan, random, plans.Office.random(random)))
        assert made[0].tobytes() == made[1].tobytes()
        assert made[0].size != made[2].size or made[0].tobytes() != made[2].tobytes()
