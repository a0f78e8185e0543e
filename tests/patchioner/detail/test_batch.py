"""Many photos: nothing twice, one failure is one photo's, and a stopped run ends like one that was not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from patchioner.base.errors import DetailError, FutileError, HubError, OptionError
from patchioner.detail.batch import describe_each, describe_many, read_captions
from patchioner.detail.photo_list import PhotoJob
from patchioner.detail.stages import Photo
from patchioner.detail.values import DetailedCaption, DetailRegion, FusedSentence
from patchioner.regions import Box
from tests.support.tiny import noise_photo


@dataclass
class FakeCaptioner:
    """Tells the photo's digest; `act` may raise, or wait."""

    act: Callable[[Photo], None] = lambda photo: None
    settings: dict[str, object] = field(default_factory=lambda: {"describer": {"n": 1}})
    asked: list[str] = field(default_factory=list)
    most: int = 0
    _active: int = 0
    _lock: Any = field(default_factory=threading.Lock)

    def describe(
        self, photo: Photo, regions: Sequence[Any] | None = None, *, seed: int = 0
    ) -> DetailedCaption:
        with self._lock:
            self.asked.append(photo.name)
            self._active += 1
            self.most = max(self.most, self._active)
        try:
            self.act(photo)
        finally:
            with self._lock:
                self._active -= 1
        text = f"{photo.sha256[:8]} {seed} {len(regions or ())}."
        whole = DetailRegion("global", "global", (0, 0, photo.size[0], photo.size[1]))
        sentence = FusedSentence(text, ("c1",), ("global",))
        settings = {**self.settings, "seed": seed}
        return DetailedCaption(text, (sentence,), (), (), (whole,), photo.size, None, settings)


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    names = []
    for number in range(5):
        names.append(str(tmp_path / f"{number}.png"))
        noise_photo(12, 8, seed=number).save(names[-1])
    return names


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_line_per_photo_in_order(photos: list[str], out: Path, workers: int) -> None:
    result = describe_many(FakeCaptioner(), photos, out, workers=workers)
    assert result.complete
    assert (result.described, result.known, result.failed) == (5, 0, ())
    assert [line["photo"] for line in lines_of(out)] == photos
    assert [name for name, _ in read_captions(out, result.names)] == photos
    assert len({line["text"] for line in lines_of(out)}) == 5


def test_a_second_run_describes_nothing(photos: list[str], out: Path) -> None:
    describe_many(FakeCaptioner(), photos, out)
    before, again = out.read_bytes(), FakeCaptioner()
    result = describe_many(again, photos, out)
    assert (result.known, again.asked) == (5, [])
    assert out.read_bytes() == before


@pytest.mark.parametrize("workers", [1, 3])
def test_going_on_after_a_stop_at_any_photo(
    photos: list[str], tmp_path: Path, workers: int
) -> None:
    describe_many(FakeCaptioner(), photos, tmp_path / "whole.jsonl")
    for stop in photos:

        def act(photo: Photo, stop: str = stop) -> None:
            if photo.name == stop:
                raise KeyboardInterrupt

        out = tmp_path / f"{Path(stop).stem}.jsonl"
        first, second = FakeCaptioner(act), FakeCaptioner()
        with pytest.raises(KeyboardInterrupt):
            describe_many(first, photos, out, workers=workers)
        written = [line["photo"] for line in lines_of(out)] if out.exists() else []
        describe_many(second, photos, out, workers=workers)
        assert not set(written) & set(second.asked)
        assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_the_order_of_finishing_does_not_show(photos: list[str], tmp_path: Path) -> None:
    describe_many(FakeCaptioner(), photos, tmp_path / "whole.jsonl")
    last = threading.Event()

    def act(photo: Photo) -> None:
        if photo.name == photos[0]:
            assert last.wait(20)
        if photo.name == photos[-1]:
            last.set()

    captioner = FakeCaptioner(act)
    describe_many(captioner, photos, tmp_path / "out.jsonl", workers=2)
    assert captioner.most == 2
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_photo_that_fails_is_reported_and_tried_again(photos: list[str], out: Path) -> None:
    Path(photos[1]).write_bytes(b"no picture")

    def act(photo: Photo) -> None:
        if photo.name == photos[3]:
            raise DetailError("the server is ill")

    told: list[str] = []
    result = describe_many(
        FakeCaptioner(act), photos, out, on_error=lambda name, error: told.append(name)
    )
    assert not result.complete
    assert result.stopped is None
    assert told == [name for name, _ in result.failed] == [photos[1], photos[3]]
    assert [line["photo"] for line in lines_of(out)] == [photos[0], photos[2], photos[4]]
    noise_photo(12, 8, seed=1).save(photos[1])
    again = FakeCaptioner()
    assert describe_many(again, photos, out).complete
    assert again.asked == [photos[1], photos[3]]
    assert [line["photo"] for line in lines_of(out)] == photos


