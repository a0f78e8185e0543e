from __future__ import annotations

import base64
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from patchioner import Box, Mask, Point, WholeImage
from patchioner.base.errors import RegionError
from patchioner.serve.reading import (
    RequestError,
    named_photo,
    open_photo,
    photo_bytes,
    region_list,
)
from patchioner.serve.settings import ServeSettings
from tests.support.server import picture_bytes

SETTINGS = ServeSettings(max_pixels=10_000, max_regions=3)
SIZE = (40, 30)
SMALL = Image.new("RGB", SIZE)
CORNER = np.zeros((30, 40), dtype=bool)
CORNER[:2, :3] = True


def refusal(read: Any, *given: Any) -> str:
    with pytest.raises(RequestError) as refused:
        read(*given)
    assert "Pillow" not in str(refused.value) and "0x" not in str(refused.value)
    return refused.value.kind


def test_photos_come_as_base64_or_data_urls_and_nothing_is_fetched() -> None:
    text = base64.b64encode(b"photo").decode()
    for head in (
        "",
        "data:image/png;base64,",
        "DATA:;base64,",
        "data:image/png;charset=utf-8;base64,",
    ):
        assert photo_bytes(head + text) == b"photo"
    for spelled in ("--__", "data:;base64,%2B%2b%2F/"):
        assert photo_bytes(spelled) == base64.b64decode("++//")
    links = ("http://a.b/c.jpg", "file:///etc/passwd", "/etc/passwd", "data:image/png", "a$b=")
    assert {refusal(photo_bytes, link) for link in links} == {"bad_image"}


def scans() -> bytes:
    """A small JPEG whose last scan is repeated: its decoder goes over all pixels for each."""
    stream = io.BytesIO()
    SMALL.save(stream, "JPEG", progressive=True)
    head, _, last = stream.getvalue()[:-2].rpartition(b"\xff\xda")
    return head + (b"\xff\xda" + last) * 200 + b"\xff\xd9"


def tiles() -> bytes:
    """A small TIFF whose tiles are said to be huge: its decoder makes room for one."""
    stream = io.BytesIO()
    spare = TiffImagePlugin.ImageFileDirectory_v2()
    for tag in (65_010, 65_011):  # Pillow writes no tiles
        spare[tag], spare.tagtype[tag] = 30_000, 4
    SMALL.save(stream, "TIFF", tiffinfo=spare)
    data = stream.getvalue()
    for tag, tile in ((65_010, 322), (65_011, 323)):
        data = data.replace(struct.pack("<HH", tag, 4), struct.pack("<HH", tile, 4))
    return data


@pytest.mark.parametrize(("data", "kind"), [
    (b"", "bad_image"), (b"no picture", "bad_image"), (picture_bytes(SMALL)[:60], "bad_image"),
    (picture_bytes(SMALL, "JPEG")[:-300], "bad_image"), (picture_bytes(SMALL, "EPS"), "bad_image"),
    (picture_bytes(Image.new("1", (20_000, 20_000)), "PNG"), "too_large"),
    (picture_bytes(Image.new("1", (101, 100)), "PNG"), "too_large"), (scans(), "too_large"), (tiles(), "too_large"),
], ids=["empty", "text", "header", "truncated", "program", "bomb", "large", "scans", "tiles"])  # fmt: skip
def test_bad_photos_are_named_in_our_words(data: bytes, kind: str) -> None:
    assert refusal(open_photo, data, SETTINGS) == kind


def test_of_an_animation_the_first_frame_is_taken() -> None:
    first, second = (Image.new("RGB", SIZE, colour) for colour in ("red", "blue"))
    stream = io.BytesIO()
    first.save(stream, "GIF", save_all=True, append_images=[second])
    assert open_photo(stream.getvalue(), SETTINGS).getpixel((5, 5)) == (255, 0, 0)


def test_named_photos_stay_inside_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.png").write_bytes(b"inside")
    (tmp_path / "b.png").write_bytes(b"outside")
    (root / "link.png").symlink_to(tmp_path / "b.png")
    settings = ServeSettings(root=root, max_bytes=6)
    assert named_photo("a.png", settings) == b"inside"
    outside = ("../b.png", str(tmp_path / "b.png"), "link.png", "c.png", ".", "a\0.png", "x" * 999)
    assert {refusal(named_photo, name, settings) for name in outside} == {"bad_image"}
    (root / "a.png").write_bytes(b"too long")
    assert refusal(named_photo, "a.png", settings) == "too_large"
    assert refusal(named_photo, "a.png", SETTINGS) == "bad_image"


@pytest.mark.parametrize(("entry", "region"), [
    ({"box": [1, 2, 13, 14], "label": "x", "id": 7}, Box(1, 2, 13, 14)),
    ({"point": [3, 4]}, Point(3, 4)),
    ({"format": "coco", "bbox": [1, 2, 12, 12]}, Box(1, 2, 13, 14)),
    ({"format": "rle", **Mask(CORNER).to_json()["mask"]}, Mask(CORNER)),
    (Mask(CORNER).to_json(), Mask(CORNER)),
])  # fmt: skip
def test_regions_of_every_form(entry: Any, region: object) -> None:
    assert region_list([entry], SIZE, SETTINGS) == [region]


@pytest.mark.parametrize("entry", [
    {}, {1: 2}, {"box": [1, 2, 3]}, {"box": "1,2,3,4"}, {"box": [1, 2, float("nan"), 4]},
    {"mask": "a.png"}, {"mask": {"size": [100_000, 100_000], "counts": [10**10]}},
    {"format": "rle", "size": [3, 3], "counts": [9]}, {"format": "rle", "size": 5, "counts": [9]},
    {"format": "coco", "segmentation": {"size": [30, 40], "counts": "\ud800"}}, {"format": "yolo"},
    {"trace": [[1, 2]] * 60_000}, {"polygon": {}},
    {"set": [{"set": [{"set": [{"set": [{"set": [{"set": [{"box": [1, 2, 3, 4]}]}]}]}]}]}]},
])  # fmt: skip
def test_bad_regions_are_errors_of_their_own(entry: Any) -> None:
    whole, error = region_list([{"whole": True}, entry], SIZE, SETTINGS)
    assert whole == WholeImage() and isinstance(error, RegionError)


def test_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchioner.serve.reading._MOST_MASK_PIXELS", 2 * 40 * 30)
    assert len(region_list([Mask(CORNER).to_json()] * 2, SIZE, SETTINGS)) == 2
    assert refusal(region_list, [], SIZE, SETTINGS) == "bad_request"
    assert refusal(region_list, [{"whole": True}] * 4, SIZE, SETTINGS) == "too_large"
    assert refusal(region_list, [Mask(CORNER).to_json()] * 3, SIZE, SETTINGS) == "too_large"
