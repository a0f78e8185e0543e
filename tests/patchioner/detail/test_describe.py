from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from patchioner import Box, Mask, Patchioner
from patchioner.base.errors import DetailError, FutileError, OptionError
from patchioner.detail.client import Budget, ChatClient
from patchioner.detail.describe import (
    OwnSettings,
    PatchionerDescriber,
    VisionDescriber,
    divide,
    shown,
    sub_region,
)
from patchioner.detail.models import CallCache
from patchioner.detail.values import DetailRegion, Photo
from tests.support.chat_server import ChatServer, Reaction, echo, fails, once, says
from tests.support.photos import REGIONS
from tests.support.photos import noise_photo as noise
from tests.support.tiny import tiny_parts


@pytest.fixture(scope="module")
def parts(photo: Photo) -> list[DetailRegion]:
    return divide(photo)


def test_statements_come_by_region_then_sample_and_the_first_is_the_plain_caption(
    model: Patchioner, photo: Photo, parts: list[DetailRegion]
) -> None:
    found = PatchionerDescriber(model, OwnSettings(samples=2)).describe(photo, parts, seed=5)
    assert [(s.region_id, s.sample) for s in found] == [(r.id, n) for r in parts for n in range(2)]
    plain = model.caption(photo.image, [region.region for region in parts])
    assert [s.text for s in found[::2]] == [caption.text for caption in plain]
    scores = [caption.score for caption in plain]
    assert [s.log_prob for s in found[::2]] == pytest.approx(scores, abs=1e-5)


def test_a_text_depends_on_its_own_region_photo_and_seed_alone(
    model: Patchioner, photo: Photo, parts: list[DetailRegion]
) -> None:
    describer = PatchionerDescriber(model)
    together = describer.describe(photo, parts, seed=1)
    alone = describer.describe(photo, [parts[2]], seed=1)
    assert [s.text for s in together if s.region_id == parts[2].id] == [s.text for s in alone]
    other = describer.describe(photo, parts, seed=2)
    assert [s.text for s in other] != [s.text for s in together]
    assert [s.text for s in describer.describe(photo, parts, seed=1)] == [s.text for s in together]