@pytest.mark.parametrize("error", [FutileError("spent"), HubError("gone"), OptionError("no such")])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_of_all_stops_the_run(
    photos: list[str], out: Path, error: Exception, workers: int
) -> None:
    def act(photo: Photo) -> None:
        if photo.name == photos[2]:
            raise error

    captioner = FakeCaptioner(act)
    result = describe_many(captioner, photos, out, workers=workers)
    assert result.stopped is error
    assert not result.complete
    assert photos[4] not in captioner.asked or workers > 1
    assert {photos[0], photos[1]} <= {line["photo"] for line in lines_of(out)}


def test_a_photo_is_known_by_its_pixels(photos: list[str], out: Path, tmp_path: Path) -> None:
    describe_many(FakeCaptioner(), photos[:1], out)
    renamed = str(tmp_path / "new.bmp")
    Image.open(photos[0]).save(renamed)
    again = FakeCaptioner()
    result = describe_many(again, [renamed, photos[0], renamed], out)
    assert again.asked == []
    assert result.known == 3
    assert [line["photo"] for line in lines_of(out)] == [renamed, photos[0]]
    assert len({line["text"] for line in lines_of(out)}) == 1


def test_regions_tell_photos_apart(photos: list[str], out: Path) -> None:
    def job(*boxes: Box) -> PhotoJob:
        return PhotoJob.of(photos[0], (lambda size: boxes) if boxes else None)

    captioner = FakeCaptioner()
    describe_many(captioner, [job()], out)
    describe_many(captioner, [job(Box(0, 0, 4, 4))], out)
    describe_many(captioner, [job(Box(0, 0, 4, 5))], out)
    describe_many(captioner, [job(Box(0, 0, 4, 4))], out)
    assert len(captioner.asked) == len(lines_of(out)) == 3


def test_other_settings_need_another_file(photos: list[str], out: Path) -> None:
    describe_many(FakeCaptioner(), photos, out)
    before = out.read_bytes()
    with pytest.raises(OptionError, match=r"other settings \(describer\)"):
        describe_many(FakeCaptioner(settings={"describer": {"n": 2}}), photos, out)
    with pytest.raises(OptionError, match=r"other settings \(seed\)"):
        describe_many(FakeCaptioner(), photos, out, seed=1)
    assert out.read_bytes() == before


def test_lines_of_other_photos_stay_ahead(photos: list[str], out: Path) -> None:
    describe_many(FakeCaptioner(), photos[3:], out)
    describe_many(FakeCaptioner(), photos[:2], out)
    assert [line["photo"] for line in lines_of(out)] == [*photos[3:], *photos[:2]]


def test_who_has_seen_enough_waits_for_what_is_under_way(photos: list[str]) -> None:
    stopped = threading.Event()

    def act(photo: Photo) -> None:
        if photo.name != photos[0]:
            assert stopped.wait(20)

    captioner = FakeCaptioner(act)
    jobs = [PhotoJob.of(name) for name in photos]
    outcomes = describe_each(captioner, jobs, workers=3, on_stop=stopped.set)
    assert next(outcomes).name == photos[0]
    outcomes.close()
    assert stopped.is_set()
    assert captioner._active == 0
    assert len(captioner.asked) < 5
