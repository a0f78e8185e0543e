from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest

from patchioner.base.errors import DetailError, OptionError, UnknownNameError
from patchioner.detail.clients.answers import Answer
from patchioner.detail.clients.cache import CallCache
from patchioner.detail.describe.asking import Answers, VisionSettings, rows_of
from patchioner.detail.describe.prompts import DETAIL, MARKED, PROMPTS, prompt_named
from patchioner.detail.describe.views import View
from patchioner.detail.values import DetailRegion
from tests.support.photos import REGIONS, noise_photo

PHOTO = noise_photo()
SETTINGS = VisionSettings()


def rows(
    settings: VisionSettings = SETTINGS,
    regions: tuple[DetailRegion, ...] = REGIONS,
    *,
    seed: int = 0,
) -> list:  # type: ignore[type-arg]
    return rows_of(PHOTO, regions, settings, model="m", seed=seed)


def test_the_whole_is_described_once_and_coolly_every_part_three_times() -> None:
    asked = [(row.region.id, row.sample, row.temperature) for row in rows()]
    parts = [(name, i, 0.7) for name in ("spatial-1", "spatial-2") for i in range(3)]
    assert asked == [("global", 0, 0.2), *parts]
    assert len({row.question.key for row in rows()}) == 7
    assert len({row.question.own_seed for row in rows()}) == 7


@pytest.mark.parametrize(
    "other",
    [
        VisionSettings(temperature=0.8),
        VisionSettings(top_p=0.9),
        VisionSettings(max_tokens=100),
        VisionSettings(prompt="marked"),
        VisionSettings(view=View("context")),
        VisionSettings(view=View(max_side=512)),
    ],
)
def test_every_setting_of_a_text_makes_it_another_question(other: VisionSettings) -> None:
    assert rows()[1].question.key != rows(other)[1].question.key


def test_the_number_of_samples_leaves_the_questions_as_they_are() -> None:
    more = {row.question.key for row in rows(VisionSettings(samples=5))}
    assert {row.question.key for row in rows()} < more


def test_questions_know_regions_by_what_is_seen_not_by_name() -> None:
    part = REGIONS[1]
    renamed = dataclasses.replace(part, id="other", parents=("global",))
    assert rows(regions=(part,))[0].question.key == rows(regions=(renamed,))[0].question.key
    masked = dataclasses.replace(part, mask=np.ones((60, 90), dtype=bool))
    moved = dataclasses.replace(part, box=(0.0, 0.0, 45.0, 41.0))
    keys = {rows(regions=(each,))[0].question.key for each in (part, masked, moved)}
    assert len(keys) == 3
    assert rows(seed=1)[1].question.key != rows()[1].question.key


def test_marked_regions_are_asked_about_as_such_and_the_whole_is_not() -> None:
    whole, part, *_ = rows(VisionSettings(view=View("marked")))
    assert whole.question.user == DETAIL.text and part.question.user == MARKED.text
    assert {row.question.user for row in rows()} == {DETAIL.text}
    assert [row.question.prompt for row in rows(VisionSettings(prompt="marked"))] == [
        "marked/1"
    ] * 7


def test_prompts_are_named() -> None:
    assert all(name == prompt.id == prompt_named(name).id for name, prompt in PROMPTS.items())
    with pytest.raises(UnknownNameError, match="did you mean 'detail'"):
        prompt_named("detial")


@pytest.mark.parametrize(
    "settings",
    [
        {"samples": 0},
        {"global_samples": True},
        {"max_tokens": 1.5},
        {"temperature": -1},
        {"global_temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.1},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(settings))):
        VisionSettings(**settings)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError):
        VisionSettings(prompt="none")


def test_two_regions_that_show_the_same_are_asked_once() -> None:
    twin = dataclasses.replace(REGIONS[1], id="twin")
    answers = Answers(rows(regions=(REGIONS[1], twin)), None)
    assert len(answers.missing) == 3
    for row in answers.missing:
        answers.add(row, Answer(f"text {row.sample}", -1.0))
    said = answers.statements()
    assert [(one.region_id, one.sample, one.text) for one in said] == [
        (name, i, f"text {i}") for name in ("spatial-1", "twin") for i in range(3)
    ]


def test_what_is_in_the_cache_is_not_missing(tmp_path: Path) -> None:
    answers = Answers(rows(), CallCache(tmp_path))
    for row in answers.missing[:4]:
        answers.add(row, Answer(row.region.id))
    again = Answers(rows(), CallCache(tmp_path))
    assert [row.question.key for row in again.missing] == [row.question.key for row in rows()[4:]]


def test_a_sample_may_fail_but_not_a_whole_region(caplog: pytest.LogCaptureFixture) -> None:
    answers = Answers(rows(), None)
    for row in answers.missing:
        if row.sample == 1:
            answers.fail(row, DetailError("it was refused"))
        else:
            answers.add(row, Answer("text"))
    with caplog.at_level(logging.WARNING):
        assert len(answers.statements()) == 5
    assert "1 samples failed; it was refused" in caplog.text
    failed = Answers(rows(), None)
    for row in failed.missing[:4]:
        failed.add(row, Answer("text"))
    for row in failed.missing[4:]:
        failed.fail(row, DetailError("it was refused"))
    with pytest.raises(DetailError, match=r"noise\.png, region 'spatial-2'.*it was refused"):
        failed.statements()
