"""Photos: opened once, drawn upon in their own pixels, and forgiven when they are missing."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.report.photos import LONG_SIDE, Gallery, drawing

SIZE = (400, 200)
RLE = {"size": [2, 3], "counts": [2, 2, 2]}


def draw(page: Any, region: dict[str, Any]) -> Any:
    return page("<svg>" + "".join(drawing(region, SIZE, "#photo-1", "region-1")) + "</svg>")


def test_a_box_is_cut_out_of_a_darker_photo(page: Any) -> None:
    found = draw(page, {"box": [10.0, 20.5, 110.0, 70.5]})
    boxes = [a for a in found.all("rect") if a.get("class") != "shade"]
    assert len(boxes) == 3, "what is cut out, a black line and a yellow one"
    assert all((a["x"], a["y"], a["width"], a["height"]) == ("10", "20.5", "100", "50") for a in boxes)  # fmt: skip
    assert [a.get("clip-path") for a in found.all("use")] == [None, "url(#region-1)"]
    assert {a.get("class") for a in found.all("rect")} == {"shade", "casing", "edge", None}


def test_boxes_of_a_set_are_cut_out_together(page: Any) -> None:
    found = draw(page, {"set": [{"box": [0, 0, 9, 9]}, {"polygon": [[1, 1], [5, 1], [5, 5]]}]})
    inside = [tag for tag, _, above in found.elements if "clippath" in above]
    assert inside == ["rect", "path"]
    assert len(found.all("clippath")) == 1


def test_a_trace_is_drawn_from_start_to_end(page: Any) -> None:
    found = draw(page, {"trace": [[0.1, 0.5], [0.25, 0.5], [1, 1]], "normalized": True})
    assert [a["points"] for a in found.all("polyline")] == ["40,100 100,100 400,200"] * 2
    circles = [(a["cx"], a["cy"], a["class"]) for a in found.all("circle")]
    assert circles == [
        ("40", "100", "casing"), ("40", "100", "edge"), ("400", "200", "end"),
    ]  # fmt: skip
    assert len(draw(page, {"trace": [[5, 5]]}).all("circle")) == 1
    assert len(draw(page, {"point": [5, 5]}).all("circle")) == 1


def test_a_mask_is_a_picture_of_its_own(page: Any) -> None:
    found = draw(page, {"mask": RLE})
    (attributes,) = found.all("image")
    data = base64.b64decode(str(attributes["href"]).partition(",")[2])
    alpha = np.asarray(Image.open(io.BytesIO(data)))[..., 3]
    # Column by column: two pixels out, two in, two out; the two inside are all edge.
    assert (alpha == 255).tolist() == [[False, True, False], [False, True, False]]
    assert (attributes["width"], attributes["height"]) == ("400", "200")


@pytest.mark.parametrize("region", [{"whole": True}, {"mask": "file.png"}, {"star": 1}])
def test_what_cannot_be_drawn_leaves_the_photo(region: dict[str, Any], page: Any) -> None:
    assert [tag for tag, _, _ in draw(page, region).elements] == ["svg", "use"]


def test_photos_are_small_upright_and_stored_once(tmp_path: Path, page: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying
    Image.new("RGB", (1200, 600), "red").save(tmp_path / "a.jpg", exif=exif)
    gallery = Gallery()
    pictures = [gallery.picture(str(tmp_path), "a.jpg", {"whole": True}, w) for w in ("one", "two")]
    assert 'viewBox="0 0 600 1200"' in pictures[0] and "<title>two</title>" in pictures[1]
    found = page(gallery.definitions())
    (attributes,) = found.all("image")
    data = base64.b64decode(str(attributes["href"]).partition(",")[2])
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG" and image.size == (LONG_SIDE // 2, LONG_SIDE)


def test_a_missing_photo_is_a_note(tmp_path: Path) -> None:
    gallery = Gallery()
    assert "photo not shown, no such file" in gallery.picture(str(tmp_path), "b.jpg", {}, "b")
    assert gallery.missing == {"b.jpg": "no such file"}
    assert "<image" not in gallery.definitions()
