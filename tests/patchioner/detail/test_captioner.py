"""The whole chain: stages by contract with fakes in their places, and once with every part real and tiny."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from PIL import Image

from patchioner import Box, Patchioner
from patchioner.base.errors import DetailError, OptionError, RegionError, UnknownNameError
from patchioner.detail import DetailCaptioner, DetailSettings
from patchioner.detail.captioner import checked
from patchioner.detail.divide import DivideSettings
from patchioner.detail.photos import open_photo
from patchioner.detail.stages import Photo
from patchioner.detail.values import Claim, DetailRegion, FusedSentence, Statement, Verdict
from tests.support.tiny import noise_photo, tiny_parts

WHOLE = DetailRegion("global", "global", (0, 0, 96, 64))
LEFT = DetailRegion("spatial-1", "spatial", (0, 0, 48, 64), parents=("global",))


@dataclass
class FakeDivider:
    regions: list[DetailRegion] = field(default_factory=lambda: [WHOLE, LEFT])
    settings: dict[str, object] = field(default_factory=lambda: {"divider": "fake"})

    def divide(self, photo: Photo) -> list[DetailRegion]:
        return list(self.regions)


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


@dataclass
class FakeFuser:
    """One sentence per kept claim, worded as told."""

    wording: dict[str, str] = field(default_factory=dict)
    leaves_out: str | None = None
    forgets: str | None = None
    settings: dict[str, object] = field(default_factory=lambda: {"fuser": "fake"})

    def fuse(
        self, photo: Photo, regions: Sequence[DetailRegion], kept: Sequence[Verdict]
    ) -> tuple[list[FusedSentence], list[Verdict]]:
        names = [verdict.claim.id for verdict in kept]
        said = [name for name in names if name not in (self.leaves_out, self.forgets)]
        claims = {verdict.claim.id: verdict.claim for verdict in kept}
        sentences = [
            FusedSentence(
                self.wording.get(name, claims[name].text), (name,), (claims[name].region_id,)
            )
            for name in said
        ]
        out = [
            replace(verdict, kept=False, reason="length", note="no room")
            for verdict in kept
            if verdict.claim.id == self.leaves_out
        ]
        return sentences, out


def fake_filter(
    photo: Photo,
    regions: Sequence[DetailRegion],
    statements: Sequence[Statement],
    *,
    scorer: Any = None,
    settings: Any = None,
) -> list[Verdict]:
    """Drops what says "unicorn"."""
    verdicts = []
    for number, statement in enumerate(statements, 1):
        claim = Claim(f"c{number}", statement.text, statement.region_id, statement.sample, 0)
        good = "unicorn" not in statement.text
        verdicts.append(Verdict(claim, good, reason=None if good else "unsupported"))
    return verdicts


@pytest.fixture
def describe(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Text by region and a fuser -> the caption, with the fake filter."""
    monkeypatch.setattr("patchioner.detail.captioner.filter_statements", fake_filter)

    def run(texts: dict[str, list[str]], fuser: FakeFuser | None = None, **rest: Any) -> Any:
        captioner = DetailCaptioner(
            None,
            divider=rest.pop("divider", FakeDivider()),
            describer=FakeDescriber(texts),
            scorer=None,
            fuser=fuser or FakeFuser(),
        )
        return captioner.describe(noise_photo(), **rest)

    return run


TEXTS = {"global": ["A dog sits.", "A unicorn flies."], "spatial-1": ["A red kite."]}


def test_the_paragraph_says_what_was_kept(describe: Any) -> None:
    caption = describe(TEXTS)
    assert caption.text == "A dog sits. A red kite."
    assert [s.claim_ids for s in caption.sentences] == [("c1",), ("c3",)]
    assert [v.claim.id for v in caption.kept] == ["c1", "c3"]
    assert [(v.claim.id, v.reason) for v in caption.dropped] == [("c2", "unsupported")]
    assert [region.id for region in caption.regions] == ["global", "spatial-1"]
    assert caption.image_size == (96, 64)
    assert caption.reason is None


def test_with_nothing_supported_nothing_is_said(describe: Any) -> None:
    caption = describe({"global": ["A unicorn.", "Two unicorns."]})
    assert caption.text == ""
    assert caption.sentences == ()
    assert caption.reason == "none of 2 sentences could be kept: 2 unsupported"
    assert describe({}).reason == "nothing was said of the photo"


def test_of_a_photo_that_shows_nothing_nothing_is_asked() -> None:
    describer = FakeDescriber(TEXTS)
    captioner = DetailCaptioner(
        None, divider=FakeDivider(), describer=describer, scorer=None, fuser=FakeFuser()
    )
    caption = captioner.describe(Image.new("RGB", (448, 448), "gray"), seed=2)
    assert (caption.text, caption.sentences, caption.kept, caption.dropped) == ("", (), (), ())
    assert caption.reason == "the photo is of one colour: its parts differ by 0 of 255 levels"
    assert [region.id for region in caption.regions] == ["global", "spatial-1"]
    assert caption.settings["seed"] == 2
    assert describer.seeds == []


