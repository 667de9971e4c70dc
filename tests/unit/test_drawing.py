"""The drawn properties are the ground truth of the demo and of training: they must be what they say they are."""

from __future__ import annotations

import io
import itertools

import numpy
import numpy.typing
import pytest
from PIL import Image

from core.drawing import cameras, exteriors, overlays, plans, properties, rooms, styles

Drawn = tuple[list[properties.DrawnPhoto], list[properties.KnownPair]]


@pytest.fixture(scope="module")
def drawn() -> list[Drawn]:
    return list(properties.draw_properties(2, seed=3))


def thumbnail(image: Image.Image) -> numpy.typing.NDArray[numpy.float32]:
    """(16, 16, 3) in [0, 255]: what is left of a picture when its detail is gone."""
    return numpy.asarray(image.resize((16, 16), Image.Resampling.BOX), dtype=numpy.float32)


def difference(a: Image.Image, b: Image.Image) -> float:
    """Mean absolute difference of two thumbnails."""
    return float(numpy.abs(thumbnail(a) - thumbnail(b)).mean())


def small_view(room: rooms.Room, camera: cameras.Camera) -> Image.Image:
    return room.view(camera, 160, 120)


def opened(photo: properties.DrawnPhoto) -> Image.Image:
    with Image.open(io.BytesIO(photo.jpeg)) as image:
        return image.convert("RGB")


def test_same_seed_gives_same_bytes(drawn: list[Drawn]) -> None:
    assert properties.draw_property("demo-001", 3) == drawn[0]


def test_properties_share_no_photo(drawn: list[Drawn]) -> None:
    first, second = ({photo.jpeg for photo in photos} for photos, _ in drawn)
    assert not first & second


def test_names_are_unique_and_ordered(drawn: list[Drawn]) -> None:
    for photos, _ in drawn:
        assert [photo.name for photo in photos] == [f"{k:02d}.jpg" for k in range(1, len(photos) + 1)]
        assert 8 <= len(photos) <= 11
        assert len({photo.property_id for photo in photos}) == 1


def test_every_photo_decodes_at_its_size(drawn: list[Drawn]) -> None:
    for photos, _ in drawn:
        for photo in photos:
            with Image.open(io.BytesIO(photo.jpeg)) as image:
                image.load()
                assert (image.format, image.mode) == ("JPEG", "RGB")
                assert image.size == (photo.width, photo.height)
                assert min(image.size) >= 350


def test_each_property_has_every_kind_of_duplicate(drawn: list[Drawn]) -> None:
    for _, pairs in drawn:
        assert {pair.kind for pair in pairs} == {"overlay", "angle", "plan"}


def test_pairs_are_exactly_the_photos_of_one_subject(drawn: list[Drawn]) -> None:
    for photos, pairs in drawn:
        subjects = {photo.name: photo.subject for photo in photos}
        same = [(a, b) for a, b in itertools.combinations(subjects, 2) if subjects[a] == subjects[b]]
        assert sorted((pair.a, pair.b) for pair in pairs) == sorted(same)
        assert all((subjects[pair.a] == "plan") == (pair.kind == "plan") for pair in pairs)
        assert {pair.property_id for pair in pairs} == {photos[0].property_id}


def test_each_property_has_photos_without_duplicate(drawn: list[Drawn]) -> None:
    for photos, pairs in drawn:
        paired = {name for pair in pairs for name in (pair.a, pair.b)}
        assert {photo.name for photo in photos} - paired


def test_no_two_photos_of_a_pair_are_the_same_file(drawn: list[Drawn]) -> None:
    for photos, pairs in drawn:
        by_name = {photo.name: photo for photo in photos}
        for pair in pairs:
            assert difference(opened(by_name[pair.a]), opened(by_name[pair.b])) > 0.5


@pytest.mark.parametrize("kind", rooms.KINDS)
def test_rooms_are_detailed_and_repeatable(kind: str) -> None:
    views = []
    for _ in range(2):
        rng = numpy.random.default_rng(5)
        room = rooms.Room.random(rng, kind)
        views.append(numpy.asarray(small_view(room, room.camera(rng))))
    assert (views[0] == views[1]).all()
    assert views[0].std() > 15
    assert 50 < views[0].mean() < 235


def test_different_rooms_of_a_kind_differ() -> None:
    views = []
    for seed in range(6):
        rng = numpy.random.default_rng(seed)
        room = rooms.Room.random(rng, "bedroom")
        views.append(small_view(room, room.camera(rng)))
    assert min(difference(a, b) for a, b in itertools.combinations(views, 2)) > 12


