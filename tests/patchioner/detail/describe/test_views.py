from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops

from patchioner.base.errors import OptionError
from patchioner.detail.describe.views import View
from patchioner.detail.values import DetailRegion


def photo(width: int = 200, height: int = 120) -> Image.Image:
    """Every pixel tells where it is."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(
        np.stack([columns % 256, rows % 256, columns // 256], axis=-1).astype(np.uint8)
    )


def region(*box: float, kind: str = "spatial") -> DetailRegion:
    return DetailRegion("r", kind, box)  # type: ignore[arg-type]


def test_a_crop_has_the_pixels_of_the_box_and_no_others() -> None:
    shown = np.asarray(View("crop").of(photo(), region(20, 30, 100, 110)))
    np.testing.assert_array_equal(shown, np.asarray(photo())[30:110, 20:100])


def test_context_adds_a_margin_within_the_photo() -> None:
    shown = np.asarray(View("context", margin=0.25).of(photo(), region(100, 40, 180, 80)))
    np.testing.assert_array_equal(shown, np.asarray(photo())[30:90, 80:200])


@pytest.mark.parametrize("kind", ["crop", "context", "marked"])
def test_the_global_region_is_the_whole_photo_without_a_frame(kind: str) -> None:
    image = photo()
    shown = View(kind).of(image, region(0, 0, 200, 120, kind="global"))  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(photo()))


def test_a_marked_photo_has_a_red_frame_around_the_box_and_is_otherwise_the_same() -> None:
    image = photo()
    shown = View("marked").of(image, region(50, 40, 120, 90))
    assert shown.size == image.size
    np.testing.assert_array_equal(np.asarray(image), np.asarray(photo()))  # the photo is untouched
    changed = ImageChops.difference(shown, image).convert("L").point(lambda v: 255 * (v > 0))
    left, top, right, bottom = changed.getbbox() or (0, 0, 0, 0)
    assert 45 <= left < 50 and 35 <= top < 40 and 120 < right <= 125 and 90 < bottom <= 95
    inside = np.asarray(changed)[41:89, 51:119]
    assert not inside.any()
    pixels = np.asarray(shown).reshape(-1, 3).tolist()
    assert [255, 0, 0] in pixels and [255, 255, 255] in pixels


def test_a_frame_at_the_photos_edge_is_still_seen() -> None:
    shown = np.asarray(View("marked").of(photo(), region(-10, 0, 210, 130)))
    assert (shown[0, 100] == [255, 0, 0]).all() or (shown[1, 100] == [255, 0, 0]).all()
    assert (shown[-1, 100] == [255, 0, 0]).all() or (shown[-2, 100] == [255, 0, 0]).all()


def test_large_pictures_are_brought_down() -> None:
    for kind in ("crop", "context", "marked"):
        shown = View(kind, max_side=64).of(photo(), region(0, 0, 200, 100))
        assert max(shown.size) == 64


coordinate = st.floats(-50, 1050)


@given(
    st.sampled_from(["crop", "context", "marked"]),
    st.tuples(coordinate, coordinate, coordinate, coordinate),
    st.sampled_from([(1000, 20), (3, 3), (1, 400), (200, 120)]),
    st.sampled_from([32, 100, 1024]),
)
def test_any_box_gives_a_picture_that_a_model_can_be_given(
    kind: str, corners: tuple[float, float, float, float], size: tuple[int, int], limit: int
) -> None:
    (left, right), (top, bottom) = sorted(corners[::2]), sorted(corners[1::2])
    shown = View(kind, max_side=limit).of(photo(*size), region(left, top, right, bottom))  # type: ignore[arg-type]
    assert shown.mode == "RGB"
    assert min(shown.size) >= 32
    assert max(shown.size) <= limit
    assert max(shown.size) / min(shown.size) <= 10


@pytest.mark.parametrize(
    "settings", [{"kind": "zoom"}, {"margin": -0.1}, {"margin": float("nan")}, {"max_side": 31}]
)
def test_views_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        View(**settings)  # type: ignore[arg-type]


def test_a_margin_that_is_not_used_tells_nothing_apart() -> None:
    assert View("crop", margin=0.1).as_json() == View("crop", margin=0.3).as_json()
    assert View("context", margin=0.1).as_json() != View("context", margin=0.3).as_json()
