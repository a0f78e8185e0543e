"""Paragraphs end to end by a tiny model: files that are gone on with, controls, shares of reasons."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.detail import paragraphs
from benchmarks.detail.paragraphs import OTHERS, PARAGRAPH, RANDOM, UNFILTERED, WHOLE
from benchmarks.detail.part import Setup
from patchioner import Patchioner
from patchioner.detail.describe import PatchionerDescriber
from patchioner.detail.values import DetailRegion, open_photo


@pytest.fixture
def setup(detail_data: Path, tmp_path: Path, tiny_detail_model: Patchioner) -> Setup:
    return Setup(detail_data, tmp_path, lambda name: tiny_detail_model)


def _photos(setup: Setup) -> list[Path]:
    return sorted((setup.data / "photos").iterdir())[:3]


def test_finished_photos_are_not_described_again(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = paragraphs.described(setup, _photos(setup)[:2], "dev")
    files = {path: path.read_bytes() for path in (setup.out / "photos").iterdir()}
    asked: list[str] = []
    describe = PatchionerDescriber.describe

    def counted(self: PatchionerDescriber, photo: object, *rest: object, **more: object) -> object:
        asked.append(photo.name)  # type: ignore[attr-defined]
        return describe(self, photo, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(PatchionerDescriber, "describe", counted)
    again = paragraphs.described(setup, _photos(setup), "dev")
    # The third photo, and that once: both paragraphs are made of the same captions.
    assert asked == [str(_photos(setup)[2])]
    assert [one.filtered.text for one in again[:2]] == [one.filtered.text for one in first]
    assert all(path.read_bytes().startswith(before) for path, before in files.items())


def test_texts_are_of_the_same_photos_and_the_random_ones_no_longer(setup: Setup) -> None:
    found = paragraphs.described(setup, _photos(setup), "dev")
    texts = paragraphs.texts_of(found, seed=3)
    assert list(texts) == [PARAGRAPH, UNFILTERED, WHOLE, RANDOM, OTHERS]
    assert {len(kind) for kind in texts.values()} == {3}
    for random, own in zip(texts[RANDOM], texts[PARAGRAPH], strict=True):
        assert len(random.split()) <= len(own.split())
    assert texts[OTHERS] == [*texts[PARAGRAPH][1:], texts[PARAGRAPH][0]]
    whole = setup.model.caption(setup.model.encode(_photos(setup)[0]))[0].text
    assert texts[WHOLE][0].rstrip(".").lower() == whole.rstrip(".").lower()
    assert paragraphs.texts_of(found, seed=3) == texts


def test_every_caption_has_one_fate(setup: Setup) -> None:
    found = paragraphs.described(setup, _photos(setup), "dev")
    shares = paragraphs.reasons(found)
    assert sum(shares.values()) == pytest.approx(1)
    assert "unknown" not in shares


def test_recorded_says_the_same_without_asking_again(setup: Setup, tmp_path: Path) -> None:
    photo = open_photo(_photos(setup)[0], setup.model)
    whole = DetailRegion("global", "global", (0.0, 0.0, 96.0, 64.0))
    own, file = PatchionerDescriber(setup.model), tmp_path / "said.jsonl"
    first = paragraphs.Recorded(own, file).describe(photo, [whole], seed=1)
    again = paragraphs.Recorded(own, file).describe(photo, [], seed=2)
    assert again == first == own.describe(photo, [whole], seed=1)