def test_a_sentence_that_says_more_than_its_claims_is_left_out(describe: Any) -> None:
    caption = describe(TEXTS, FakeFuser({"c3": "A red kite above a castle."}))
    assert caption.text == "A dog sits."
    last = caption.dropped[-1]
    assert (last.claim.id, last.kept, last.reason) == ("c3", False, "no source")
    assert "castle" in last.note


def test_when_no_sentence_passes_the_check_the_paragraph_is_empty(describe: Any) -> None:
    caption = describe({"global": ["A dog sits."]}, FakeFuser({"c1": "A castle burns."}))
    assert (caption.text, caption.kept) == ("", ())
    assert caption.reason == "none of 1 sentences could be kept: 1 no source"


def test_every_claim_is_accounted_for_once(describe: Any) -> None:
    texts = {"global": ["A dog sits.", "A cat.", "A unicorn."], "spatial-1": ["A red kite."]}
    caption = describe(texts, FakeFuser(leaves_out="c2", forgets="c4"))
    assert sorted(v.claim.id for v in (*caption.kept, *caption.dropped)) == ["c1", "c2", "c3", "c4"]
    reasons = {v.claim.id: v.reason for v in caption.dropped}
    assert reasons == {"c2": "length", "c3": "unsupported", "c4": "duplicate"}
    assert not any(v.kept for v in caption.dropped)


def test_a_sentence_must_name_a_kept_claim() -> None:
    kept = fake_filter(None, [], [Statement("global", 0, "A dog.")])  # type: ignore[arg-type]
    sentences = [
        FusedSentence("A dog.", ("c1",), ()),
        FusedSentence("A dog.", ("c9",), ()),
        FusedSentence("A dog.", (), ()),
    ]
    sound, unfounded = checked(sentences, kept)
    assert sound == sentences[:1]
    assert unfounded == []


def test_the_seed_reaches_the_describer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchioner.detail.captioner.filter_statements", fake_filter)
    describer = FakeDescriber(TEXTS)
    captioner = DetailCaptioner(
        None, divider=FakeDivider(), describer=describer, scorer=None, fuser=FakeFuser()
    )
    assert captioner.describe(noise_photo(), seed=7).settings["seed"] == 7
    assert describer.seeds == [7]


def test_regions_may_be_given(describe: Any) -> None:
    texts = {"global": ["A dog."], "user-1": ["A red kite."], "mine": ["A boat."]}
    boxes = describe(texts, regions=[Box(1, 1, 20, 20)])
    assert [r.id for r in boxes.regions][:2] == ["global", "user-1"]
    assert boxes.text == "A dog. A red kite."
    mine = describe(texts, regions=[DetailRegion("mine", "user", (0, 0, 9, 9))])
    assert [r.id for r in mine.regions] == ["global", "mine"]
    with pytest.raises(RegionError, match="or none of them"):
        describe(texts, regions=[LEFT, Box(1, 1, 20, 20)])


def test_a_divider_that_repeats_an_id_is_named(describe: Any) -> None:
    with pytest.raises(DetailError, match="spatial-1"):
        describe(TEXTS, divider=FakeDivider([WHOLE, LEFT, LEFT]))


def test_stages_that_need_a_model_say_so() -> None:
    with pytest.raises(OptionError, match="describer="):
        DetailCaptioner(None, divider=FakeDivider(), scorer=None)
    with pytest.raises(OptionError, match="scorer="):
        DetailCaptioner(None, divider=FakeDivider(), describer=FakeDescriber({}))
    with pytest.raises(UnknownNameError, match="published"):
        DetailCaptioner(None, settings="publishd")


@pytest.fixture(scope="module")
def tiny() -> Patchioner:
    return Patchioner(tiny_parts(), device="cpu")


@pytest.mark.parametrize("name", ["default", "published"])
def test_all_parts_together(tiny: Patchioner, name: str) -> None:
    captioner = DetailCaptioner(tiny, scorer=None, settings=name)
    one, two = (captioner.describe(noise_photo(), seed=3) for _ in range(2))
    assert one.text == two.text
    assert one.text == " ".join(sentence.text for sentence in one.sentences)
    assert bool(one.text) == (one.reason is None)
    assert one.regions[0].id == "global"
    json.dumps(one.settings)
    known = {verdict.claim.id for verdict in one.kept}
    assert all(set(sentence.claim_ids) <= known for sentence in one.sentences)


def test_settings_reach_the_divider(tiny: Patchioner) -> None:
    settings = DetailSettings(
        divide=DivideSettings(spatial="grid", rows=1, columns=2, objects="none")
    )
    captioner = DetailCaptioner(tiny, scorer=None, settings=settings)
    photo = captioner.open(noise_photo())
    assert photo.features is not None
    assert [r.id for r in captioner.describe(photo).regions] == ["global", "grid-1", "grid-2"]
    bare = open_photo(noise_photo())
    assert captioner.describe(bare).text == captioner.describe(photo).text


def test_a_model_without_calibration_names_the_remedy(tiny: Patchioner) -> None:
    with pytest.raises(OptionError, match="calibrat"):
        DetailCaptioner(tiny)