def test_the_photo_is_encoded_once_and_captioned_in_two_batches(
    photo: Photo, parts: list[DetailRegion], monkeypatch: pytest.MonkeyPatch
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
    PatchionerDescriber(model).describe(photo, parts)
    assert len(calls) == 2 and sum(calls) == len(parts) * OwnSettings().samples


def test_drawing_the_same_region_again_draws_anew(
    model: Patchioner, photo: Photo, parts: list[DetailRegion]
) -> None:
    settings = OwnSettings(samples=6, jitter=0.0, sampled="all", temperature=2.0, top_p=1.0)
    found = PatchionerDescriber(model, settings).describe(photo, parts[:1])
    assert len({statement.text for statement in found}) > 1


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


def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (120, 200, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def region(*box: float, kind: str = "spatial") -> DetailRegion:
    return DetailRegion("r", kind, box)  # type: ignore[arg-type]


def test_a_crop_has_the_pixels_of_the_box_and_no_others() -> None:
    cut = shown(picture(), region(20, 30, 100, 110))
    np.testing.assert_array_equal(np.asarray(cut), np.asarray(picture())[30:110, 20:100])
    whole = shown(picture(), region(20, 30, 100, 110, kind="global"))
    np.testing.assert_array_equal(np.asarray(whole), np.asarray(picture()))


coordinate = st.floats(-50, 1050)


@given(
    st.tuples(coordinate, coordinate, coordinate, coordinate),
    st.sampled_from([(1000, 20), (3, 3), (1, 400), (200, 120), (3000, 2)]),
    st.sampled_from(["spatial", "global"]),
)
def test_any_box_gives_a_picture_that_a_model_can_be_given(
    corners: tuple[float, float, float, float], size: tuple[int, int], kind: str
) -> None:
    (left, right), (top, bottom) = sorted(corners[::2]), sorted(corners[1::2])
    image = picture().resize(size)
    found = shown(image, region(left, top, right, bottom, kind=kind))
    assert found.mode == "RGB" and image.size == size
    assert min(found.size) >= 32 and max(found.size) <= 1024
    assert max(found.size) / min(found.size) <= 10


PHOTO = noise()


Make = Callable[..., VisionDescriber]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-verysecret123")
    monkeypatch.setattr(ChatClient, "_pause", lambda self, seconds: None)
    made: list[ChatClient] = []

    def describer(
        server: ChatServer, *, cache: Path | None = None, **options: Any
    ) -> VisionDescriber:
        options = {"timeout": 5.0, "attempts": 2, **options}
        kept = CallCache(cache) if cache else None
        url = server.url
        made.append(ChatClient("tiny", base_url=url, cache=kept, **options))
        return VisionDescriber(made[-1])

    yield describer
    for one in made:
        one.close()


def test_every_region_is_asked_about_with_its_own_picture(make: Make) -> None:
    with ChatServer() as server:
        said = make(server).describe(PHOTO, REGIONS)
    assert [(one.region_id, one.sample) for one in said] == [
        ("global", 0), *((name, i) for name in ("spatial-1", "spatial-2") for i in range(3))
    ]  # fmt: skip
    assert len(server.requests) == 3  # the samples of a region are one request
    sizes = set()
    for request in server.requests:
        url, words = request["messages"][0]["content"]
        data = url["image_url"]["url"].partition(",")[2]
        sizes.add(Image.open(io.BytesIO(base64.b64decode(data))).size)
        assert words["text"].startswith("Describe what can be seen")
        assert (request.get("n", 1), request["temperature"]) in {(1, 0.2), (3, 0.7)}
    assert sizes == {(90, 60), (45, 40), (60, 40)}


def test_a_server_that_ignores_n_is_asked_again_with_other_seeds(make: Make) -> None:
    with ChatServer(then=once) as server:
        said = make(server).describe(PHOTO, REGIONS)
    assert len(said) == 7 == len({one.text for one in said})
    assert len(server.requests) == 7
    assert len({request["seed"] for request in server.requests}) == 7


def test_a_server_that_refuses_n_is_asked_one_by_one(make: Make) -> None:
    def picky(request: dict[str, Any]) -> Reaction:
        return (
            fails(400, "Only one completion choice is allowed") if "n" in request else once(request)
        )

    with ChatServer(then=picky) as server:
        assert len(make(server, concurrency=1).describe(PHOTO, REGIONS)) == 7
    assert sum("n" in request for request in server.requests) == 1


def test_nothing_is_asked_twice_after_a_stop(make: Make, tmp_path: Path) -> None:
    with ChatServer(then=once) as server:
        with pytest.raises(FutileError, match="budget"):
            make(server, cache=tmp_path, budget=Budget(max_calls=4)).describe(PHOTO, REGIONS)
        assert len(server.requests) == 4
        restarted = make(server, cache=tmp_path)
        said = restarted.describe(PHOTO, REGIONS)
        assert len(server.requests) == 7
        again = make(server, cache=tmp_path)
        assert again.describe(PHOTO, REGIONS) == said
        assert len(server.requests) == 7 == len({request["seed"] for request in server.requests})
    with ChatServer(then=once) as other:
        assert make(other).describe(PHOTO, REGIONS) == said  # as without a stop
        make(other, cache=tmp_path).describe(noise(1), REGIONS)
        assert len(other.requests) == 14  # another photo is another question


def test_a_sample_that_is_empty_or_refused_is_left_out(make: Make) -> None:
    calls: list[int] = []

    def sometimes(request: dict[str, Any]) -> Reaction:
        calls.append(1)
        return says("") if request["temperature"] == 0.7 and len(calls) % 3 == 0 else once(request)

    with ChatServer(then=sometimes) as server:
        said = make(server, concurrency=1).describe(PHOTO, REGIONS)
    assert len(said) == 5
    assert {one.region_id for one in said} == {region.id for region in REGIONS}


def test_a_region_without_any_answer_is_an_error_of_the_photo_and_the_others_are_kept(
    make: Make, tmp_path: Path
) -> None:
    with ChatServer(then=lambda request: fails(500) if "n" in request else echo(request)) as server:
        describer = make(server, cache=tmp_path)
        with pytest.raises(
            DetailError, match=r"noise\.png, region 'spatial-1'.*HTTP 500"
        ) as caught:
            describer.describe(PHOTO, REGIONS)
        assert not isinstance(caught.value, FutileError)
        assert len(list(tmp_path.rglob("*.json"))) == 1
        assert len(describer.describe(PHOTO, REGIONS[:1])) == 1  # the next photo goes on
