"""Masks: arrays, pictures, run lengths, bad ones."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from patchioner.base.errors import RegionError
from patchioner.geometry import fit_image
from patchioner.regions import Mask, decode_rle, encode_rle

GEOMETRY = fit_image((40, 20), mode="stretch", size=32, patch_size=8)


ARRAY = np.zeros((20, 40), dtype=bool)
ARRAY[5:10, 10:20] = True


def test_a_mask_takes_bools_integers_and_clean_floats() -> None:
    for other in (ARRAY.astype(np.uint8) * 255, ARRAY.astype(np.float32), ARRAY.tolist()):
        assert Mask(other) == Mask(ARRAY)
    assert Mask(ARRAY) != Mask(~ARRAY)
    assert len({Mask(ARRAY), Mask(ARRAY.copy())}) == 1
    assert (Mask(ARRAY).bounds, Mask(ARRAY).image_size) == ((10, 5, 20, 10), (40, 20))


def test_a_mask_is_a_copy_that_cannot_change() -> None:
    array = ARRAY.copy()
    mask = Mask(array)
    array[:] = True
    assert pickle.loads(pickle.dumps(mask)) == mask == Mask(ARRAY)
    with pytest.raises(ValueError, match="read-only"):
        mask.array[0, 0] = True


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((20, 40), dtype=bool), "40x20 mask is empty"),
        (np.ones((2, 20, 40), dtype=bool), r"\(2, 20, 40\)"),
        (np.ones(5, dtype=bool), r"\(5,\)"),
        (np.ones((0, 5), dtype=bool), r"\(0, 5\)"),
        (np.full((2, 2), 0.5), "threshold"),
        (np.full((2, 2), np.nan), "threshold"),
        (np.array([["a"]]), "yes or no"),
        ([[1, 0], [1]], "ragged"),
    ],
)
def test_what_is_no_mask_is_refused(array: object, text: str) -> None:
    with pytest.raises(RegionError, match=text):
        Mask(array)


def test_a_mask_of_another_size_or_cut_away_is_refused() -> None:
    with pytest.raises(RegionError, match="mask is 20x40 but the image is 40x20"):
        Mask(ARRAY.T).patch_weights(GEOMETRY)
    cropped = fit_image((40, 20), mode="crop", size=32, patch_size=8)
    left = np.zeros((20, 40), dtype=bool)
    left[:, :5] = True
    with pytest.raises(RegionError, match=r"Mask\(40x20, 100 pixels\).*x 10 to 30"):
        Mask(left).patch_weights(cropped)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_pictures_of_any_mode_are_read(mode: str, tmp_path: Path) -> None:
    white = Image.fromarray(ARRAY.astype(np.uint8) * 255)
    if mode == "I;16":
        picture = Image.fromarray(ARRAY.astype(np.uint16) * 4000)
    elif mode == "P":
        picture = Image.fromarray(ARRAY.astype(np.uint8), mode="L").convert("P")
    else:
        picture = white.convert(mode)
    picture.save(tmp_path / "mask.png")
    assert Mask.from_file(tmp_path / "mask.png") == Mask(ARRAY)


def test_unreadable_pictures_are_named(tmp_path: Path) -> None:
    Image.fromarray(ARRAY.astype(np.uint8)).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("L", (4, 4)).save(tmp_path / "black.png")
    for name in ("cut", "empty", "black", "missing"):
        with pytest.raises(RegionError, match=f"{name}.png"):
            Mask.from_file(tmp_path / f"{name}.png")


small_masks = arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@settings(max_examples=60, deadline=None)
@given(small_masks)
def test_run_lengths_come_back_and_agree_with_the_coco_tools(array: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_rle(encode_rle(array)), array)
    coco_mask = pytest.importorskip("pycocotools.mask", reason="the COCO tools are the judge")
    rle = coco_mask.encode(np.asfortranarray(array.astype(np.uint8)))
    np.testing.assert_array_equal(decode_rle(rle), array)
    rle["counts"] = rle["counts"].decode("ascii")
    np.testing.assert_array_equal(decode_rle(rle), array)


@pytest.mark.parametrize(
    ("rle", "text"),
    [
        ({"size": [4, 4], "counts": [3, 3]}, "sum to 6"),
        ({"size": [4, 4], "counts": [8, 16]}, "sum to 24"),
        ({"size": [4, 4], "counts": [-8, 24]}, "non-negative"),
        ({"size": [4, 4], "counts": [1.5, 14.5]}, "non-negative"),
        ({"size": [4, 4], "counts": [2**62, 2**62, 2**62, 2**62, 16]}, "sum to"),
        ({"size": [4, 4], "counts": []}, "non-negative|sum to 0"),
        ({"size": [4, 4], "counts": ""}, "non-negative|sum to 0"),
        ({"size": [4, 4], "counts": "0000"}, "sum to 0"),
        ({"size": [4, 4], "counts": "~~~"}, "alphabet"),
        ({"size": [4, 4], "counts": "oooooooooooooooooo"}, "alphabet"),
        ({"size": [4, 4], "counts": "éé"}, "alphabet|sum"),
        ({"size": [4, 4], "counts": "o"}, "middle of a number"),
        ({"size": [4], "counts": [16]}, "two positive integers"),
        ({"size": [4, -4], "counts": [16]}, "two positive integers"),
        ({"size": [4.0, 4], "counts": [16]}, "two positive integers"),
        ({"size": "44", "counts": [16]}, "give a list"),
        ({"size": [10**9, 10**9], "counts": [10**18]}, "over"),
        ({"size": [4, 4], "counts": [16]}, "empty"),
        ({"counts": [16]}, "no RLE"),
        ([1, 2], "no RLE"),
    ],
)
def test_broken_run_lengths_are_refused(rle: object, text: str) -> None:
    with pytest.raises(RegionError, match=text):
        Mask.from_rle(rle)  # type: ignore[arg-type]
