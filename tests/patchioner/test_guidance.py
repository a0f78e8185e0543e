"""Choosing among candidates, against plain code; confidence, abstention, files, the command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from decoders import DecodeOptions
from decoders.guidance import Guide
from decoders.retrieval import RetrievalDecoder
from patchioner import Box, Patchioner, RegionSet, WholeImage
from patchioner.base.errors import CheckpointError, OptionError
from patchioner.checkpoints.folder import Parts
from patchioner.checkpoints.settings import Guidance, KindSettings, ModelSettings, Rerank
from patchioner.cli.main import main
from patchioner.embedding import project
from patchioner.guidance import FEATURES, KEY
from patchioner.nouns import NounTable
from tests.support.tiny import TEXTS, noise_photo, tiny_parts

RERANK = Rerank(likelihood=0.01, photo=1.5, nouns=0.02, samples=4, temperature=8.0)
GUIDANCE = Guidance(contrast=0.9, nouns=0.7, beam_width=1)
CALIBRATION = {
    "inputs": list(FEATURES),
    "mean": [0.0, 0.5, 0.5],
    "deviation": [0.8, 0.9, 0.3],
    "weights": [1.0, -0.5, 0.3],
    "bias": 0.1,
    "threshold": 0.5,
}
BOXES = [Box(x, y, x + 24, y + 20) for x in (0, 20, 40, 60) for y in (0, 20, 40)]


def parts(writes: bool = False, **settings: Any) -> Parts:
    tiny = tiny_parts()
    assert tiny.text_tower is not None
    kinds = {kind: KindSettings(rerank=RERANK) for kind in ("box", "whole_image")}
    chosen: dict[str, Any] = {"kinds": kinds, "calibration": {KEY: CALIBRATION}} | settings
    table = NounTable.build(TEXTS, torch.randn(40, 64), tiny.text_tower)
    # It writes sentences with things in them, where the tiny network writes letters.
    decoder = tiny.decoder if writes else RetrievalDecoder(64, temperature=0.05)
    return replace(tiny, decoder=decoder, settings=replace(tiny.settings, **chosen), nouns=table)


@pytest.fixture(scope="module")
def model() -> Patchioner:
    torch.manual_seed(0)
    return Patchioner(parts(), device="cpu")


def naive(model: Patchioner, regions: Sequence[Any], rule: Rerank) -> list[tuple[str, list[float]]]:
    """One region, one candidate, one text at a time."""
    features = model.encode(noise_photo())
    held, answers = model.parts, []
    nouns = held.nouns
    assert nouns is not None
    (photo,) = F.normalize(model.embed_regions(features, [WholeImage()]), dim=1)
    for region in regions:
        row = model.embed_regions(features, [region])
        projected = project(row, held.settings, held.bank)
        pool = held.decoder.generate(projected, held.settings.decode, held.bank)
        for seed in range(rule.samples):
            how = {"strategy": "sample", "temperature": rule.temperature, "seed": seed}
            pool += held.decoder.generate(
                projected, replace(held.settings.decode, **how), held.bank
            )
        (unit,) = F.normalize(row, dim=1)
        best: tuple[float, str, list[float]] = (-np.inf, "", [])
        for one in pool:
            vector = F.normalize(model.embed_text([one.text]), dim=1)[0]
            near, far = float(vector @ unit), float(vector @ photo)
            z, there = (
                ((nouns.embeddings @ side - nouns.mean) / nouns.deviation).tolist()
                for side in (unit, photo)
            )
            said = [nouns.names.index(word) for word in one.text.split() if word in nouns.names]
            at = max(said, key=lambda place: z[place])
            value = rule.likelihood * one.score + near - rule.photo * far + rule.nouns * z[at]
            if value > best[0] + 1e-9:
                best = value, one.text, [z[at], there[at], float(unit @ photo)]
        answers.append(best[1:])
    return answers


def test_captions_and_confidences_are_those_of_plain_code(model: Patchioner) -> None:
    found = model.caption(noise_photo(), BOXES)
    expected = naive(model, BOXES, RERANK)
    assert [one.text for one in found] == [text for text, _ in expected]
    for one, (_, measured) in zip(found, expected, strict=True):
        columns = (CALIBRATION[key] for key in ("mean", "deviation", "weights"))
        terms = zip(measured, *columns, strict=True)  # type: ignore[call-overload]
        logit = 0.1 + sum((value - mean) / spread * weight for value, mean, spread, weight in terms)
        assert one.confidence == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-4)
    usual = model.caption(noise_photo(), BOXES, plain=True)
    assert [one.text for one in usual] != [one.text for one in found]


def test_captions_do_not_depend_on_the_batch(model: Patchioner) -> None:
    features = model.encode(noise_photo())
    other = model.encode(noise_photo(seed=5))
    alone = [model.caption(features, [box])[0] for box in BOXES]
    (_, among) = model.caption_many(
        [(other, BOXES[::2]), (features, [*BOXES, WholeImage(), *BOXES])]
    )
    for first, second in zip([*alone, *alone], [*among[:12], *among[13:]], strict=True):
        assert first.text == second.text
        assert first.confidence == pytest.approx(second.confidence, abs=1e-5)


def test_each_kind_has_its_own_way() -> None:
    torch.manual_seed(0)
    kinds = {"box": KindSettings(guidance=GUIDANCE), "region_set": KindSettings(rerank=RERANK)}
    model = Patchioner(parts(True, kinds=kinds, calibration={}), device="cpu")
    regions = [*BOXES, *(RegionSet([box, Box(70, 40, 90, 60)]) for box in BOXES), WholeImage()]
    found, usual = (model.caption(noise_photo(), regions, plain=on) for on in (False, True))
    assert found[-1].text == usual[-1].text
    assert [one.text for one in found[:12]] != [one.text for one in usual[:12]]
    assert [one.text for one in found[12:-1]] != [one.text for one in usual[12:-1]]
    assert model.caption(noise_photo(), BOXES, options=DecodeOptions("sample")) == model.caption(
        noise_photo(), BOXES, options=DecodeOptions("sample"), plain=True
    )


def test_a_guide_is_made_of_the_photo_and_its_nouns() -> None:
    torch.manual_seed(0)
    kinds = {"box": KindSettings(guidance=GUIDANCE)}
    held = parts(True, kinds=kinds, calibration={})
    assert held.nouns is not None
    model = Patchioner(held, device="cpu")
    features = model.encode(noise_photo())
    rows = model.embed_regions(features, BOXES)
    whole = model.embed_regions(features, [WholeImage()])
    z = (
        F.normalize(rows, dim=1) @ held.nouns.embeddings.T - held.nouns.mean
    ) / held.nouns.deviation
    around = project(whole, held.settings, held.bank).expand(len(BOXES), -1)
    guide = Guide(around, held.nouns.words, 0.7 * (z - 1).clamp(-3, 3), 0.9)
    options = replace(held.settings.decode, strategy="greedy")
    plain = held.decoder.generate(
        project(rows, held.settings, held.bank), options, held.bank, guide
    )
    assert [one.text for one in model.caption(features, BOXES)] == [one.text for one in plain]


def test_without_settings_nothing_changes() -> None:
    plain = Patchioner(replace(parts(kinds={}, calibration={}), nouns=None), device="cpu")
    assert plain.caption(noise_photo(), BOXES) == plain.caption(noise_photo(), BOXES, plain=True)
    with pytest.raises(OptionError, match="calibrate"):
        plain.caption(noise_photo(), BOXES, min_confidence=0.5)


def test_what_is_not_sure_enough_has_no_text_but_a_reason(model: Patchioner) -> None:
    all_of_them = model.caption(noise_photo(), BOXES)
    sure = sorted(one.confidence or 0.0 for one in all_of_them)
    least = (sure[5] + sure[6]) / 2
    found = model.caption(noise_photo(), BOXES, min_confidence=least)
    assert sum(one.text is None for one in found) == 6
    for before, after in zip(all_of_them, found, strict=True):
        assert after.confidence == before.confidence
        said = after.to_dict()
        assert said["confidence"] == pytest.approx(after.confidence, abs=1e-6)
        if after.text is None:
            assert f"{after.confidence:.2f}" in said["reason"]
            assert said["text"] is None
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


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"min_confidence": 1.5}, "1.5"),
        ({"options": DecodeOptions("sample", samples=2)}, "samples is 2"),
    ],
)
def test_what_makes_no_sense_is_refused(
    model: Patchioner, asked: dict[str, Any], match: str
) -> None:
    with pytest.raises(OptionError, match=match):
        model.caption(noise_photo(), BOXES, **asked)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (Rerank, {"samples": 0}),
        (Rerank, {"temperature": 0.0}),
        (Rerank, {"photo": float("nan")}),
        (Guidance, {"contrast": -0.1}),
        (Guidance, {"beam_width": 0}),
    ],
)
def test_settings_out_of_range_are_refused(kind: Any, change: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(change))):
        kind(**change)
    kinds = {"box": {kind.__name__.lower(): change}}
    with pytest.raises(CheckpointError):
        ModelSettings.from_json({**ModelSettings().to_json(), "kinds": kinds}, "here")


def test_samples_are_those_of_single_seeds() -> None:
    decoder = tiny_parts().decoder
    rows = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    rows[3] = rows[1]
    options = DecodeOptions("sample", max_tokens=8, temperature=1.3, seed=7)
    together = decoder.generate(rows, replace(options, samples=3))
    for sample in range(3):
        single = decoder.generate(rows, replace(options, seed=7 + sample))
        assert [one.token_ids for one in together[sample::3]] == [one.token_ids for one in single]


def test_a_checkpoint_keeps_it_all(model: Patchioner, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, storage="fp32")
    again = Patchioner.from_pretrained(tmp_path, device="cpu")
    assert again.settings == model.settings
    assert again.parts.nouns is not None
    assert model.parts.nouns is not None
    assert again.parts.nouns.names == model.parts.nouns.names
    assert torch.allclose(again.parts.nouns.embeddings, model.parts.nouns.embeddings, atol=1e-3)
    (tmp_path / "nouns" / "names.json").write_text('["cat"]')
    with pytest.raises(CheckpointError, match="nouns"):
        Patchioner.from_pretrained(tmp_path, device="cpu")


def test_settings_need_their_parts_and_calibrations_their_features() -> None:
    for missing in ("text_tower", "nouns"):
        with pytest.raises(CheckpointError, match=missing.replace("_", " ")):
            replace(parts(), **{missing: None})
    with pytest.raises(CheckpointError, match="Retrieval"):
        parts(kinds={"box": KindSettings(guidance=GUIDANCE)})  # sentences word for word
    stored = {**CALIBRATION, "inputs": ["a", "b", "c"]}
    with pytest.raises(CheckpointError, match="captions"):
        Patchioner(parts(calibration={KEY: stored}), device="cpu").caption(
            noise_photo(), min_confidence=0.1
        )


def test_the_command_calibrates_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = replace(parts(kinds={}, calibration={}), nouns=None)
    Patchioner(bare, device="cpu").save_pretrained(tmp_path / "model")
    rows = []
    for place in range(6):
        noise_photo(seed=place).save(tmp_path / f"{place}.png")
        texts = (
            TEXTS if place % 2 else TEXTS[place : place + 2]
        )  # some photos name all that can be said
        rows.append({"file_name": f"{place}.png", "captions": list(texts)})
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    given = ["--pairs", str(tmp_path / "pairs.json"), "--photos", str(tmp_path), "--device", "cpu"]
    where = ["--model", str(tmp_path / "model")]
    assert main(["calibrate", *where, *given, "--write"]) == 0
    printed = json.loads(capsys.readouterr().out)
    model = Patchioner.from_pretrained(tmp_path / "model", device="cpu")
    assert model.settings.calibration[KEY] == printed
    assert printed["measured"]["photos"] == 6
    assert model.settings.kinds["region_set"].rerank == Rerank()
    assert "box" not in model.settings.kinds  # sentences word for word are not guided
    photo = str(tmp_path / "1.png")
    (found,) = model.caption(photo)
    assert 0 <= (found.confidence or 0.0) <= 1
    asked = ["caption", photo, *where, "--device", "cpu", "--json"]
    assert main([*asked, "--min-confidence", "1"]) == 0
    (said,) = json.loads(capsys.readouterr().out)["captions"]
    assert said["text"] is None
    assert "below 1" in said["reason"]
    assert main([*asked, "--plain"]) == 0
    assert json.loads(capsys.readouterr().out)["captions"][0]["text"]
