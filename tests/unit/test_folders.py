from __future__ import annotations

import pathlib

import pytest
from PIL import Image

from core import errors
from workers import folders, report


@pytest.fixture
def photos(tmp_path: pathlib.Path) -> pathlib.Path:
    for name in (
        "house-1/01.jpg",
        "house-1/attic/02.PNG",
        "house-1/.hidden.jpg",
        "house-2/a b+é.webp",
        "loose.gif",
    ):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), "teal").save(path)
    (tmp_path / "photos" / "notes.csv").write_text("not a photo")
    return tmp_path / "photos"


def test_a_sub_folder_is_a_property(photos: pathlib.Path) -> None:
    found = {(item.property_id, item.name) for item in folders.find(photos)}
    assert found == {
        ("house-1", "01.jpg"),
        ("house-1", "attic/02.PNG"),
        ("house-2", "a b+é.webp"),
        ("photos", "loose.gif"),
    }


def test_two_files_of_one_key_are_refused(tmp_path: pathlib.Path) -> None:
    for name in ("photos/a.jpg", "photos/photos/a.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    with pytest.raises(errors.ConfigurationError, match="rename one"):
        folders.find(tmp_path / "photos")


def test_names_come_back_out_of_keys(photos: pathlib.Path) -> None:
    for item in folders.find(photos):
        assert folders.photo_name(item.key) == item.name


def test_no_pictures_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.ConfigurationError, match="No pictures"):
        folders.find(tmp_path)
    with pytest.raises(errors.ConfigurationError, match="not a folder"):
        folders.find(tmp_path / "missing")


def test_the_sheet_shows_every_group_once(photos: pathlib.Path, tmp_path: pathlib.Path) -> None:
    uploads = folders.find(photos)
    flags = [report.Flag("house-1", "attic/02.PNG", "01.jpg", 0.97)]
    sheet = tmp_path / "sheet.html"
    report.sheet(sheet, "A <title>", flags, uploads)
    page = sheet.read_text(encoding="utf-8")
    assert page.count("<section>") == 1
    assert page.count("data:image/jpeg;base64,") == 2
    assert "score 0.97" in page
    assert "A &lt;title&gt;" in page
