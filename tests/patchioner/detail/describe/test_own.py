"""Our own describer: what it asks, in how many batches, and what a text depends on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchioner import Box, Mask, Patchioner, WholeImage
from patchioner.base.errors import OptionError
from patchioner.detail.describe.own import OwnSettings, PatchionerDescriber, sub_region
from patchioner.detail.divide import PhotoDivider
from patchioner.detail.photos import open_photo
from patchioner.detail.stages import Photo
from patchioner.detail.values import DetailRegion
from tests.support.tiny import noise_photo, tiny_parts


@pytest.fixture(scope="module")
def model() -> Patchioner:
    return Patchioner(tiny_parts(), device="cpu")


@pytest.fixture(scope="module")
def photo(model: Patchioner) -> Photo:
    return open_photo(noise_photo(), model)


@pytest.fixture(scope="module")
def regions(photo: Photo) -> list[DetailRegion]:
    return PhotoDivider().divide(photo)


def test_statements_come_by_region_then_sample(
    model: Patchioner, photo: Photo, regions: list[DetailRegion]
) -> None:
    found = PatchionerDescriber(model, samples=3).describe(photo, regions)
    assert [(s.region_id, s.sample) for s in found] == [
        (region.id, sample) for region in regions for sample in range(3)
    ]
    assert all(s.log_prob is not None and s.log_prob <= 0 for s in found)


def test_the_first_sample_is_the_plain_caption(
    model: Patchioner, photo: Photo, regions: list[DetailRegion]
) -> None:
    found = PatchionerDescriber(model, samples=2).describe(photo, regions, seed=5)
    plain = model.caption(photo.image, [region.region for region in regions])
    first = [(s.text, s.log_prob) for s in found if s.sample == 0]
    assert [text for text, _ in first] == [caption.text for caption in plain]
    assert [p for _, p in first] == pytest.approx([caption.score for caption in plain], abs=1e-5)


def test_a_text_depends_on_its_own_region_photo_and_seed_alone(
    model: Patchioner, photo: Photo, regions: list[DetailRegion]
) -> None:
    describer = PatchionerDescriber(model)
    together = describer.describe(photo, regions, seed=1)
    alone = describer.describe(photo, [regions[2]], seed=1)
    assert [s.text for s in together if s.region_id == regions[2].id] == [s.text for s in alone]
    other = describer.describe(photo, regions, seed=2)
    assert [s.text for s in other] != [s.text for s in together]
    assert [s.text for s in describer.describe(photo, regions, seed=1)] == [
        s.text for s in together
    ]


@pytest.mark.parametrize(
    ("settings", "batches"),
    [
        (OwnSettings(), 2),
        (OwnSettings(sampled="none"), 1),
        (OwnSettings(sampled="all", samples=3), 1),
        (OwnSettings(sampled="all", samples=3, jitter=0.0), 3),  # a seed for each
    ],
)
def test_the_photo_is_encoded_once_and_captioned_in_few_batches(
    photo: Photo,
    regions: list[DetailRegion],
    settings: OwnSettings,
    batches: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Patchioner(tiny_parts(), device="cpu")
    calls: list[int] = []
    caption = model.caption

    def counted(image: Any, asked: Sequence[Any], **rest: Any) -> Any:
        assert image is photo.features
        calls.append(len(asked))
        return caption(image, asked, **rest)

    monkeypatch.setattr(model, "caption", counted)
    monkeypatch.setattr(model, "encode", lambda *_, **__: pytest.fail("encoded again"))
    PatchionerDescriber(model, settings).describe(photo, regions)
    assert len(calls) == batches
    assert sum(calls) == len(regions) * settings.samples


def test_drawing_the_same_region_again_draws_anew(
    model: Patchioner, photo: Photo, regions: list[DetailRegion]
) -> None:
    settings = OwnSettings(samples=6, jitter=0.0, sampled="all", temperature=2.0, top_p=1.0)
    found = PatchionerDescriber(model, settings).describe(photo, regions[:1])
    assert len({statement.text for statement in found}) > 1


def test_a_photo_without_features_is_encoded(model: Patchioner, photo: Photo) -> None:
    bare = open_photo(noise_photo())
    whole = PhotoDivider().divide(photo)[:1]
    describer = PatchionerDescriber(model, samples=1)
    assert describer.describe(bare, whole)[0].text == describer.describe(photo, whole)[0].text


numbers = st.floats(0, 50)
visible = (5.0, 0.0, 90.0, 64.0)


@given(
    numbers, numbers, st.floats(1, 40), st.floats(1, 40), st.floats(0.05, 4), st.floats(-0.5, 0.5)
)
def test_sub_regions_lie_in_what_is_seen(
    x: float, y: float, width: float, height: float, scale: float, moved: float
) -> None:
    region = DetailRegion("a", "user", (x, y, x + width, y + height))
    part = sub_region(region, scale, (moved, -moved), visible)
    assert isinstance(part, Box)
    inside = part.x1 >= 5 and part.y1 >= 0 and part.x2 <= 90 and part.y2 <= 64
    assert inside or part == region.region


def test_part_of_a_mask_stays_in_it_and_its_surroundings_are_a_box() -> None:
    mask = np.zeros((64, 96), dtype=bool)
    mask[10:30, 10:30] = np.tri(20, dtype=bool)
    region = DetailRegion("a", "semantic", (10, 10, 30, 30), mask)
    part = sub_region(region, 0.5, (0.0, 0.0), (0, 0, 96, 64))
    assert isinstance(part, Mask)
    assert part.bounds == (15, 15, 25, 25)
    assert not (part.array & ~mask).any()
    assert sub_region(region, 1.5, (0.0, 0.0), (0, 0, 96, 64)) == Box(5, 5, 35, 35)
    empty = sub_region(region, 0.1, (0.4, -0.4), (0, 0, 96, 64))
    assert empty == Mask(mask)


def test_the_whole_photo_is_looked_at_in_parts() -> None:
    whole = DetailRegion("global", "global", (0, 0, 96, 64))
    assert sub_region(whole, 0.5, (0.0, 0.0), (0, 0, 96, 64)) == Box(24, 16, 72, 48)
    assert whole.region == WholeImage()


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 0},
        {"jitter": 0.5},
        {"scales": ()},
        {"sampled": "some"},
        {"temperature": 0.0},
        {"top_p": 1.5},
    ],
)
def test_senseless_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        OwnSettings(**wrong)


def test_settings_name_the_model(model: Patchioner) -> None:
    values = json.loads(json.dumps(PatchionerDescriber(model, samples=7).settings))
    assert (values["describer"], values["model"], values["samples"]) == ("patchioner", "tiny", 7)