def test_other_angle_turns_and_moves_the_camera() -> None:
    for seed in range(4):
        rng = numpy.random.default_rng(seed)
        room = rooms.Room.random(rng)
        camera = room.camera(rng)
        other = room.other_angle(rng, camera)
        assert 15 <= abs(other.heading - camera.heading) <= 40
        assert other.position != camera.position
        assert all(0 < at < size for at, size in zip(other.position, room.size, strict=True))
        assert difference(small_view(room, camera), small_view(room, other)) > 5


def test_ray_along_a_wall_leaves_no_hole() -> None:
    room = rooms.Room.random(numpy.random.default_rng(0), "bathroom")
    camera = cameras.Camera((room.size[0] / 2, 0.3, 1.5), heading=0.0, pitch=0.0)
    # 101 pixels are cast as 121 rays across: the middle one runs exactly north.
    pixels = numpy.asarray(room.view(camera, 101, 75), dtype=float)
    assert numpy.abs(pixels[:, 50] - pixels[:, 49]).mean() < 20


def test_angle_pair_is_no_crop() -> None:
    rng = numpy.random.default_rng(1)
    room = rooms.Room.random(rng, "living")
    camera = room.camera(rng)
    first, second = (
        numpy.asarray(small_view(room, c).convert("L"), dtype=numpy.float32)
        for c in (camera, room.other_angle(rng, camera))
    )
    block = first[40:88, 56:104]
    windows = numpy.lib.stride_tricks.sliding_window_view(second, block.shape)[::2, ::2]
    assert numpy.abs(windows - block).mean(axis=(2, 3)).min() > 4


def test_overlays_keep_the_picture_recognisable() -> None:
    rng = numpy.random.default_rng(2)
    room = rooms.Room.random(rng, "kitchen")
    image = small_view(room, room.camera(rng))
    for agency in (*overlays.AGENCIES, overlays.Agency.random(rng)):
        marked = overlays.mark(image, agency, rng)
        assert marked.size == image.size
        gap = numpy.abs(numpy.asarray(marked, dtype=int) - numpy.asarray(image, dtype=int))
        assert 0.005 < (gap.max(axis=2) > 8).mean() < 0.6


def test_edit_crops_at_most_an_eighth() -> None:
    rng = numpy.random.default_rng(4)
    image = Image.fromarray(rng.integers(0, 255, (120, 160, 3), dtype=numpy.uint8))
    for _ in range(10):
        edited = overlays.edit(image, rng)
        assert edited.mode == "RGB"
        assert 0.85 < (edited.width / edited.height) / (image.width / image.height) < 1.18
        assert edited.tobytes() != image.tobytes()


def test_plan_tiles_the_home_without_gaps() -> None:
    for seed in range(40):
        plan = plans.Plan.random(numpy.random.default_rng(seed))
        area = sum((right - left) * (bottom - top) for _, (left, top, right, bottom) in plan.rooms)
        assert area == pytest.approx(plan.size[0] * plan.size[1])
        assert len({name for name, _ in plan.rooms}) == len(plan.rooms)
        assert len(plan.doors) >= 2
        assert plan.windows


def test_each_style_draws_the_plan_differently() -> None:
    rng = numpy.random.default_rng(0)
    plan = plans.Plan.random(rng)
    offices = (*styles.STYLES, styles.Style.random(rng))
    sheets = [plans.draw(plan, style, 320, 240) for style in offices]
    assert {sheet.size for sheet in sheets} == {(320, 240)}
    assert len({sheet.tobytes() for sheet in sheets}) == len(offices)
    assert all(numpy.asarray(sheet.convert("L")).std() > 10 for sheet in sheets)


def test_rescan_yellows_the_paper_and_is_seeded() -> None:
    sheet = plans.draw(plans.Plan.random(numpy.random.default_rng(0)), styles.STYLES[0], 320, 240)
    first, second = (plans.rescan(sheet, numpy.random.default_rng(9)) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert first.size == sheet.size
    paper = numpy.asarray(first, dtype=float)[:20].mean(axis=(0, 1))
    assert paper[2] < paper[0] < 255


def test_exterior_shows_sky_above_ground() -> None:
    rng = numpy.random.default_rng(6)
    house = exteriors.Exterior.random(rng)
    pixels = numpy.asarray(house.view(house.camera(rng), 160, 120), dtype=float)
    assert pixels[:12].mean() > pixels[-12:].mean() + 20
