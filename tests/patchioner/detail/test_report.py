import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchioner.detail import Claim, DetailedCaption, DetailRegion, FusedSentence, Photo, Support, Verdict, report
from patchioner.geometry import fit_image
from patchioner.markup import element
from tests.support.pages import Page, embedded
from tests.support.tiny import noise_photo

HOSTILE = "</style><script>alert(1)</script><img src=x onerror=alert(2)> \u202e\x00 & \"'"
MASK = np.zeros((64, 96), dtype=bool)
MASK[10:30, 20:50] = True
REGIONS = (
    DetailRegion("global", "global", (0, 0, 96, 64)),
    DetailRegion("semantic-1", "semantic", (20, 10, 50, 30), MASK, HOSTILE),
    DetailRegion("spatial-1", "spatial", (0, 0, 48, 32)),
)
CLAIM = Claim("c1", HOSTILE, "semantic-1", 0, 0)
GONE = replace(CLAIM, id="c3", text="A unicorn.")
UNICORN = Verdict(GONE, False, reason="object", note="no sign of it")
CAPTION = DetailedCaption(
    f"A bus. {HOSTILE}",
    (
        FusedSentence("A bus.", ("c1",), ("semantic-1", "spatial-1"), 3, 0.876),
        FusedSentence(HOSTILE, ("c2",), ("global",)),
    ),
    (UNICORN, replace(UNICORN, claim=CLAIM, reason="duplicate", note=HOSTILE)),
    (Verdict(CLAIM, True, support=Support(0.876, unverifiable=(HOSTILE,))),),
    REGIONS,
    (96, 64),
    settings={"model": HOSTILE, HOSTILE: 1},
)
HEAT = {"A bus.": element("image", href="data:image/png;base64,AA")}
PHOTO = report.ReportPhoto(f"{HOSTILE}.jpg", noise_photo(), CAPTION, HEAT)
PAGE = report.report_html([PHOTO])


def test_hostile_texts_are_texts_and_nothing_is_loaded() -> None:
    read = Page(PAGE)
    read.check_alone()
    assert not read.all("img") and len(read.all("style")) == 1
    assert HOSTILE.replace("\u202e", "\ufffd").replace("\x00", "\ufffd") in read.words
    assert not set(PAGE) & set("\u202e\x00") and not re.search(r"url\(|@import", PAGE)
    policy = next(a for a in read.all("meta") if a.get("http-equiv"))
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_items_light_their_layers() -> None:
    read = Page(PAGE)
    items = {a["data-i"]: a["id"] for a in read.all("a") if "data-i" in a}
    # Two sentences, two dropped ones, three regions.
    assert list(items) == [str(number) for number in range(7)]
    assert all(a["href"] == f"#{a['id']}" for a in read.all("a"))
    # One heat map, then the outlines of: global, semantic-1, spatial-1.
    assert [a["data-for"] for a in read.all("g")] == ["0", "1 4", "0 2 3 5", "6"]
    # The second region of the first sentence is lit faintly.
    assert [a.get("data-also") for a in read.all("g")] == [None, None, None, "0"]
    assert '[data-i="0"]:hover) [data-also~="0"]' in PAGE
    assert all(f'[data-i="{n}"]:hover) [data-for~="{n}"]' in PAGE for n in items)
    photo, heat, _ = read.all("image")
    assert (photo["x"], photo["width"], photo["height"]) == ("0", "96", "64")
    assert heat["href"] == "data:image/png;base64,AA"


def test_provenance_is_told_and_what_was_dropped_alike_once() -> None:
    read = Page(PAGE)
    for told in ("Left out: 2", "object (1)", "no sign of it", "Regions: 3", "20, 10, 50, 30", "0.88"):
        assert told in read.words
    other = replace(UNICORN, claim=replace(GONE, id="c9", region_id="spatial-1"))
    page = report.report_html([replace(PHOTO, caption=replace(CAPTION, dropped=(UNICORN, other)))])
    assert page.count("<s>A unicorn.</s>") == 1
    assert "object (2)" in page and "spatial-1, 2 times" in page


def test_several_photos_have_an_index_and_large_ones_are_embedded_small() -> None:
    large = Image.new("RGB", (6000, 3000), "red")
    mask = np.zeros((3000, 6000), dtype=bool)
    mask[1000:2000, 500:1500] = True
    regions = (DetailRegion("global", "user", (500, 1000, 1500, 2000), mask),)
    caption = replace(CAPTION, image_size=large.size, regions=regions)
    page = report.report_html([PHOTO, report.ReportPhoto("b.jpg", large, caption)])
    assert len(page.encode()) < 100_000 and large.size == (6000, 3000)
    assert page.count("<section") == 2 and '<a href="#p2">b.jpg</a>' in page
    read = Page(page)
    read.check_alone()
    image = read.all("image")[-1]
    assert (image["width"], image["height"]) == ("6000", "3000")
    alpha = embedded(image["href"]).getchannel("A").resize((60, 30), Image.Resampling.NEAREST)
    assert np.array_equal(np.asarray(alpha) > 0, mask[50::100, 50::100])


def test_hot_is_bright_and_cold_is_dark() -> None:
    heat = np.zeros((4, 6), dtype=np.float32)
    heat[3, 5] = 2.0
    nothing = np.full((2, 2), 0.5, dtype=np.float32)
    found, one = (np.asarray(report._coloured(x).convert("RGBA")).astype(int) for x in (heat, nothing))
    assert found.shape[:2] == (107, 160)
    hot, cold = found[-1, -1], found[0, 0]
    assert hot[:3].sum() > 500 > 150 > cold[:3].sum()
    assert hot[3] < cold[3] < 255
    assert len(np.unique(one.reshape(-1, 4), axis=0)) == 1


def test_maps_of_the_sentences_of_a_photo() -> None:
    image = noise_photo()
    geometry = fit_image(image.size, mode="pad", size=56, patch_size=14)
    features: Any = SimpleNamespace(geometry=geometry)
    sentences = tuple(FusedSentence(text, (), ()) for text in ("A.", "B.", "A."))
    caption = DetailedCaption("", sentences, (), (), (), image.size)
    source: Any = SimpleNamespace(heat_map=lambda photo, text: np.zeros(geometry.grid))
    found = report.heat_maps(Photo("a", image, "", features), caption, source)
    # The square of the network reaches over the photo's upper and lower edges.
    (box,) = Page(found["A."]).all("image")
    assert list(found) == ["A.", "B."]
    sides = [float(str(box[name])) for name in ("x", "y", "width", "height")]
    assert sides[::2] == [0, pytest.approx(96)] and sides[1] < 0 and sides[1] + sides[3] > 64
    assert report.heat_maps(Photo("a", image, ""), caption, source) == {}
