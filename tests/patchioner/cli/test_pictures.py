"""Where pictures go."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from patchioner.base.errors import OptionError
from patchioner.cli.photos import PhotoSource
from patchioner.cli.pictures import check_picture_name, plan_pictures, save_picture

ONE, TWO, TWIN = (PhotoSource(name) for name in ("a/x.jpg", "y.png", "b/x.png"))


def test_one_photo_one_file_or_a_folder(tmp_path: Path) -> None:
    assert plan_pictures(None, [ONE, TWO]) == [None, None]
    assert plan_pictures(Path("out.png"), [ONE]) == [Path("out.png")]
    assert plan_pictures(Path("out"), [ONE]) == [Path("out/x.overlay.png")]
    (tmp_path / "v1.5").mkdir()
    assert plan_pictures(tmp_path / "v1.5", [ONE]) == [tmp_path / "v1.5" / "x.overlay.png"]


def test_several_photos_of_one_name_do_not_overwrite_each_other() -> None:
    paths = plan_pictures(Path("out"), [ONE, TWO, TWIN])
    assert paths == [Path(f"out/{n}.overlay.png") for n in ("x", "y", "x-2")]


def test_a_name_that_looks_like_a_number_does_not_collide() -> None:
    sources = [PhotoSource("x.jpg"), PhotoSource("x.png"), PhotoSource("x-2.png")]
    assert len(set(plan_pictures(Path("out"), sources))) == 3


def test_several_photos_and_one_file_is_an_error() -> None:
    with pytest.raises(OptionError, match="2 photos: give a folder"):
        plan_pictures(Path("out.png"), [ONE, TWO])


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "folder", "a.webp"])
def test_names_that_can_be_written(name: str, tmp_path: Path) -> None:
    assert check_picture_name(Path(name)) == Path(name)


@pytest.mark.parametrize("name", ["a.txt", "a.gif", "b/a.pdf"])
def test_names_that_cannot(name: str) -> None:
    with pytest.raises(OptionError, match="end its name in"):
        check_picture_name(Path(name))


def test_saving_makes_folders_and_names_what_it_cannot_write(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 4))
    save_picture(picture, tmp_path / "new" / "a.png")
    with Image.open(tmp_path / "new" / "a.png") as saved:
        assert saved.size == (4, 4)
    with pytest.raises(OptionError, match="choose another"):
        save_picture(picture, tmp_path / "new" / "a.png" / "b.png")
