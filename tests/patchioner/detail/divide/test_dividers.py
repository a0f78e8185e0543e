"""Dividers: what regions a photo gets, from what was given and from what is found."""

from __future__ import annotations

import json

import numpy as np
import pytest

from patchioner import Box, Mask, Patchioner, Point, Polygon
from patchioner.base.errors import OptionError, RegionError
from patchioner.detail.divide import (
    Detection,
    DivideSettings,
    Given,
    PhotoDivider,
    as_detection,
    trusted,
    union_of_named,
)
from patchioner.detail.photos import open_photo
from patchioner.detail.stages import Photo
from patchioner.region_files import NamedRegion
from tests.support.tiny import noise_photo, tiny_backbone, tiny_parts


@pytest.fixture(scope="module")
def model() -> Patchioner:
    return Patchioner(tiny_parts(), device="cpu")


@pytest.fixture(scope="module")
def photo(model: Patchioner) -> Photo:
    return open_photo(noise_photo(), model)


def test_the_whole_comes_first_then_things_then_places(photo: Photo, model: Patchioner) -> None:
    regions = PhotoDivider(model=model).divide(photo)
    ids = [region.id for region in regions]
    assert ids[0] == "global"
    assert ids[-4:] == [f"spatial-{number}" for number in range(1, 5)]
    assert all(name.startswith("semantic-") for name in ids[1:-4])
    assert len(ids) > 5
    assert len(set(ids)) == len(ids)
    for region in regions:
        assert set(region.parents) <= set(ids)
        assert region.id not in region.parents
    assert model.caption(photo.features or photo.image, [region.region for region in regions])


def test_the_same_photo_gives_the_same_regions(photo: Photo, model: Patchioner) -> None:
    one, two = (PhotoDivider(model=model).divide(photo) for _ in range(2))
    assert [(r.id, r.box, r.name, r.parents) for r in one] == [
        (r.id, r.box, r.name, r.parents) for r in two
    ]


def test_given_things_are_regions_and_grow_quadrants() -> None:
    bare = open_photo(noise_photo(100, 80))
    mask = np.zeros((80, 100), dtype=bool)
    mask[50:70, 30:60] = True
    given: list[Given] = [
        NamedRegion(Box(45, 5, 60, 30), "dog"),
        Mask(mask),
        (60.0, 60.0, 80.0, 90.0),
    ]
    regions = {r.id: r for r in PhotoDivider(given=given).divide(bare)}
    assert regions["user-1"].name == "dog"
    assert regions["user-2"].box == (30, 50, 60, 70)
    assert np.array_equal(regions["user-2"].mask, mask)  # type: ignore[arg-type]
    assert regions["user-3"].box == (60, 60, 80, 80)
    assert regions["spatial-1"].box == (0, 0, 60, 40)
    assert regions["spatial-1"].parents == ("global", "user-1")
    assert regions["spatial-2"].box == (45, 0, 100, 40)
    assert regions["spatial-3"].box == (0, 40, 60, 80)
    assert regions["spatial-4"].box == (30, 40, 100, 80)


def test_large_things_grow_nothing_unless_asked() -> None:
    bare = open_photo(noise_photo(100, 80))
    given = [Box(10, 10, 90, 70)]
    plain = PhotoDivider(given=given).divide(bare)
    assert plain[-4].box == (0, 0, 50, 40)
    grown = PhotoDivider(DivideSettings(growing_area=1.0, grow=0.2), given=given).divide(bare)
    assert grown[-4].box == (0, 0, 90, 70)


def test_a_part_of_a_thing_has_it_for_a_parent() -> None:
    given = [Box(10, 10, 20, 20), Box(5, 5, 50, 50)]
    regions = PhotoDivider(DivideSettings(spatial="none"), given=given).divide(
        open_photo(noise_photo(100, 80))
    )
    assert [region.parents for region in regions] == [(), ("global", "user-2"), ("global",)]


