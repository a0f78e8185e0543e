"""JPEGs decoded at reduced scale: less to hold, the original's coordinates, the same picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patchioner.backbones import preprocess
from patchioner.base.errors import ImageError
from patchioner.geometry import Fit, Preprocessing
from patchioner.images import load_image
from patchioner.reduced_photos import ReducedPhoto, load_reduced
from tests.support.tiny import noise_photo, tiny_backbone

ROTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def jpeg(path: Path, size: tuple[int, int], orientation: int = 1) -> Path:
    """A photo of a corner to corner gradient and some structure; no symmetry hides a wrong rotation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise_photo(*size, seed=3).save(path, quality=95, exif=exif)
    return path


def fixed(size: tuple[int, int]) -> tuple[int, int]:
    """Whatever the photo: 100 pixels across the longer side."""
    return (100, 75) if size[0] >= size[1] else (75, 100)


@pytest.mark.parametrize(
    ("size", "reduced"),
    [((1600, 1200), (200, 150)), ((900, 700), (225, 175)), ((401, 303), (201, 152))],
)
def test_the_smallest_scale_that_has_twice_what_is_needed(
    tmp_path: Path, size: tuple[int, int], reduced: tuple[int, int]
) -> None:
    photo = load_reduced(jpeg(tmp_path / "a.jpg", size), fixed)
    assert isinstance(photo, ReducedPhoto)
    assert photo.image.size == reduced
    assert photo.image.mode == "RGB"
    assert photo.size == size


@pytest.mark.parametrize("margin", [1.0, 2.0, 4.0])
def test_the_margin_is_kept(tmp_path: Path, margin: float) -> None:
    photo = load_reduced(jpeg(tmp_path / "a.jpg", (1000, 800)), fixed, margin=margin)
    shown = photo.image.size if isinstance(photo, ReducedPhoto) else photo.size
    assert shown[0] >= 100 * margin and shown[1] >= 75 * margin


def test_what_is_small_enough_or_no_jpeg_is_read_as_ever(tmp_path: Path) -> None:
    small = jpeg(tmp_path / "small.jpg", (390, 290))
    photo = load_reduced(small, fixed)
    assert isinstance(photo, Image.Image)
    assert photo.tobytes() == load_image(small).tobytes()
    noise_photo(1600, 1200).save(tmp_path / "large.png")
    for source in (
        str(tmp_path / "large.png"),
        noise_photo(1600, 1200),
        np.zeros((900, 900, 3), np.uint8),
    ):
        assert isinstance(load_reduced(source, fixed), Image.Image)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(803, 605), (1601, 1203)])
def test_rotations_and_odd_sizes_show_the_same_picture(
    tmp_path: Path, orientation: int, size: tuple[int, int]
) -> None:
    path = jpeg(tmp_path / "a.jpg", size, orientation)
    photo, whole = load_reduced(path, fixed), load_image(path)
    assert isinstance(photo, ReducedPhoto)
    assert photo.size == whole.size == (size if orientation < 5 else size[::-1])
    settings = Preprocessing("aspect", 64, 16)
    (mine, geometry), (full, expected) = (preprocess(p, settings) for p in (photo, whole))
    assert geometry == expected
    error = float((mine - full).abs().mean())
    assert error < 0.02
    # The box matters: without it, the same photo is off by part of a pixel.
    without = ReducedPhoto(photo.image, photo.size, (0.0, 0.0, *map(float, photo.image.size)))
    assert error <= float((preprocess(without, settings)[0] - full).abs().mean()) + 1e-3


def test_the_box_lies_where_the_rotation_puts_it(tmp_path: Path) -> None:
    """803 x 605 at a quarter is 201 x 152, of which 200.75 x 151.25 are picture."""
    for orientation, transposition in ROTATIONS.items():
        photo = load_reduced(jpeg(tmp_path / "a.jpg", (803, 605), orientation), fixed)
        assert isinstance(photo, ReducedPhoto)
        marks = Image.new("L", (201 * 4, 152 * 4))
        marks.paste(255, (0, 0, 803, 605))
        expected = marks.transpose(transposition).getbbox()
        assert expected is not None
        assert photo.box == tuple(value / 4 for value in expected)


@pytest.mark.parametrize("mode", ["stretch", "crop", "pad", "aspect"])
def test_features_are_close_to_those_of_the_whole_photo(tmp_path: Path, mode: Fit) -> None:
    model = tiny_backbone(mode=mode)
    path = jpeg(tmp_path / "a.jpg", (811, 617), 6)
    photo = load_reduced(path, model.needed_size)
    assert isinstance(photo, ReducedPhoto)
    mine, full = (model.encode([p])[0] for p in (photo, load_image(path)))
    assert mine.geometry == full.geometry
    assert mine.geometry.image_size == (617, 811)
    assert float(torch.cosine_similarity(mine.tokens, full.tokens, dim=2).min()) > 0.99


def test_limits_and_damage_are_as_for_whole_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = jpeg(tmp_path / "a.jpg", (1600, 1200))
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ImageError, match="truncated"):
        load_reduced(cut, fixed)
    with pytest.raises(ImageError, match="no photo at"):
        load_reduced(tmp_path / "absent.jpg", fixed)
    monkeypatch.setattr("patchioner.images.MAX_PIXELS", 1_000_000)
    with pytest.raises(ImageError, match="1600 x 1200"):
        load_reduced(path, fixed)


def test_grey_and_cmyk_jpegs(tmp_path: Path) -> None:
    for mode in ("L", "CMYK"):
        noise_photo(1600, 1200).convert(mode).save(tmp_path / "a.jpg")
        photo = load_reduced(tmp_path / "a.jpg", fixed)
        assert isinstance(photo, ReducedPhoto)
        assert photo.image.mode == "RGB"
