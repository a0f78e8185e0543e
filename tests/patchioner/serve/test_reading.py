import base64
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from patchioner import Box, Mask, Point, WholeImage
from patchioner.base.errors import RegionError
from patchioner.serve import ServeSettings, schemas
from patchioner.serve.schemas import RequestError, named_photo, open_photo, region_list
from tests.patchioner.serve.conftest import cases
from tests.support import MonkeyPatch
from tests.support.server import picture_bytes

SETTINGS = ServeSettings(max_pixels=10_000, max_regions=40)
SMALL = Image.new("RGB", (40, 30))
CORNER = Mask(np.pad(np.ones((2, 3), dtype=bool), ((0, 28), (0, 37))))


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
    with pytest.raises(RequestError, match="^((?!Pillow|0x).)*$") as refused:
        open_photo(data, SETTINGS)
    assert refused.value.kind == kind


def test_photos_come_in_every_base64() -> None:
    for text in ("++//", "--__", "data:image/png;charset=utf-8;base64,++//", "DATA:;base64,%2B%2b%2F/"):
        assert schemas.photo_bytes(text) == base64.b64decode("++//")


def test_of_an_animation_the_first_frame_is_taken() -> None:
    stream = io.BytesIO()
    Image.new("RGB", SMALL.size, "red").save(stream, "GIF", save_all=True, append_images=[SMALL])
    assert open_photo(stream.getvalue(), SETTINGS).getpixel((5, 5)) == (255, 0, 0)


def test_named_photos_stay_inside_the_root(tmp_path: Path) -> None:
    outside, root = tmp_path / "b.png", tmp_path / "root"
    root.mkdir()
    for path in (outside, root / "a.png"):
        path.write_bytes(b"photo")
    (root / "long.png").write_bytes(b"too long")
    (root / "link.png").symlink_to(outside)
    settings = ServeSettings(root=root, max_bytes=6)
    assert named_photo("a.png", settings) == b"photo"
    names = ("../b.png", str(outside), "link.png", "c.png", ".", "a\0.png", "x" * 999, "long.png")
    for name in names:
        with pytest.raises(RequestError) as refused:
            named_photo(name, settings)
        assert refused.value.kind == ("too_large" if name == "long.png" else "bad_image")


def test_regions_of_every_form_beside_what_is_none() -> None:
    rle, wrong = CORNER.to_json(), cases("bad_regions")
    good: list[object] = [
        {"box": [1, 2, 13, 14], "label": "x", "id": 7}, {"point": [3, 4]}, {"whole": True}, rle,
        {"format": "coco", "bbox": [1, 2, 12, 12]}, {"format": "rle", **rle["mask"]},
    ]  # fmt: skip
    bad = [{1: 2}, {"trace": [[1, 2]] * 60_000}, *wrong]
    found = region_list([*good, *bad], SMALL.size, SETTINGS)
    box = Box(1, 2, 13, 14)
    assert found[: len(good)] == [box, Point(3, 4), WholeImage(), CORNER, box, CORNER]
    assert [type(one) for one in found[len(good) :]] == [RegionError] * len(bad)


def test_their_number_is_bounded(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(schemas, "_MOST_MASK_PIXELS", 2 * 40 * 30)
    mask = CORNER.to_json()
    assert len(region_list([mask] * 2, SMALL.size, SETTINGS)) == 2
    for entries in ([], [{"whole": True}] * 41, [mask] * 3):
        with pytest.raises(RequestError) as refused:
            region_list(entries, SMALL.size, SETTINGS)
        assert refused.value.kind == ("too_large" if entries else "bad_request")
