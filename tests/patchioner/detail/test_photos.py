"""Photos at the door: one digest for one photo, one backbone pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patchioner import Patchioner
from patchioner.base.errors import ImageError
from patchioner.detail.photos import open_photo, pixel_digest
from tests.support.tiny import noise_photo, tiny_parts


def test_the_same_pixels_have_the_same_digest_from_any_file(tmp_path: Path) -> None:
    image = noise_photo()
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.bmp")
    photos = [
        open_photo(tmp_path / "a.png"),
        open_photo(str(tmp_path / "b.bmp")),
        open_photo(image),
    ]
    assert len({photo.sha256 for photo in photos}) == 1
    assert [photo.name for photo in photos] == [
        str(tmp_path / "a.png"),
        str(tmp_path / "b.bmp"),
        "photo",
    ]


def test_size_is_part_of_the_digest() -> None:
    flat = np.zeros((4, 9, 3), np.uint8)
    assert pixel_digest(Image.fromarray(flat)) != pixel_digest(
        Image.fromarray(flat.reshape(9, 4, 3))
    )


def test_features_are_those_of_the_model() -> None:
    model = Patchioner(tiny_parts(), device="cpu")
    photo = open_photo(noise_photo(), model, name="noise")
    assert photo.features is not None
    assert torch.equal(photo.features.tokens, model.encode(noise_photo()).tokens)
    assert (photo.name, photo.size) == ("noise", (96, 64))


def test_what_is_no_photo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no photo"):
        open_photo(tmp_path / "none.jpg")
