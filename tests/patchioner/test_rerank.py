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
from decoders.retrieval import RetrievalDecoder
from patchioner import Box, Patchioner, RegionSet, WholeImage
from patchioner.base.errors import CheckpointError, OptionError
from patchioner.checkpoints.folder import Parts
from patchioner.checkpoints.settings import KindSettings, ModelSettings, Rerank
from patchioner.cli.main import main
from patchioner.embedding import project
from patchioner.rerank import FEATURES, KEY, NounTable, named
from tests.support.tiny import TEXTS, noise_photo, tiny_parts

RERANK = Rerank(likelihood=0.01, photo=1.5, nouns=0.02, samples=4, temperature=8.0)
CALIBRATION = {
    "inputs": list(FEATURES),
    "mean": [0.0, 0.0, 0.5, 0.0],
    "deviation": [0.2, 0.2, 0.3, 1.0],
    "weights": [1.0, 0.5, 1.0, 0.3],
    "bias": 0.1,
    "threshold": 0.5,
}
BOXES = [Box(x, y, x + 24, y + 20) for x in (0, 20, 40, 60) for y in (0, 20, 40)]


def parts(nouns: bool = True, **settings: Any) -> Parts:
    tiny = tiny_parts()
    assert tiny.text_tower is not None
    chosen: dict[str, Any] = {"rerank": RERANK, "calibration": {KEY: CALIBRATION}} | settings
    table = NounTable.build(TEXTS, torch.randn(40, 64), tiny.text_tower) if nouns else None
    # It writes sentences with things in them, where the tiny network writes letters.
    decoder = RetrievalDecoder(64, temperature=0.05)
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
            noun = 0.0
            if nouns is not None:
                z = (nouns.embeddings @ unit - nouns.mean) / nouns.deviation
                noun = max(
                    (float(z[nouns.names.index(n)]) for n in named(one.text) if n in nouns.names),
                    default=0.0,
                )
            shares = [np.mean([n in named(o.text) for o in pool]) for n in named(one.text)]
            agree = max(shares, default=0.0)
            value = rule.likelihood * one.score + near - rule.photo * far + rule.nouns * noun
            if value > best[0] + 1e-9:
                best = value, one.text, [near, near - far, float(agree), noun]
        answers.append(best[1:])
    return answers


@pytest.mark.parametrize("nouns", [True, False])
def test_captions_and_confidences_are_those_of_plain_code(nouns: bool) -> None:
    torch.manual_seed(0)
    model = Patchioner(parts(nouns), device="cpu")
    found = model.caption(noise_photo(), BOXES)
    expected = naive(model, BOXES, RERANK)
    assert [one.text for one in found] == [text for text, _ in expected]
    for one, (_, features) in zip(found, expected, strict=True):
        terms = zip(
            features, *(CALIBRATION[k] for k in ("mean", "deviation", "weights")), strict=True
        )  # type: ignore[call-overload]
        logit = 0.1 + sum(
            (value - mean) / deviation * weight for value, mean, deviation, weight in terms
        )
        assert one.confidence == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-4)
    usual = model.caption(noise_photo(), BOXES, rerank=False)
    assert [one.text for one in usual] != [one.text for one in found]
    assert all(one.confidence is None for one in usual)


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
    kinds = {
        "box": KindSettings(rerank=Rerank(samples=0)),
        "region_set": KindSettings(rerank=RERANK),
    }
    model = Patchioner(parts(rerank=None, kinds=kinds), device="cpu")
    regions = [*BOXES, *(RegionSet([box, Box(70, 40, 90, 60)]) for box in BOXES), WholeImage()]
    found, usual = (model.caption(noise_photo(), regions, rerank=on) for on in (None, False))
    assert found[:12] == usual[:12]
    assert found[-1] == usual[-1]
    assert [one.text for one in found[12:]] != [one.text for one in usual[12:]]
    assert all(one.confidence is not None for one in found[12:-1])


def test_without_settings_nothing_changes() -> None:
    plain = Patchioner(replace(parts(rerank=None), nouns=None), device="cpu")
    assert plain.caption(noise_photo(), BOXES) == plain.caption(noise_photo(), BOXES, rerank=False)
    for wrong in ({"rerank": True}, {"min_confidence": 0.5}):
        with pytest.raises(OptionError, match="calibrate"):
            plain.caption(noise_photo(), BOXES, **wrong)


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
    assert model.caption(shown, rerank=False)[0].text is not None


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"min_confidence": 1.5}, "1.5"),
        ({"min_confidence": 0.5, "rerank": False}, "calibrate"),
        ({"min_confidence": 0.5, "options": DecodeOptions("sample")}, "calibrate"),
        ({"options": DecodeOptions("sample", samples=2)}, "samples is 2"),
    ],
)
def test_what_makes_no_sense_is_refused(
    model: Patchioner, asked: dict[str, Any], match: str
) -> None:
    with pytest.raises(OptionError, match=match):
        model.caption(noise_photo(), BOXES, **asked)


@pytest.mark.parametrize("change", [{"samples": -1}, {"temperature": 0.0}, {"photo": float("nan")}])
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(change))):
        Rerank(**change)
    with pytest.raises(CheckpointError):
        ModelSettings.from_json({**ModelSettings().to_json(), "rerank": change}, "here")


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
    assert again.settings.rerank == RERANK
    assert again.parts.nouns is not None
    assert model.parts.nouns is not None
    assert again.parts.nouns.names == model.parts.nouns.names
    assert torch.allclose(again.parts.nouns.embeddings, model.parts.nouns.embeddings, atol=1e-3)
    (tmp_path / "nouns" / "names.json").write_text('["cat"]')
    with pytest.raises(CheckpointError, match="nouns"):
        Patchioner.from_pretrained(tmp_path, device="cpu")


def test_reranking_needs_a_text_tower_and_calibrations_their_features() -> None:
    with pytest.raises(CheckpointError, match="text tower"):
        replace(parts(), text_tower=None)
    stored = {**CALIBRATION, "inputs": ["a", "b", "c", "d"]}
    with pytest.raises(CheckpointError, match="captions"):
        Patchioner(parts(calibration={KEY: stored}), device="cpu").caption(
            noise_photo(), min_confidence=0.1
        )


def test_the_command_calibrates_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Patchioner(parts(nouns=False, rerank=None, calibration={}), device="cpu").save_pretrained(
        tmp_path / "model"
    )
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
    assert model.settings.rerank == Rerank()
    photo = str(tmp_path / "1.png")
    (found,) = model.caption(photo)
    assert 0 <= (found.confidence or 0.0) <= 1
    asked = ["caption", photo, *where, "--device", "cpu", "--json"]
    assert main([*asked, "--min-confidence", "1"]) == 0
    (said,) = json.loads(capsys.readouterr().out)["captions"]
    assert said["text"] is None
    assert "below 1" in said["reason"]
    assert main([*asked, "--no-rerank"]) == 0
    assert "confidence" not in json.loads(capsys.readouterr().out)["captions"][0]
