from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from PIL import Image

from patchioner import Box, Patchioner
from patchioner.base.errors import OptionError, UnknownNameError
from patchioner.detail.batch import DetailCaptioner, preset
from patchioner.detail.fuse import dropped, split_claims
from patchioner.detail.values import (
    DetailRegion,
    FusedSentence,
    Photo,
    Statement,
    Verdict,
    to_json,
)
from tests.support.tiny import noise_photo

TEXTS = {"global": ["A dog sits.", "A unicorn flies."], "spatial-1": ["A red kite."]}


@dataclass
class FakeDescriber:
    texts: dict[str, list[str]]
    settings: dict[str, object] = field(default_factory=lambda: {"describer": "fake"})
    seeds: list[int] = field(default_factory=list)

    def describe(
        self, photo: Photo, regions: Sequence[DetailRegion], *, seed: int = 0
    ) -> list[Statement]:
        self.seeds.append(seed)
        return [
            Statement(region.id, sample, text)
            for region in regions
            for sample, text in enumerate(self.texts.get(region.id, []))
        ]


def no_unicorns(photo: Any, regions: Any, statements: Any, **_: Any) -> list[Verdict]:
    """Keeps every sentence that names no unicorn."""
    found = [(claim, "unicorn" not in claim.text) for claim in split_claims(statements)]
    return [Verdict(claim, ok, reason=None if ok else "unsupported") for claim, ok in found]


@dataclass
class FakeFuser:
    """One sentence per kept claim, but for one that it drops with a reason and one that it forgets."""

    leaves_out: str | None = None
    forgets: str | None = None
    settings: dict[str, object] = field(default_factory=lambda: {"fuser": "fake"})

    def fuse(
        self, photo: Photo, regions: Sequence[DetailRegion], kept: Sequence[Verdict]
    ) -> tuple[list[FusedSentence], list[Verdict]]:
        sentences = [
            FusedSentence(one.claim.text, (one.claim.id,), (one.claim.region_id,))
            for one in kept
            if one.claim.id not in (self.leaves_out, self.forgets)
        ]
        left_out = [dropped(one, "length", "") for one in kept if one.claim.id == self.leaves_out]
        return sentences, left_out


@pytest.fixture
def describe(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Text by region and a fuser -> the caption, with the fake filter."""
    monkeypatch.setattr("patchioner.detail.batch.filter_statements", no_unicorns)

    def run(texts: dict[str, list[str]], fuser: FakeFuser | None = None, **rest: Any) -> Any:
        parts: Any = {"describer": FakeDescriber(texts), "fuser": fuser or FakeFuser()}
        captioner = DetailCaptioner(None, scorer=None, **parts)
        return captioner.describe(noise_photo(), **rest)

    return run


def test_the_paragraph_says_what_was_kept(describe: Any) -> None:
    caption = describe(TEXTS)
    assert caption.text == "A dog sits. A red kite."
    assert [s.claim_ids for s in caption.sentences] == [("c1",), ("c3",)]
    assert [v.claim.id for v in caption.kept] == ["c1", "c3"]
    assert [(v.claim.id, v.reason) for v in caption.dropped] == [("c2", "unsupported")]
    assert (caption.image_size, caption.reason) == ((96, 64), None)


def test_with_nothing_supported_nothing_is_said(describe: Any) -> None:
    caption = describe({"global": ["A unicorn.", "Two unicorns."]})
    assert caption.text == ""
    assert caption.sentences == ()
    assert caption.reason == "none of 2 sentences could be kept: 2 unsupported"
    assert describe({}).reason == "nothing was said of the photo"


def test_of_a_photo_that_shows_nothing_nothing_is_asked() -> None:
    describer = FakeDescriber(TEXTS)
    captioner = DetailCaptioner(None, describer=describer, scorer=None, fuser=FakeFuser())
    caption = captioner.describe(Image.new("RGB", (448, 448), "gray"), seed=2)
    assert (caption.text, caption.sentences, caption.kept, caption.dropped) == ("", (), (), ())
    assert "one colour" in (caption.reason or "")
    assert len(caption.regions) == 14 and caption.settings["seed"] == 2
    assert describer.seeds == []


def test_every_claim_is_accounted_for_once(describe: Any) -> None:
    texts = {"global": ["A dog sits.", "A cat.", "A unicorn."], "spatial-1": ["A red kite."]}
    caption = describe(texts, FakeFuser(leaves_out="c2", forgets="c4"))
    assert sorted(v.claim.id for v in (*caption.kept, *caption.dropped)) == ["c1", "c2", "c3", "c4"]
    reasons = {v.claim.id: v.reason for v in caption.dropped}
    assert reasons == {"c2": "length", "c3": "unsupported", "c4": "duplicate"}
    assert not any(v.kept for v in caption.dropped)


def test_regions_may_be_given(describe: Any) -> None:
    texts = {"global": ["A dog."], "user-1": ["A red kite."], "mine": ["A boat."]}
    boxes = describe(texts, regions=[Box(1, 1, 20, 20)])
    assert [r.id for r in boxes.regions][:2] == ["global", "user-1"]
    assert boxes.text == "A dog. A red kite."


def test_stages_that_need_a_model_say_so() -> None:
    with pytest.raises(OptionError, match="describer="):
        DetailCaptioner(None, scorer=None)
    with pytest.raises(OptionError, match="scorer="):
        DetailCaptioner(None, describer=FakeDescriber({}))
    with pytest.raises(UnknownNameError, match="published"):
        DetailCaptioner(None, settings="publishd")


@pytest.mark.parametrize("name", ["careful", "full", "published"])
def test_all_parts_together(model: Patchioner, name: str) -> None:
    captioner = DetailCaptioner(model, scorer=None, settings=name)
    one, two = (captioner.describe(noise_photo(), seed=3) for _ in range(2))
    assert one.text == two.text == " ".join(sentence.text for sentence in one.sentences)
    assert bool(one.text) == (one.reason is None)
    assert to_json(one, "x") == to_json(two, "x")


def test_published_constants_and_changes_by_name() -> None:
    published = preset("published")
    divide, describe, judge = published.divide, published.describe, published.filter
    assert (divide.spatial, divide.grow, divide.growing_area) == ("quadrants", 0.3, 1.0)
    assert (divide.objects, divide.merge_iou) == ("union", 0.3)
    assert (describe.samples, describe.temperature) == (3, 0.7)
    assert (judge.rules, judge.trusted_agreement) == (False, 2)
    new = preset("published", {"fuse.max_words": 60, "divide.rows": 4})
    assert (new.fuse.max_words, new.divide.rows) == (60, 4)
    assert replace(new.divide, rows=3) == divide and new.describe == describe


@pytest.mark.parametrize("wrong", ["fuse.max_word", "fuses.max_words", "fuse.max_words.x"])
def test_unknown_settings_offer_the_close_ones(wrong: str) -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean '?.*fuse\.max_words"):
        preset("careful", {wrong: 1})


def test_the_package_is_light_until_it_is_used() -> None:
    code = "import sys, patchioner.detail; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