def test_a_grid_needs_nothing_but_the_photo() -> None:
    settings = DivideSettings(spatial="grid", rows=2, columns=3, objects="none")
    regions = PhotoDivider(settings).divide(open_photo(noise_photo(90, 60)))
    assert [region.id for region in regions] == ["global", *(f"grid-{n}" for n in range(1, 7))]
    assert regions[6].box == (60, 30, 90, 60)


def test_what_the_model_does_not_see_is_left_out() -> None:
    parts = tiny_parts()
    cropping = Patchioner(
        type(parts)(
            tiny_backbone(mode="crop"), parts.decoder, parts.bank, parts.text_tower, parts.settings
        ),
        device="cpu",
    )
    photo = open_photo(noise_photo(400, 64), cropping)
    settings = DivideSettings(spatial="grid", rows=1, columns=10, objects="none")
    regions = PhotoDivider(settings).divide(photo)
    assert 2 <= len(regions) < 11
    assert cropping.caption(photo.features or photo.image, [region.region for region in regions])


def test_the_published_patch_is_the_box_around_what_the_caption_names() -> None:
    things = [
        Detection((0, 0, 10, 10), "dog"),
        Detection((30, 20, 50, 40), "sofa"),
        Detection((80, 80, 99, 99), "traffic_light"),
        Detection((0, 0, 99, 99)),
    ]
    assert union_of_named(things, "two dogs on a couch", (100, 100)) == (0, 0, 50, 40)
    assert union_of_named(things, "a traffic light", (100, 100)) == (80, 80, 99, 99)
    assert union_of_named(things, "a traffic light and dogs", (100, 100)) is None  # too large
    assert union_of_named(things, "a zebra", (100, 100)) is None


def test_a_union_goes_by_the_models_caption(
    photo: Photo, model: Patchioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DivideSettings(objects="union", spatial="none")
    thing = Detection((1, 1, 20, 20), "kite")
    monkeypatch.setattr(
        "patchioner.detail.divide.dividers.union_of_named",
        lambda things, caption, size, coverage: things[0].box,
    )
    regions = PhotoDivider(settings, model=model, given=[thing]).divide(photo)
    assert [(r.id, r.kind, r.box) for r in regions[1:]] == [
        ("semantic-1", "semantic", (1, 1, 20, 20))
    ]
    with pytest.raises(OptionError, match="objects='union'"):
        PhotoDivider(settings)


def test_without_features_nothing_can_be_found() -> None:
    with pytest.raises(OptionError, match="open_photo"):
        PhotoDivider().divide(open_photo(noise_photo()))


def test_detections_count_by_score_with_a_fallback() -> None:
    def scores(*values: float) -> list[float]:
        found = [Detection((0, 0, 9, 9), score=value) for value in values]
        return [detection.score for detection in trusted(found, 0.3, 2)]

    assert scores(0.9, 0.3, 0.4) == [0.9, 0.4]
    assert scores(0.3, 0.2, 0.1) == [0.3, 0.2]
    assert scores(0.1) == []


def test_polygons_become_masks_and_points_are_refused() -> None:
    found = as_detection(Polygon([(10, 10), (30, 10), (30, 20), (10, 20)]), (40, 30))
    assert found.mask is not None
    assert found.mask[15, 20]
    assert not found.mask[25, 20]
    for bad in (Point(3, 3), "box", (1, 2, 3)):
        with pytest.raises(RegionError, match="no region with an inside"):
            as_detection(bad, (40, 30))  # type: ignore[arg-type]
    with pytest.raises(RegionError, match="2x2 but the image is 40x30"):
        as_detection(Mask(np.ones((2, 2), dtype=bool)), (40, 30))


@pytest.mark.parametrize(
    "wrong",
    [
        {"spatial": "thirds"},
        {"objects": "all"},
        {"rows": 0},
        {"overlap": 1.0},
        {"grow": 1.5},
        {"merge_iou": float("nan")},
    ],
)
def test_senseless_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        DivideSettings(**wrong)  # type: ignore[arg-type]


def test_settings_are_ready_for_json() -> None:
    values = PhotoDivider(given=[]).settings
    assert json.loads(json.dumps(values))["things"] == "given"
