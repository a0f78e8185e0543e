"""A whole adaptation of a tiny checkpoint: what comes out, what stays, what is refused."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from decoders import DecodeOptions, PrefixGPT2Decoder, TrainReport
from memory_bank import MemoryBank
from patchioner import Patchioner
from patchioner.adaptation import AdaptOptions, DecoderShape, adapt
from patchioner.base.errors import OptionError, PatchionerError, TextError
from patchioner.checkpoints.folder import read_checkpoint
from patchioner.checkpoints.parts import Parts
from tests.support.tiny import WORDS, noise_photo, tiny_parts

CORPUS = [
    f"{colour.title()} {thing}, {trim}."
    for colour in ("red", "blue", "green", "black")
    for thing in ("cat", "dog", "bus", "boat", "kite", "chair")
    for trim in ("with bell", "on a table")
]
QUICK = AdaptOptions(epochs=2, batch=8, learning_rate=2e-3)
SHAPE = DecoderShape(layers=1, width=32, heads=2, vocab_size=270, positions=40)


class Killed(Exception):
    """Stands for a killed process."""


def weights(parts: Parts) -> Tensor:
    assert isinstance(parts.decoder, PrefixGPT2Decoder)
    return torch.cat([p.detach().flatten() for p in parts.decoder.network.parameters()])


@pytest.fixture(scope="module")
def source() -> Parts:
    return tiny_parts()


@pytest.fixture(scope="module")
def adapted(source: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapt(source, CORPUS, tmp_path_factory.mktemp("runs") / "catalogue", QUICK)


def test_the_result_loads_and_captions_what_no_one_has_seen(adapted: Path) -> None:
    model = Patchioner.from_pretrained(adapted, device="cpu")
    (caption,) = model.caption(noise_photo())
    assert caption.text == caption.text.lower() and caption.score < 0
    explanation = model.explain(model.encode(noise_photo()), caption.region, k=2)
    assert set(explanation.texts) <= {text.lower().rstrip(".") for text in CORPUS}


def test_settings_carry_over_under_a_new_name(source: Parts, adapted: Path) -> None:
    found = read_checkpoint(adapted).settings
    expected = replace(source.settings, name="catalogue", projection="memory", decode=found.decode)
    assert found == expected


def test_captions_may_become_as_long_as_the_corpus(source: Parts, adapted: Path) -> None:
    parts = read_checkpoint(adapted)
    assert isinstance(parts.decoder, PrefixGPT2Decoder)
    longest = max(map(len, parts.decoder.sequences([t.lower().rstrip(".") for t in CORPUS])))
    assert longest > source.settings.decode.max_tokens
    assert parts.settings.decode == replace(source.settings.decode, max_tokens=longest)


def test_the_other_parts_stay_as_they_are(source: Parts, adapted: Path) -> None:
    parts = read_checkpoint(adapted)
    assert source.text_tower is not None and parts.text_tower is not None
    text = ["a red cat on a table"]
    assert torch.allclose(
        parts.text_tower.encode(text), source.text_tower.encode(text), rtol=0.01, atol=0.01
    )
    one, other = (p.backbone.encode([noise_photo()])[0].tokens for p in (source, parts))
    assert torch.nn.functional.cosine_similarity(one, other, dim=-1).min() > 0.999


def test_the_bank_holds_every_sentence_once_with_its_text(adapted: Path) -> None:
    bank = MemoryBank.load(adapted / "memory_bank", memory_map=False)
    assert bank.texts is not None
    assert sorted(bank.texts) == sorted(text.lower().rstrip(".") for text in CORPUS)
    assert int(bank.counts.sum()) == len(CORPUS)


def test_the_source_is_left_untouched(source: Parts, adapted: Path) -> None:
    assert torch.equal(weights(source), weights(tiny_parts()))
    assert source.bank is not None and tiny_parts().bank is not None
    assert source.bank.fingerprint() == tiny_parts().bank.fingerprint()  # type: ignore[union-attr]
    assert not torch.equal(weights(read_checkpoint(adapted)), weights(source))


def test_only_the_checkpoint_and_its_record_are_left(adapted: Path) -> None:
    assert sorted(path.name for path in adapted.iterdir()) == [
        "adaptation.json",
        "backbone",
        "config.json",
        "decoder",
        "memory_bank",
        "text_tower",
    ]
    record = json.loads((adapted / "adaptation.json").read_text(encoding="utf-8"))
    assert record["finished"] and record["bank_rows"] == len(CORPUS)
    assert record["sentences"] == len(CORPUS) - 2 and record["validation_loss"] > 0


def test_it_learns_to_write_the_corpus(source: Parts, tmp_path: Path) -> None:
    options = replace(QUICK, epochs=40, learning_rate=5e-3, noise=0.01, validation_share=0.0)
    out = adapt(source, CORPUS, tmp_path / "out", options)
    parts = read_checkpoint(out)
    assert parts.text_tower is not None
    wanted = [text.lower().rstrip(".") for text in CORPUS]
    decoded = parts.decoder.generate(parts.text_tower.encode(wanted), DecodeOptions(max_tokens=30))
    right = sum(answer.text == text for answer, text in zip(decoded, wanted, strict=True))
    assert right > len(wanted) // 2


def test_with_noise_regions_go_straight_to_the_decoder(source: Parts, tmp_path: Path) -> None:
    out = adapt(source, CORPUS, tmp_path / "out", replace(QUICK, noise=0.08))
    parts = read_checkpoint(out)
    assert parts.settings.projection == "none"
    assert parts.bank is not None and len(parts.bank) == len(CORPUS)  # to explain with


def test_a_fresh_decoder_has_the_shape_and_words_asked_for(source: Parts, tmp_path: Path) -> None:
    out = adapt(source, CORPUS, tmp_path / "out", replace(QUICK, fresh=SHAPE))
    decoder = read_checkpoint(out).decoder
    assert isinstance(decoder, PrefixGPT2Decoder)
    config = decoder.network.config
    assert (config.layers, config.width, config.heads) == (1, 32, 2)
    assert config.vocab_size <= 270 and decoder.max_tokens == 40


def test_the_old_vocabulary_can_write_new_words(source: Parts) -> None:
    assert isinstance(source.decoder, PrefixGPT2Decoder)
    text = "zabaglione whisk, 24 cm (épée)"
    assert not set(text.split()) & set(WORDS)
    assert source.decoder.decode(source.decoder.sequences([text])[0]) == text


def test_a_bank_can_be_compressed(source: Parts, tmp_path: Path) -> None:
    out = adapt(source, [*CORPUS, *CORPUS[:5]], tmp_path / "out", replace(QUICK, bank_rows=10))
    bank = MemoryBank.load(out / "memory_bank")
    assert len(bank) == 10 and bank.texts is not None
    assert int(bank.counts.sum()) == len(CORPUS) + 5


def test_validation_sentences_stay_out_of_the_bank(source: Parts, tmp_path: Path) -> None:
    reports: list[TrainReport] = []
    out = adapt(
        source,
        CORPUS,
        tmp_path / "out",
        QUICK,
        validation=["a yellow kite", "a yellow dog"],
        on_report=reports.append,
    )
    bank = MemoryBank.load(out / "memory_bank")
    assert len(bank) == len(CORPUS) and "a yellow kite" not in (bank.texts or ())
    assert {text for text, _ in reports[-1].samples} == {"a yellow kite", "a yellow dog"}


def test_what_is_held_out_is_not_in_the_bank_that_trains(
    source: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    module = "patchioner.adaptation.pipeline"
    monkeypatch.setattr(f"{module}.GapNoise", lambda bank, **_: seen.append(bank))
    adapt(source, CORPUS, tmp_path / "out", replace(QUICK, validation_share=0.25))
    assert len(seen[0]) == len(CORPUS) * 3 // 4


def test_reports_are_logged_with_loss_and_samples(
    source: Parts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        adapt(source, [*CORPUS, " ", *CORPUS[:3]], tmp_path / "out", QUICK)
    assert "left out 1 blank lines" in caplog.text and "3 repeats merged" in caplog.text
    assert "validation " in caplog.text and " -> " in caplog.text


@pytest.mark.parametrize("options", [QUICK, replace(QUICK, noise=0.1, fresh=SHAPE)])
def test_killed_and_resumed_ends_where_an_uninterrupted_run_does(
    source: Parts, tmp_path: Path, options: AdaptOptions
) -> None:
    whole = adapt(source, CORPUS, tmp_path / "whole" / "model", options)

    def kill(report: TrainReport) -> None:
        if report.step >= 4:
            raise Killed

    out = tmp_path / "parts" / "model"
    with pytest.raises(Killed):
        adapt(source, CORPUS, out, options, on_report=kill)
    assert not (out / "config.json").exists()
    with pytest.raises(PatchionerError, match=r"config\.json"):
        Patchioner.from_pretrained(out)
    steps: list[int] = []
    adapt(source, CORPUS, out, options, resume=True, on_report=lambda r: steps.append(r.step))
    assert steps[0] > 1
    one, other = read_checkpoint(out), read_checkpoint(whole)
    assert one.settings == other.settings and torch.equal(weights(one), weights(other))
    assert one.bank is not None and other.bank is not None
    assert one.bank.fingerprint() == other.bank.fingerprint()


def test_a_finished_run_has_nothing_left_to_do(
    source: Parts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = adapt(source, CORPUS, tmp_path / "out", QUICK)
    written = (out / "config.json").stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        assert adapt(source, CORPUS, out, QUICK, resume=True) == out
    assert "nothing left to do" in caplog.text
    assert (out / "config.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"options": replace(QUICK, seed=1)}, "options.seed"),
        ({"texts": CORPUS[1:]}, "corpus"),
        ({"source": tiny_parts(seed=3)}, "source.weights"),
    ],
)
def test_a_folder_of_another_run_is_refused(
    source: Parts, adapted: Path, change: dict[str, Any], named: str
) -> None:
    values: dict[str, Any] = {"source": source, "texts": CORPUS, "options": QUICK, **change}
    with pytest.raises(OptionError, match=named):
        adapt(values["source"], values["texts"], adapted, values["options"], resume=True)


def test_the_source_itself_is_never_written_over(adapted: Path) -> None:
    with pytest.raises(OptionError, match="another run"):
        adapt(read_checkpoint(adapted), CORPUS, adapted, QUICK, resume=True)


def test_nothing_is_written_for_a_bad_corpus(source: Parts, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for texts in ([], ["  "], CORPUS[:5], CORPUS[:5] * 10):
        for fresh in (None, SHAPE):
            with pytest.raises(TextError):
                adapt(source, texts, out, replace(QUICK, fresh=fresh))
    assert not out.exists()


def test_parts_that_cannot_be_adapted_are_refused(source: Parts, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no text tower"):
        adapt(replace(source, text_tower=None), CORPUS, tmp_path / "out")

    class Other:
        """Some other decoder."""

        embedding_dim = source.decoder.embedding_dim
        device = source.decoder.device

    other = replace(source, decoder=Other())  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="type Other .* from scratch"):
        adapt(other, CORPUS, tmp_path / "out", QUICK)
    adapt(other, CORPUS, tmp_path / "out", replace(QUICK, fresh=SHAPE))
