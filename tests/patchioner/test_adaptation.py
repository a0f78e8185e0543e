"""Adaptations from text alone: corpus, options, noise, checkpoints; killed runs resumed."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from decoders import DecodeOptions, TrainReport
from memory_bank import MemoryBank
from patchioner import Patchioner, adaptation
from patchioner.adaptation import GapNoise, NewDecoder, adapt, clean, gather, usual_training
from patchioner.base.errors import OptionError, PatchionerError, TextError
from patchioner.checkpoints.folder import Parts, read_checkpoint
from tests.decoders.conftest import weights
from tests.support import Log, randn
from tests.support.language import language_folder
from tests.support.tiny import TEXTS, noise_photo, tiny_parts

COLOURS, THINGS = ("Red", "Blue", "Green", "Black"), ("cat", "dog", "bus", "boat", "kite", "chair")
TRIMS = ("with bell", "on a table")
CORPUS = [f"{colour} {one}, {trim}." for colour in COLOURS for one in THINGS for trim in TRIMS]
WRITTEN = [text.lower().rstrip(".") for text in CORPUS]
QUICK = usual_training(epochs=2, batch=8, learning_rate=2e-3, samples=0)
SHAPE = NewDecoder(layers=1, width=32, heads=2, vocab_size=270, positions=40)
KINDS: dict[str, dict[str, Any]] = {
    "viecap": {"type": "viecap"},
    "meacap": {"type": "meacap"},
    "prefix_lm": {"type": "prefix_lm"},
    "full": {"type": "prefix_lm", "tune": "full"},
}


class Killed(Exception):
    """Stands for a killed process."""


@pytest.fixture(scope="module")
def source() -> Parts:
    return tiny_parts()


@pytest.fixture(scope="module")
def adapted(source: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapt(source, CORPUS, tmp_path_factory.mktemp("runs") / "catalogue", QUICK)


def test_the_result_stands_alone_and_its_source_is_as_it_was(source: Parts, adapted: Path) -> None:
    (caption,) = Patchioner.from_pretrained(adapted, device="cpu").caption(noise_photo())
    assert caption.text and caption.text == caption.text.lower() and caption.score < 0
    parts, fresh = read_checkpoint(adapted), tiny_parts()
    due: Any = {"name": "catalogue", "projection": "memory", "decode": parts.settings.decode}
    assert parts.settings == replace(source.settings, **due)
    assert parts.bank and source.bank and fresh.bank and parts.bank.texts
    assert sorted(parts.bank.texts) == sorted(WRITTEN)
    one, other = (p.backbone.encode([noise_photo()])[0].tokens for p in (source, parts))
    assert F.cosine_similarity(one, other, dim=-1).min() > 0.999
    assert source.bank.fingerprint() == fresh.bank.fingerprint()
    assert torch.equal(weights(source.decoder), weights(fresh.decoder))
    assert not torch.equal(weights(parts.decoder), weights(source.decoder))
    names = {"adaptation.json", "backbone", "config.json", "decoder", "memory_bank", "text_tower"}
    assert {path.name for path in adapted.iterdir()} == names
    record = json.loads((adapted / "adaptation.json").read_text(encoding="utf-8"))
    assert record["finished"] and record["bank_rows"] == len(CORPUS)


def test_it_learns_to_write_the_corpus(source: Parts, tmp_path: Path) -> None:
    options = replace(QUICK, epochs=40, learning_rate=5e-3, noise_sigma=0.01, validation_share=0.0)
    parts = read_checkpoint(adapt(source, CORPUS, tmp_path / "out", options))
    assert parts.text_tower is not None
    rows = parts.text_tower.encode(WRITTEN)
    decoded = parts.decoder.generate(rows, DecodeOptions(max_tokens=30))
    right = sum(answer.text == text for answer, text in zip(decoded, WRITTEN, strict=True))
    assert right > len(WRITTEN) // 2


def test_what_validates_is_in_no_bank(source: Parts, tmp_path: Path) -> None:
    """Neither in that which is kept, where it is foreign, nor in that which training passes."""
    reports, held_out = list[TrainReport](), ["a yellow kite", "a yellow dog"]
    how: dict[str, Any] = {"bank_rows": 10, "validation": held_out, "on_report": reports.append}
    out = adapt(source, [*CORPUS, *CORPUS[:5]], tmp_path / "out", replace(QUICK, samples=2), **how)
    bank = MemoryBank.load(out / "memory_bank")
    assert len(bank) == 10 and not set(held_out) & set(bank.texts or held_out)
    assert int(bank.counts.sum()) == len(CORPUS) + 5
    assert {text for text, _ in reports[-1].samples} == set(held_out)
    with patch.object(adaptation, "GapNoise", return_value=None) as noise:
        adapt(source, CORPUS, tmp_path / "share", replace(QUICK, validation_share=0.25))
    assert len(noise.call_args.args[0]) == len(CORPUS) * 3 // 4


@pytest.mark.parametrize("kind", ["own", "full"])
def test_killed_and_resumed_it_ends_the_same(source: Parts, tmp_path: Path, kind: str) -> None:
    how: dict[str, Any] = {"training": QUICK}
    if kind in KINDS:
        model = str(language_folder(tmp_path / "language"))
        how["fresh"] = NewDecoder(language_model=model, **KINDS[kind])
    whole = adapt(source, CORPUS, tmp_path / "whole" / "model", **how)

    def kill(report: TrainReport) -> None:
        if report.step >= 4:
            raise Killed

    out, steps = tmp_path / "parts" / "model", list[int]()
    with pytest.raises(Killed):
        adapt(source, CORPUS, out, **how, on_report=kill)
    with pytest.raises(PatchionerError, match=r"config\.json"):
        Patchioner.from_pretrained(out)
    adapt(source, CORPUS, out, **how, resume=True, on_report=lambda r: steps.append(r.step))
    one, other = read_checkpoint(out), read_checkpoint(whole)
    assert steps[0] > 1 and one.settings == other.settings
    assert torch.equal(weights(one.decoder), weights(other.decoder))
    assert one.bank and other.bank and one.bank.fingerprint() == other.bank.fingerprint()


def test_a_finished_run_and_a_folder_of_another(source: Parts, adapted: Path, caplog: Log) -> None:
    written = (adapted / "config.json").stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        assert adapt(source, CORPUS, adapted, QUICK, resume=True) == adapted
    assert "nothing left to do" in caplog.text
    assert (adapted / "config.json").stat().st_mtime_ns == written
    for parts, texts, training, named in (
        (source, CORPUS, replace(QUICK, seed=1), "options.seed"),
        (source, CORPUS[1:], QUICK, "corpus"),
        (tiny_parts(seed=3), CORPUS, QUICK, "source.weights"),
    ):
        with pytest.raises(OptionError, match=named):
            adapt(parts, texts, adapted, training, resume=True)


def test_what_cannot_be_adapted(source: Parts, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for texts in ([], ["  "], CORPUS[:5], CORPUS[:5] * 10):
        for fresh in (None, SHAPE):
            with pytest.raises(TextError):
                adapt(source, texts, out, QUICK, fresh=fresh)
    for wrong in ({"bank_rows": 0}, {"storage": "fp8"}):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            adapt(source, CORPUS, out, QUICK, **wrong)
    with pytest.raises(OptionError, match="no text tower"):
        adapt(replace(source, tower=None), CORPUS, out)
    own = source.decoder
    other = replace(source, decoder=Mock(embedding_dim=own.embedding_dim, device=own.device))
    with pytest.raises(OptionError, match="Mock .* from scratch"):
        adapt(other, CORPUS, out, QUICK)
    assert not out.exists()
    adapt(other, CORPUS, out, QUICK, fresh=SHAPE)


@pytest.mark.parametrize("values", KINDS.values(), ids=KINDS)
def test_to_captions_and_on_again(source: Parts, tmp_path: Path, values: dict[str, Any]) -> None:
    folder = language_folder(tmp_path / "language")
    fresh = NewDecoder(language_model=str(folder), **values)
    out = adapt(source, TEXTS, tmp_path / "one", QUICK, fresh=fresh)
    (caption,) = Patchioner.from_pretrained(out, device="cpu").caption(noise_photo())
    assert isinstance(caption.text, str) and caption.score < 0
    first = read_checkpoint(out)
    assert json.loads((out / "decoder" / "config.json").read_text())["type"] == values["type"]
    again = read_checkpoint(adapt(first, TEXTS, tmp_path / "two", replace(QUICK, noise_sigma=0.05)))
    assert not torch.equal(weights(again.decoder), weights(read_checkpoint(out).decoder))
    assert again.settings.projection == "none"
    language_folder(folder, seed=9)
    with pytest.raises(OptionError, match="source.weights"):  # another model, another run
        adapt(source, TEXTS, out, QUICK, fresh=fresh, resume=True)


@pytest.mark.parametrize(("make", "values", "word"), [
    (usual_training, {"noise_sigma": float("inf")}, "noise"), (usual_training, {"epochs": -1.0}, "epochs"),
    (NewDecoder, {"type": "viecat"}, "type"),
    (NewDecoder, {"type": "viecap", "language_model": ""}, "language_model"),
    (NewDecoder, {"type": "viecap", "tune": "full"}, "prefix_lm"),
    (NewDecoder, {"type": "meacap", "entities": ("cat",)}, "entities"),
    (NewDecoder, {"type": "prefix_lm", "tune": "lora"}, "tune"),
])  # fmt: skip
def test_impossible_values(make: Any, values: dict[str, Any], word: str) -> None:
    with pytest.raises(OptionError, match=word):
        make(**{"language_model": "gpt2", **values} if make is NewDecoder else values)


def test_a_share_of_rows_is_projected_all_stay_unit_and_the_seed_decides() -> None:
    rows, bank = F.normalize(randn(400, 16), dim=1), MemoryBank(randn(30, 16, seed=1))
    before = rows.clone()

    def corrupt(noise: GapNoise, seed: int = 0) -> Tensor:
        torch.manual_seed(seed)
        return noise(rows)

    for noise in (GapNoise(None), GapNoise(bank), GapNoise(bank, share=0.5)):
        out = corrupt(noise)
        torch.testing.assert_close(out.norm(dim=1), torch.ones(len(rows)))
        assert torch.equal(out, corrupt(noise)) and not torch.equal(out, corrupt(noise, seed=1))
    assert torch.equal(rows, before)
    out = corrupt(GapNoise(bank, 0.0, 0.0, share=0.3))
    kept = (out - rows).norm(dim=1) < 1e-5
    assert 0.6 < kept.float().mean() < 0.8
    torch.testing.assert_close(out[~kept], bank.project(rows)[~kept])


def test_cleaning_lowers_merges_and_drops(caplog: Log) -> None:
    with caplog.at_level(logging.INFO, "patchioner.adaptation"):
        corpus = clean(["A Mug .", "  ", "a  mug", "", "a bowl", "a mug."], "corpus")
    assert corpus == {"a mug": 3, "a bowl": 1}
    assert "2 blank lines" in caplog.text
    assert "2 distinct sentences, 2 repeats merged" in caplog.text
    for text, expected in (
        ("A Man riding a wave .", "a man riding a wave"), ("It 's a dog. A cat.", "it's a dog. a cat"),
        ("  two\tdogs ,\n one cat!  ", "two dogs, one cat!"), ("...", ""), ("", ""),
    ):  # fmt: skip
        assert adaptation.normalise(text) == expected


def test_a_share_or_a_file_but_for_repeats_is_held_out(caplog: Log) -> None:
    def fits(texts: Any) -> list[bool]:
        return [len(text.split()) <= 3 for text in texts]

    corpus = clean([f"mug {number}" for number in range(100)], "corpus")
    found = [gather(corpus, None, fits=fits, share=0.1, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] and found[0].held_out != found[2].held_out
    assert len(set(found[0].held_out)) == 10 and not found[0].foreign
    assert sorted([*found[0].held_out, *found[0].training]) == list(range(100))
    validation = clean(["mug 3", "bowl 1", "bowl 2", "one two three four"], "validation")
    with caplog.at_level(logging.WARNING, "patchioner.adaptation"):
        file = gather(corpus, validation, fits=fits, share=0.5, seed=0)
    assert file.training == list(range(100)) and file.foreign
    assert sorted(file.texts[row] for row in file.held_out) == ["bowl 1", "bowl 2"]
    assert "left out 1 sentences of the corpus itself" in caplog.text
    assert "validation: left out 1 sentences longer" in caplog.text
    with pytest.raises(TextError, match="no validation sentence"):
        gather(corpus, clean(["MUG 3."], "validation"), fits=fits, share=0.1, seed=0)
