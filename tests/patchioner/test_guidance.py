"""Choosing among candidates, against plain code; confidence, abstention, files, the command."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from decoders import DecodeOptions
from decoders.guidance import Guide
from decoders.retrieval import RetrievalDecoder
from patchioner import Box, Patchioner, RegionSet, WholeImage
from patchioner.base.errors import CheckpointError, OptionError, TextError
from patchioner.checkpoints.folder import Candidates, Guidance, KindSettings, ModelSettings, Parts
from patchioner.cli import main
from patchioner.cli.calibrate import fitted_odds
from patchioner.embedding import project
from patchioner.guidance import FEATURES, KEY, Logistic, fit_logistic, read_pairs
from patchioner.nouns import NounTable
from tests.support import Capture
from tests.support.tiny import TEXTS, noise_photo, tiny_parts

GUIDANCE = Guidance(contrast=0.9, nouns=0.7, beam_width=1)
MEAN, DEVIATION = [0.0, 0.5, 0.5, -2.0, 0.1], [0.8, 0.9, 0.3, 1.5, 0.6]
WEIGHTS, BIAS = [1.0, -0.5, 0.3, 0.2, 0.7], 0.1
CALIBRATION = {
    "inputs": list(FEATURES), "mean": MEAN, "deviation": DEVIATION, "weights": WEIGHTS, "bias": BIAS,
    "threshold": 0.5,
}  # fmt: skip
SETS = {"region_set": KindSettings(candidates=Candidates())}
BOXES = [Box(x, y, x + 24, y + 20) for x in (0, 20, 40, 60) for y in (0, 20, 40)]


def parts(**settings: Any) -> Parts:
    tiny = tiny_parts()
    assert tiny.text_tower is not None
    kinds = {"box": KindSettings(guidance=GUIDANCE)}
    chosen: dict[str, Any] = {"kinds": kinds, "calibration": {KEY: CALIBRATION}} | settings
    table = NounTable.build(TEXTS, torch.randn(40, 64), tiny.text_tower)
    table = replace(table.of_asked(torch.randn(30, 64)), odds=torch.randn(len(table.names)))
    return replace(tiny, settings=replace(tiny.settings, **chosen), nouns=table)


@pytest.fixture(scope="module")
def model() -> Patchioner:
    torch.manual_seed(0)
    return Patchioner(parts(), device="cpu")


def test_captions_and_confidences_are_those_of_plain_code(model: Patchioner) -> None:
    held, features = model.parts, model.encode(noise_photo())
    assert held.nouns is not None
    rows = model.embed_regions(features, BOXES)
    whole = model.embed_regions(features, [WholeImage()])

    def scored(side: Tensor, spread: Tensor) -> Tensor:
        assert held.nouns is not None
        return (F.normalize(side, dim=1) @ held.nouns.embeddings.T - spread[0]) / spread[1]

    z, asked = (scored(rows, spread) for spread in (held.nouns.spread, held.nouns.asked))
    there = scored(whole, held.nouns.asked)
    around = project(whole, held.settings, held.bank).expand(len(BOXES), -1)
    guide = Guide(around, held.nouns.words, 0.7 * (z - 1).clamp(-3, 3), 0.9)
    options = replace(held.settings.decode, strategy="greedy")
    through = project(rows, held.settings, held.bank)
    expected = held.decoder.generate(through, options, held.bank, guide)
    found = model.caption(features, BOXES)
    assert [one.text for one in found] == [one.text for one in expected]
    assert [one.score for one in found] == pytest.approx([one.score for one in expected])
    likeness, names = F.cosine_similarity(rows, whole, dim=1).tolist(), held.nouns.names
    for row, one in enumerate(found):
        said = [names.index(word) for word in (one.text or "").split() if word in names]
        best = max(said, key=asked[row].tolist().__getitem__, default=None)
        values = [0.0, 0.0, likeness[row], math.log(24 * 20 / (96 * 64)), 0.0]
        if best is not None:
            values[:2] = float(asked[row, best]), float(there[0, best])
            values[4] = float(held.nouns.odds[best])
        logit = BIAS + ((np.array(values) - MEAN) / DEVIATION) @ np.array(WEIGHTS)
        assert one.confidence == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-4)


def test_only_kinds_with_guidance_are_guided(model: Patchioner) -> None:
    regions = [*BOXES, *(RegionSet([box, Box(70, 40, 90, 60)]) for box in BOXES), WholeImage()]
    found, usual = (model.caption(noise_photo(), regions, plain=on) for on in (False, True))
    assert [one.text for one in found[12:]] == [one.text for one in usual[12:]]
    assert [one.text for one in found[:12]] != [one.text for one in usual[:12]]
    options = DecodeOptions("sample")
    plain = model.caption(noise_photo(), BOXES, options=options, plain=True)
    assert model.caption(noise_photo(), BOXES, options=options) == plain


@pytest.mark.parametrize("crop", [False, "add"])
def test_the_best_of_some_candidates_is_that_of_plain_code(crop: Any) -> None:
    own, near = Candidates(5, 1.5, 0.01, 0.5), Candidates(6, 2.0, 0.0, 0.25, nouns=0.2)
    kinds = {"region_set": KindSettings(candidates=own), "box": KindSettings(guidance=GUIDANCE)}
    chooser = Patchioner(parts(kinds=kinds, crop_candidates=near), device="cpu")
    held, how = chooser.parts, near if crop else own
    assert held.nouns is not None
    decoder: Any = held.decoder
    sets = [RegionSet([box, Box(70, 40, 90, 60)]) for box in BOXES[:6]]
    features = chooser.encode(noise_photo(), keep_image=True)
    rows, (whole,) = (chooser.embed_regions(features, x, crop=crop) for x in (sets, [WholeImage()]))
    through, usual = project(rows, held.settings, held.bank), held.settings.decode
    likeliest = decoder.generate(through, usual, held.bank)
    drawing = replace(usual, temperature=how.temperature)
    drawn = decoder.draw(through, drawing, held.bank, None, how.samples)
    expected = []
    for row, one, others in zip(rows, likeliest, drawn, strict=True):
        scores = []
        for each in (one, *others):
            text = chooser.embed_text([each.text])[0]
            z = held.nouns.scores(row[None])[0, held.nouns.words.in_text(each.text)]
            shown = F.cosine_similarity(text, row, dim=0)
            shown = shown - how.photo * F.cosine_similarity(text, whole, dim=0)
            shown = shown + how.nouns * (float(z.mean()) if len(z) else -1.0)
            scores.append(float(how.likelihood * each.score + shown))
        expected.append((one, *others)[int(np.argmax(scores))].text)
    found = [one.text for one in chooser.caption(features, [*sets, *BOXES], crop=crop)]
    assert found[:6] == expected != [one.text for one in likeliest]
    guided = Patchioner(parts(kinds={"box": kinds["box"]}), device="cpu")
    alone = [one.text for one in guided.caption(features, BOXES, crop=crop)]
    assert (found[6:] == alone) == (not crop)
    # Whole photos have no crop.
    (one,), (other,) = (some.caption(features, crop=crop) for some in (chooser, guided))
    assert one.text == other.text
    asked = [one.text for one in chooser.caption(features, sets, crop=crop, options=usual)]
    assert asked == [one.text for one in likeliest]


def test_people_have_a_sex_where_that_is_asked_for() -> None:
    neutral = {"box": KindSettings(guidance=replace(GUIDANCE, neutral=True, several=2.0))}
    asking = Patchioner(parts(kinds=neutral), device="cpu")
    kind = type(asking.parts.decoder)
    with patch.object(kind, "generate", autospec=True, side_effect=kind.generate) as generate:
        for gendered in (False, True):
            asking.caption(noise_photo(), BOXES[:1], gendered=gendered)
    guides = [call.args[-1] for call in generate.call_args_list]
    assert [(guide.neutral, guide.several) for guide in guides] == [(True, 2.0), (False, 2.0)]


def test_without_settings_nothing_changes() -> None:
    plain = Patchioner(replace(parts(kinds={}, calibration={}), nouns=None), device="cpu")
    assert plain.caption(noise_photo(), BOXES) == plain.caption(noise_photo(), BOXES, plain=True)
    with pytest.raises(OptionError, match="calibrate"):
        plain.caption(noise_photo(), BOXES, min_confidence=0.5)


def test_what_is_not_sure_enough_has_no_text_but_a_reason(model: Patchioner) -> None:
    for wrong in (1.5, "1.5"):
        with pytest.raises(OptionError, match=r"1\.5"):
            model.caption(noise_photo(), BOXES, min_confidence=wrong)  # type: ignore[arg-type]
    all_of_them = model.caption(noise_photo(), BOXES)
    sure = sorted(one.confidence or 0.0 for one in all_of_them)
    found = model.caption(noise_photo(), BOXES, min_confidence=(sure[5] + sure[6]) / 2)
    assert sum(one.text is None for one in found) == 6
    for before, after in zip(all_of_them, found, strict=True):
        said = after.to_dict()
        assert after.confidence == before.confidence == pytest.approx(said["confidence"], abs=1e-6)
        if after.text is None:
            assert said["text"] is None and f"{after.confidence:.2f}" in said["reason"]
        else:
            assert (after.text, after.reason) == (before.text, None)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("photo", ["colour", "noise"])
def test_photos_that_show_nothing_get_no_caption(model: Patchioner, photo: str, kept: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    shown = Image.new("RGB", (96, 96), "red") if photo == "colour" else Image.fromarray(pixels)
    (found,) = model.caption(model.encode(shown, keep_image=kept))
    assert (found.text, found.confidence) == (None, 0.0)
    assert photo in (found.reason or "")


def test_drawings_are_captioned_where_nobody_asks_for_confidence(model: Patchioner) -> None:
    picture = Image.new("RGB", (96, 96), "white")
    picture.paste("red", (30, 30, 60, 70))
    (said,), (silent,) = (model.caption(picture, min_confidence=least) for least in (None, 0.01))
    assert said.text and silent.text is None and silent.reason
    assert said.confidence == silent.confidence == 0.0


@pytest.mark.parametrize(
    ("make", "change"),
    [
        *((Guidance, one) for one in ({"nouns": math.nan}, {"contrast": -0.1}, {"beam_width": 0})),
        *((Candidates, one) for one in ({"samples": 0}, {"photo": -1.0}, {"temperature": 0.0})),
    ],
)
def test_settings_out_of_range(make: Any, change: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(change))):
        make(**change)
    for given in ({"kinds": {"box": {make.__name__.lower(): change}}}, {"crop_candidates": change}):
        with pytest.raises(CheckpointError):
            ModelSettings.from_json({**ModelSettings().to_json(), **given}, "here")


def test_a_checkpoint_keeps_it_all(model: Patchioner, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, storage="fp32")
    again = Patchioner.from_pretrained(tmp_path, device="cpu")
    read, nouns = again.parts.nouns, model.parts.nouns
    assert read is not None and nouns is not None
    assert (again.settings, read.names) == (model.settings, nouns.names)
    assert torch.equal(read.asked, nouns.asked) and torch.equal(read.odds, nouns.odds)
    assert torch.allclose(read.embeddings, nouns.embeddings, atol=1e-3)
    (tmp_path / "nouns" / "names.json").write_text('["cat"]')
    with pytest.raises(CheckpointError, match="nouns"):
        Patchioner.from_pretrained(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("settings", "lacking", "said"),
    [
        ({}, {"nouns": None}, "nouns"), ({}, {"decoder": RetrievalDecoder(64)}, "Retrieval"),
        ({"kinds": {}, "crop_candidates": Candidates(nouns=0.1)}, {"nouns": None}, "nouns"),
        *(({"kinds": SETS}, lacking, "candidates") for lacking in ({"tower": None}, {"decoder": RetrievalDecoder(64)})),
    ],
)  # fmt: skip
def test_settings_need_their_parts(settings: Any, lacking: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        replace(parts(**settings), **lacking)
    other = parts(calibration={KEY: {**CALIBRATION, "inputs": ["a", "b", "c", "d", "e"]}})
    with pytest.raises(CheckpointError, match="captions"):
        Patchioner(other, device="cpu").caption(noise_photo(), min_confidence=0.1)


@pytest.mark.parametrize("boxes", [True, False])
def test_the_command_calibrates_a_folder(tmp_path: Path, capsys: Capture, boxes: bool) -> None:
    bare = replace(parts(kinds={}, calibration={}), nouns=None, decoder=RetrievalDecoder(64))
    Patchioner(bare, device="cpu").save_pretrained(tmp_path / "model")
    pairs, named = [], []
    things = [text.split()[2] for text in TEXTS[:6]]
    rows = [{"xyxy": [12 * x, 5, 12 * x + 20, 40], "name": one} for x, one in enumerate(things)]
    for place in range(6):
        noise_photo(seed=place).save(tmp_path / f"{place}.png")
        # Some photos name all that can be said.
        texts = TEXTS if place % 2 else TEXTS[place : place + 2]
        pairs.append({"file_name": f"{place}.png", "captions": list(texts)})
        named.append({"file_name": f"{place}.png", "boxes": [*rows, {"xyxy": [0, 0, 9, 9], "name": " "}]})
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    (tmp_path / "boxes.json").write_text(json.dumps(named))
    where = ["--model", str(tmp_path / "model"), "--device", "cpu"]
    given = ["--pairs", str(tmp_path / "pairs.json"), "--photos", str(tmp_path), "--write"]
    given += ["--boxes", str(tmp_path / "boxes.json")] if boxes else []
    assert main(["calibrate", *where, *given]) == 0
    printed = json.loads(capsys.readouterr().out)
    model = Patchioner.from_pretrained(tmp_path / "model", device="cpu")
    assert model.settings.calibration[KEY] == printed
    assert model.parts.nouns is not None and bool(model.parts.nouns.odds.any())
    assert printed["measured"]["photos"] == 6
    assert printed["measured"]["captions"] == (36 if boxes else 48)
    assert not model.settings.kinds  # sentences word for word are not guided
    photo = str(tmp_path / "1.png")
    assert 0 <= (model.caption(photo)[0].confidence or 0.0) <= 1
    assert main(["caption", photo, *where, "--json", "--min-confidence", "1"]) == 0
    (said,) = json.loads(capsys.readouterr().out)["captions"]
    assert said["text"] is None and "below 1" in said["reason"]
    (tmp_path / "boxes.json").write_text("[]")
    assert not boxes or main(["calibrate", *where, *given]) == 1


def test_odds_tell_kinds_of_nouns_apart() -> None:
    draw, flat = torch.Generator().manual_seed(0), torch.ones(2, 20)
    kinds = torch.eye(8)[[0] * 10 + [1] * 10] + 0.1 * torch.randn(20, 8, generator=draw)
    names = (*(f"noun{chr(97 + place)}" for place in range(19)), "woman")
    table = NounTable(names, F.normalize(kinds, dim=1), flat, flat, torch.zeros(20)).kinds()
    best = torch.randint(0, 6, (4000,), generator=draw) + 10 * (torch.arange(4000) % 2)
    sure = torch.where(best < 10, 0.8, 0.3)
    truth = [True, *(torch.rand(4000, generator=draw) < sure).tolist()]
    measures = torch.randn(4000, len(FEATURES), generator=draw).tolist()
    odds = fitted_odds(table, [None, *best.tolist()], [measures[0], *measures], truth)
    assert odds.shape == (20,) and odds[19] == 0  # people are in boxes of all kinds
    assert odds[:10].min() > odds[10:19].max() + 0.2
    assert odds[:10].mean() > odds[10:19].mean() + 1
    assert not fitted_odds(table, [], [], []).any()  # of a part of very few photos


@pytest.mark.parametrize(
    "change",
    [{"bias": "x"}, {"weights": [1.0]}, {"deviation": [0.0, 1.0]}, {"bias": float("nan")},
     {"mean": None}, {"inputs": ["x"]}],
)  # fmt: skip
def test_a_logistic_survives_json_and_damage_is_refused(change: dict[str, object]) -> None:
    fitted = Logistic(("x", "y"), (0.1, 0.2), (1.0, 2.0), (0.5, -1 / 3), 0.25, 0.7)
    stored = fitted.to_json()
    again = Logistic.from_json(stored, "here")
    np.testing.assert_allclose(again([[1.0, 2.0]]), fitted([[1.0, 2.0]]), rtol=1e-5)
    with pytest.raises(CheckpointError, match="here"):
        Logistic.from_json({**stored, **change}, "here")


def test_the_fit_is_where_the_slope_of_the_penalised_loss_is_nought() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(200, 3)) * [1.0, 5.0, 0.1] + 2
    answers = rows[:, 0] + 0.2 * rows[:, 1] + generator.normal(size=200) > 3
    fitted = fit_logistic(("a", "b", "c"), rows, answers, penalty=2.0)
    standard = (rows - rows.mean(0)) / rows.std(0)
    share = np.where(answers, 100 / answers.sum(), 100 / (~answers).sum())
    error = share * (fitted(rows) - answers)
    np.testing.assert_allclose(standard.T @ error + 2.0 * np.array(fitted.weights), 0, atol=1e-6)
    assert error.sum() == pytest.approx(0, abs=1e-6)
    assert fitted(rows)[answers].mean() > fitted(rows)[~answers].mean() + 0.2


@pytest.mark.parametrize("text", ["{", "[1]", '[{"file_name": "a"}]', '[{"file_name": "a", "captions": []}]'])
def test_a_file_that_is_no_list_of_pairs_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "pairs.json").write_text(text)
    with pytest.raises(TextError, match=r"pairs\.json"):
        read_pairs(tmp_path / "pairs.json", tmp_path, limit=3)
