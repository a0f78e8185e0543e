"""Photo -> regions -> statements: how a photo is divided, and who describes its parts."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoders.scene_graph import noun_phrases
from patchioner import Box, Mask, Patchioner, Point, Polygon
from patchioner.base.errors import DetailError, FutileError, OptionError, RegionError
from patchioner.checkpoints.folder import KINDS, KindSettings
from patchioner.detail import DetailRegion, Photo, Rectangle, describe, open_photo
from patchioner.regions import NamedRegion
from tests.patchioner.detail.conftest import CASES, PHOTO, REGIONS, Make
from tests.support import MonkeyPatch
from tests.support.chat_server import ChatServer, Reaction, echo, fails, once, says
from tests.support.pages import embedded
from tests.support.tiny import noise_photo, tiny_backbone, tiny_parts

corners = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 30), st.integers(1, 30))
boxes = corners.map(lambda c: (float(c[0]), float(c[1]), float(c[0] + c[2]), float(c[1] + c[3])))


def region(*box: float, kind: Any = "user", name: str | None = None) -> DetailRegion:
    return DetailRegion(f"{box}", kind, box, name=name)  # type: ignore[arg-type]


def test_overlaps_by_hand() -> None:
    assert describe.iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert describe.share_inside((0, 0, 4, 1), (3, 0, 9, 9)) == 0.25
    point = (1.0, 1.0, 1.0, 1.0)
    assert describe.share_inside(point, (0, 0, 9, 9)) == describe.iou(point, point) == 0.0
    left, wide = region(0, 0, 10, 10), region(5, 0, 25, 10)
    assert describe.overlap_share(left, wide) == describe.overlap_share(wide, left) == 0.5


@given(st.lists(boxes, min_size=1, max_size=12), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_merging_loses_nothing(found: list[Rectangle], limit: float) -> None:
    before = list(found)
    merged = describe.merge_overlapping(found, limit)
    assert found == before
    assert all(describe.iou(*pair) <= limit for pair in itertools.combinations(merged, 2))
    assert all(any(describe.bounding_union([one, box]) == one for one in merged) for box in found)
    assert describe.bounding_union(merged) == describe.bounding_union(found)


def test_the_whole_comes_first_then_given_things_which_grow_quadrants_then_cells() -> None:
    mask = np.zeros((80, 100), dtype=bool)
    mask[50:70, 30:60] = True
    things: list[describe.Given] = [
        NamedRegion(Box(45, 5, 60, 30), "dog"), Mask(mask), Box(60, 60, 80, 90), Box(62, 62, 70, 70)
    ]  # fmt: skip
    regions = {r.id: r for r in describe.divide(open_photo(noise_photo(100, 80)), things)}
    assert regions["user-1"].name == "dog"
    assert np.array_equal(regions["user-2"].mask, mask)  # type: ignore[arg-type]
    assert list(regions)[9:] == [f"grid-{n}" for n in range(1, 10)]
    assert [(name, one.box) for name, one in list(regions.items())[:9]] == [
        ("global", (0, 0, 100, 80)), ("user-1", (45, 5, 60, 30)), ("user-2", (30, 50, 60, 70)),
        ("user-3", (60, 60, 80, 80)), ("user-4", (62, 62, 70, 70)), ("spatial-1", (0, 0, 60, 40)),
        ("spatial-2", (45, 0, 100, 40)), ("spatial-3", (0, 40, 60, 80)), ("spatial-4", (30, 40, 100, 80)),
    ]  # fmt: skip


def test_what_the_model_does_not_see_is_left_out() -> None:
    cropping = Patchioner(replace(tiny_parts(), backbone=tiny_backbone(mode="crop")), device="cpu")
    settings = describe.DivideSettings(spatial="grid", rows=1, columns=10)
    regions = describe.divide(open_photo(noise_photo(400, 64), cropping), settings=settings)
    assert 2 <= len(regions) < 11


@pytest.mark.parametrize(("caption", "union"), [
    ("two dogs on a couch", (0, 0, 50, 40)), ("a traffic light", (80, 80, 99, 99)),
    ("a traffic light and dogs", None),  # too large
    ("a zebra", None),
])  # fmt: skip
def test_the_published_patch(caption: str, union: Rectangle | None) -> None:
    things = [region(0, 0, 10, 10, name="dog"), region(30, 20, 50, 40, name="sofa")]
    things += [region(80, 80, 99, 99, name="traffic_light"), region(0, 0, 99, 99)]
    assert describe.union_of_named(things, caption, (100, 100)) == union


def test_a_union_goes_by_the_models_caption(photo: Photo, model: Patchioner) -> None:
    settings = describe.DivideSettings(objects="union", spatial="none")
    caption = model.caption(photo.features or photo.image)[0].text
    thing = NamedRegion(Box(1, 1, 20, 20), noun_phrases(caption)[0].name)
    regions = describe.divide(photo, [thing], settings, model)
    assert [(r.id, r.box) for r in regions[1:]] == [("semantic-1", (1, 1, 20, 20))]
    with pytest.raises(OptionError, match="objects='union'"):
        describe.divide(photo, [thing], settings)


def test_polygons_become_masks_and_what_has_no_inside_is_refused() -> None:
    found = describe.as_region(Polygon([(10, 10), (30, 10), (30, 20), (10, 20)]), (40, 30))
    assert found.mask is not None and found.mask[15, 20] and not found.mask[25, 20]
    bad: list[tuple[Any, str]] = [(Mask(np.ones((2, 2), dtype=bool)), "2x2")]
    bad += [(one, "no region with an inside") for one in (Point(3, 3), "box", (1, 2, 3, 4))]
    for one, message in (*bad, (Box(50, 0, 60, 9), "40x30")):
        with pytest.raises(RegionError, match=message):
            describe.as_region(one, (40, 30))


def test_a_photo_is_encoded_once_and_its_first_statements_are_the_plain_captions(
    photo: Photo, monkeypatch: MonkeyPatch
) -> None:
    parts = tiny_parts()
    short = dict.fromkeys(KINDS, KindSettings(style="phrase"))  # which a paragraph has no use for
    settings = replace(parts.settings, kinds=short)
    model = Patchioner(replace(parts, settings=settings), device="cpu")
    plain = model.caption(photo.image, [one.region for one in REGIONS], style="sentence")
    monkeypatch.setattr(model, "encode", lambda *_, **__: pytest.fail("encoded again"))
    describer = describe.PatchionerDescriber(model, describe.OwnSettings(samples=2))
    found = describer.describe(photo, REGIONS, seed=5)
    assert [(s.region_id, s.sample) for s in found] == [(r.id, n) for r in REGIONS for n in (0, 1)]
    assert [s.text for s in found[::2]] == [caption.text for caption in plain]
    scores = [caption.score for caption in plain]
    assert [s.log_prob for s in found[::2]] == pytest.approx(scores, abs=1e-5)


def test_a_text_depends_on_its_own_region_and_seed(model: Patchioner, photo: Photo) -> None:
    def texts(regions: Sequence[DetailRegion], seed: int) -> list[str]:
        found = describe.PatchionerDescriber(model).describe(photo, regions, seed=seed)
        return [one.text for one in found if one.region_id == REGIONS[2].id]

    assert texts(REGIONS, 1) == texts(REGIONS[2:], 1) != texts(REGIONS, 2)
    # Even the same region, drawn again, is drawn anew.
    settings = describe.OwnSettings(6, jitter=0.0, sampled="all", temperature=2.0, top_p=1.0)
    found = describe.PatchionerDescriber(model, settings).describe(photo, REGIONS[:1])
    assert len({statement.text for statement in found}) > 1


@given(boxes, st.floats(0.05, 4), st.floats(-0.5, 0.5))
def test_sub_regions_lie_in_what_is_seen(box: Rectangle, scale: float, moved: float) -> None:
    whole = region(*box)
    part = describe.sub_region(whole, scale, (moved, -moved), (5.0, 0.0, 60.0, 50.0))
    assert isinstance(part, Box)
    inside = part.x1 >= 5 and part.y1 >= 0 and part.x2 <= 60 and part.y2 <= 50
    assert inside or part == whole.region


def test_part_of_a_mask_stays_in_it_and_its_surroundings_are_a_box() -> None:
    mask = np.zeros((64, 96), dtype=bool)
    mask[10:30, 10:30] = np.tri(20, dtype=bool)
    whole = DetailRegion("a", "semantic", (10, 10, 30, 30), mask)
    part = describe.sub_region(whole, 0.5, (0.0, 0.0), (0, 0, 96, 64))
    assert isinstance(part, Mask)
    assert part.bounds == (15, 15, 25, 25) and not (part.array & ~mask).any()
    assert describe.sub_region(whole, 1.5, (0.0, 0.0), (0, 0, 96, 64)) == Box(5, 5, 35, 35)
    assert describe.sub_region(whole, 0.1, (0.4, -0.4), (0, 0, 96, 64)) == Mask(mask)  # else empty


edges = st.tuples(st.floats(-50, 1050), st.floats(-50, 1050)).map(sorted)
sizes = st.sampled_from([(1000, 20), (3, 3), (1, 400), (200, 120), (3000, 2)])


@given(edges, edges, sizes, st.sampled_from(["spatial", "global"]))
def test_any_box_gives_a_picture_that_a_model_can_be_given(
    across: list[float], down: list[float], size: tuple[int, int], kind: str
) -> None:
    image, (left, right), (top, bottom) = noise_photo(*size), across, down
    found = describe.shown(image, region(left, top, right, bottom, kind=kind))
    assert found.mode == "RGB" and image.size == size
    assert min(found.size) >= 32 and max(found.size) <= 1024
    assert max(found.size) / min(found.size) <= 10


def test_every_region_is_asked_about_with_its_own_picture(make: Make) -> None:
    with ChatServer() as server:
        describer = describe.VisionDescriber(make(server))
        said = describer.describe(PHOTO, REGIONS)
        describer.describe(open_photo(noise_photo(seed=1)), REGIONS)  # which is asked about anew
    places = [(name, i) for name in ("spatial-1", "spatial-2") for i in range(3)]
    assert [(one.region_id, one.sample) for one in said] == [("global", 0), *places]
    assert len(server.requests) == 6  # the samples of a region are one request
    sizes = set()
    for request in server.requests:
        url, words = request["messages"][0]["content"]
        sizes.add(embedded(url["image_url"]["url"]).size)
        assert words["text"].startswith("Describe what can be seen")
        assert (request.get("n", 1), request["temperature"]) in {(1, 0.2), (3, 0.7)}
    assert sizes == {(96, 64), (48, 40), (66, 44)}
    assert len({request["seed"] for request in server.requests}) == 6


def test_samples_may_fail_but_a_region_without_any_is_an_error(make: Make) -> None:
    counter = itertools.count(1)

    def sometimes(request: dict[str, Any]) -> Reaction:
        empty = next(counter) % 3 == 0 and request["temperature"] == 0.7
        return says("") if empty else once(request)

    with ChatServer(then=sometimes) as server:
        said = describe.VisionDescriber(make(server, concurrency=1)).describe(PHOTO, REGIONS)
    assert len(said) == 5
    assert {one.region_id for one in said} == {one.id for one in REGIONS}
    with ChatServer(then=lambda request: fails(500) if "n" in request else echo(request)) as server:
        describer = describe.VisionDescriber(make(server))
        with pytest.raises(DetailError, match=r"noise\.png, region 'spatial-1'.*500") as caught:
            describer.describe(PHOTO, REGIONS)
        assert not isinstance(caught.value, FutileError)
        assert len(describer.describe(PHOTO, REGIONS[:1])) == 1  # the next photo goes on


@pytest.mark.parametrize(("answer", "text"), CASES["answers in JSON"])
def test_an_answer_in_json_is_its_texts(answer: str, text: str) -> None:
    assert describe.plain_text(answer) == text
