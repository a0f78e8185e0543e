"""Paths, folders, samples."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from patchioner.base.errors import ImageError, UnknownNameError
from patchioner.cli.photos import SAMPLES, PhotoSource, find_photos


def test_a_folder_stands_for_its_pictures_by_name(photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("b.png", "a.PNG", "c.jpeg"):
        shutil.copy(photo, folder / name)
    (folder / "notes.txt").write_text("no picture")
    (folder / "d.png").mkdir()
    names = [source.file_name for source in find_photos([str(folder), str(photo)])]
    assert names == ["a.PNG", "b.png", "c.jpeg", "photo.png"]


def test_an_empty_folder_is_an_error_and_a_missing_photo_is_kept(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no pictures"):
        find_photos([str(tmp_path / "empty")])
    (missing,) = find_photos([str(tmp_path / "missing.png")])
    with pytest.raises(ImageError, match="no photo"):
        missing.load()


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_come_with_scikit_image(name: str) -> None:
    pytest.importorskip("skimage")
    (source,) = find_photos([f"scikit-image:{name}"])
    image = source.load()
    assert image.mode == "RGB" and min(image.size) >= 300
    assert (source.file_name, source.stem) == (f"{name}.png", name)


def test_other_samples_are_refused_with_the_close_ones() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'coffee'"):
        PhotoSource("scikit-image:cofee").load()
