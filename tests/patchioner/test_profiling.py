"""What a profile counts: parts, calls, threads, and nothing when nobody listens."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from PIL import Image

from patchioner import Batching, Box, Patchioner, WholeImage
from patchioner.pipeline import map_ahead
from patchioner.profiling import PARTS, Profile, listen, measure
from tests.support.tiny import noise_photo, tiny_parts


@pytest.fixture(scope="module")
def model() -> Patchioner:
    return Patchioner(tiny_parts(), device="cpu")


def test_nobody_listening_counts_nothing() -> None:
    with measure("backbone"):
        pass
    with listen() as profiles:
        pass
    assert profiles[0].seconds == {}
    assert profiles[0].photos == profiles[0].regions == 0


def test_seconds_and_calls_add_up_in_every_thread() -> None:
    def work(_: int) -> None:
        with measure("decoder", 3):
            time.sleep(0.002)

    with listen() as profiles:
        list(map_ahead(work, range(4), workers=2, ahead=2))
        work(0)
    assert profiles[0].calls == {"decoder": 5}
    assert profiles[0].regions == 15
    assert profiles[0].seconds["decoder"] >= 0.01


def test_an_error_inside_a_part_is_still_counted() -> None:
    with listen() as profiles, pytest.raises(ValueError, match="broken"), measure("read"):
        raise ValueError("broken")
    assert profiles[0].calls == {"read": 1}


def test_the_gpu_that_works_is_the_one_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    monkeypatch.setattr("torch.cuda.synchronize", waited.append)
    with listen(gpu="cuda:1"), measure("backbone"):
        pass
    assert waited == ["cuda:1"] * 4


def test_a_profile_inside_a_profile_keeps_to_itself() -> None:
    with listen() as outer:
        with listen() as inner, measure("read"):
            pass
        with measure("regions"):
            pass
    assert list(inner[0].seconds) == ["read"]
    assert list(outer[0].seconds) == ["regions"]


def test_the_model_says_where_the_time_went(model: Patchioner) -> None:
    photos = [noise_photo(seed=seed) for seed in range(3)]
    items = [(photo, [WholeImage(), Box(0, 0, 30, 30)]) for photo in photos]
    profile = model.profile(items, batching=Batching(regions=4))
    assert tuple(profile.seconds) == PARTS
    assert profile.calls == {
        "read": 3, "backbone": 3, "regions": 3, "memory bank": 2, "decoder": 2,
    }  # fmt: skip
    assert (profile.photos, profile.regions) == (3, 6)
    assert all(0 < seconds < profile.total for seconds in profile.seconds.values())


def test_profiling_takes_any_iterable_and_changes_no_caption(model: Patchioner) -> None:
    def items() -> Iterator[tuple[Image.Image, None]]:
        yield noise_photo(), None

    before = model.caption_many(items())
    assert model.profile(items()).regions == 1
    assert model.caption_many(items()) == before


def test_the_table_has_a_line_for_each_part_and_their_shares() -> None:
    seconds = {"backbone": 0.5, "decoder": 0.25}
    table = Profile(seconds, {"backbone": 1, "decoder": 2}, 1.0, 1, 7).table().splitlines()
    assert [line.split()[0] for line in table] == [
        "part",
        "backbone",
        "decoder",
        "other",
        "total",
        "1",
    ]
    assert table[1].split() == ["backbone", "0.500", "50%", "1"]
    assert table[3].split() == ["other", "0.250", "25%"]
    assert table[-1] == "1 photos, 7 regions"
