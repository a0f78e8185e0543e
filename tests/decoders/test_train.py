"""Training: it learns, resumes to the same place, refuses bad input; stored or in fewer bits it says the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decoders import DecodeOptions, PrefixGPT2Decoder, TrainOptions, TrainReport, load_decoder, train_decoder
from decoders.train import _Corpus, epoch_batches
from patchioner.base.errors import CheckpointError, DecoderError, OptionError, TextError
from tests.decoders.conftest import CORPUS, SHORT, embed_words, make_decoder, weights

OPTIONS = TrainOptions(steps=14, batch=8, warmup_steps=3, validate_every=5, checkpoint_every=4, validation_share=0.1)


def clone() -> PrefixGPT2Decoder:
    return make_decoder(layers=1, width=16, vocab_size=280)


def test_killed_and_resumed_ends_where_an_uninterrupted_run_does(tmp_path: Path) -> None:
    whole, seen, state = clone(), list[TrainReport](), torch.get_rng_state()
    straight = train_decoder(whole, CORPUS, embed_words, OPTIONS, on_report=seen.append)
    assert seen == straight and [report.step for report in straight] == [5, 10, 14]
    assert straight[-1].train_loss < straight[0].train_loss
    assert len(straight[0].samples) == OPTIONS.samples
    assert torch.equal(torch.get_rng_state(), state) and not whole.network.training

    def die(report: TrainReport) -> None:
        if report.step == 10:
            raise KeyboardInterrupt

    kept: dict[str, Any] = {"checkpoint_folder": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        train_decoder(clone(), CORPUS, embed_words, OPTIONS, **kept, on_report=die)
    resumed = clone()
    options = replace(OPTIONS, checkpoint_every=3)  # how often to save is free to change
    reports = train_decoder(resumed, CORPUS, embed_words, options, **kept, resume=True)
    assert torch.equal(weights(resumed), weights(whole))
    assert reports[-1].validation_loss == straight[-1].validation_loss
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_damaged_checkpoint_and_one_of_another_run_are_refused(tmp_path: Path) -> None:
    how: dict[str, Any] = {"checkpoint_folder": tmp_path}
    train_decoder(clone(), CORPUS, embed_words, OPTIONS, **how)
    how["resume"] = True
    with pytest.raises(CheckpointError, match="noise_sigma"):
        train_decoder(clone(), CORPUS, embed_words, replace(OPTIONS, noise_sigma=0.5), **how)
    with pytest.raises(CheckpointError, match="corpus"):
        train_decoder(clone(), [*CORPUS, "a new text"], embed_words, OPTIONS, **how)
    for name in ("weights.safetensors", "optimizer.pt", "state.json"):
        path = tmp_path / "checkpoint" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:20])
        with pytest.raises(CheckpointError, match=name):
            train_decoder(clone(), CORPUS, embed_words, OPTIONS, **how)
        path.write_bytes(whole)


def test_noise_is_added_to_unit_embeddings_then_normalised_then_corrupted() -> None:
    indices, seen = np.arange(len(CORPUS)), list[Tensor]()

    def corrupt(rows: Tensor) -> Tensor:
        seen.append(rows)
        return -rows

    options = replace(OPTIONS, noise_sigma=0.08)
    made = _Corpus(clone(), CORPUS, embed_words(CORPUS) * 50, options, corrupt)
    clean, noisy = made.embeddings(indices, noise=False), made.embeddings(indices)
    assert torch.equal(clean, -seen[0]) and torch.equal(noisy, -seen[1])
    torch.testing.assert_close(noisy.norm(dim=1), torch.ones(len(CORPUS)))
    # To first order the noise across the unit vector stays: sigma times sqrt(dim - 1).
    distance = (noisy - clean).norm(dim=1).pow(2).mean().sqrt()
    assert float(distance) == pytest.approx(0.08 * 11**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        *(({"held_out": held}, OptionError, "different") for held in ([0, 0], [-1], [9999], [1.5])),
        ({"texts": []}, TextError, "no text"),
        ({"texts": "a cat"}, TextError, "in a list"),
        ({"texts": [*CORPUS[1:], "a \ud83d cat"]}, TextError, "text 89 .* half a character"),
        ({"embed": embed_words(CORPUS)[:, :5]}, DecoderError, r"\(90, 12\)"),
        ({"embed": lambda texts: torch.zeros(len(texts), 3)}, DecoderError, "embed gave"),
        ({"embed": embed_words(CORPUS) * torch.nan}, DecoderError, "not finite"),
        ({"corrupt": lambda rows: rows[:1]}, DecoderError, "corrupt gave"),
        ({"options": replace(OPTIONS, learning_rate=1e38)}, DecoderError, "not finite at step 1"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], error: Any, message: str) -> None:
    given = {"texts": CORPUS, "embed": embed_words, "options": OPTIONS, **change}
    with pytest.raises(error, match=message):
        train_decoder(clone(), **given)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=400), st.integers(1, 7), st.integers(0, 3))
def test_every_index_is_in_one_batch(lengths: list[int], batch: int, epoch: int) -> None:
    batches = epoch_batches(np.array(lengths), batch, seed=1, epoch=epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch)
    assert max(map(len, batches)) <= batch


@pytest.mark.parametrize(("decay", "early"), [("linear", 0.75), ("cosine", 0.5 + 0.125**0.5)])
def test_rate_rises_then_falls_to_zero(decay: Any, early: float) -> None:
    options = TrainOptions(learning_rate=1.0, warmup_steps=4, decay=decay)
    rates = [options.rate_at(step, 20) for step in range(21)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert [rates[8], rates[12]] == pytest.approx([early, 0.5])
    assert rates[20] == pytest.approx(0.0)


@pytest.mark.parametrize(("storage", "tolerance"), [("fp32", 0), ("fp16", 0.01), ("int8", 0.2)])
def test_trained_and_loaded_again(trained: PrefixGPT2Decoder, tmp_path: Path, storage: Any, tolerance: float) -> None:
    rows = embed_words(CORPUS[:30])
    captions = trained.generate(rows, SHORT)
    assert sum(one.text == text for one, text in zip(captions, CORPUS, strict=False)) >= 24
    trained.save(tmp_path, storage=storage)
    loaded = load_decoder(tmp_path).generate(rows, SHORT)
    assert [one.text for one in loaded] == [one.text for one in captions]
    assert [o.score for o in loaded] == pytest.approx([o.score for o in captions], abs=tolerance)


@pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
def test_with_fewer_bits_it_says_nearly_the_same(trained: PrefixGPT2Decoder, strategy: Any) -> None:
    rows = embed_words(CORPUS)
    state = {name: tensor.clone() for name, tensor in trained.network.state_dict().items()}
    options = DecodeOptions(strategy, max_tokens=12, temperature=0.5)
    before = trained.generate(rows, options)
    after = trained.to("cpu", torch.bfloat16).generate(rows, options)
    same = sum(one.text == other.text for one, other in zip(before, after, strict=True))
    assert same >= 0.9 * len(rows)
    assert sum(abs(a.score - b.score) for a, b in zip(before, after, strict=True)) < 0.1 * len(rows)
    torch.testing.assert_close(dict(trained.network.state_dict()), state, rtol=0, atol=0)
