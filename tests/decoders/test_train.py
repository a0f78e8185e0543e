"""Training: it learns, resumes to the same place, and refuses bad input."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decoders import PrefixGPT2Decoder, TrainOptions, TrainReport, train_decoder
from decoders.train import _Corpus, _split, epoch_batches
from patchioner.base.errors import CheckpointError, DecoderError, OptionError, TextError

OPTIONS = TrainOptions(
    steps=14, batch=8, warmup_steps=3, validate_every=5, checkpoint_every=4, validation_share=0.1
)


class Killed(Exception):
    """Stands for a killed process."""


@pytest.fixture
def clone(corpus: list[str]) -> Any:
    def make() -> PrefixGPT2Decoder:
        return PrefixGPT2Decoder.create(
            corpus, embedding_dim=12, layers=1, width=16, heads=2, vocab_size=280, positions=20
        )

    return make


def weights(decoder: PrefixGPT2Decoder) -> Tensor:
    return torch.cat([p.detach().flatten() for p in decoder.network.parameters()])


def test_killed_and_resumed_ends_where_an_uninterrupted_run_does(
    clone: Any, corpus: list[str], embed: Any, tmp_path: Path
) -> None:
    whole, seen, state = clone(), list[TrainReport](), torch.get_rng_state()
    straight = train_decoder(whole, corpus, embed, OPTIONS, on_report=seen.append)
    assert seen == straight and [report.step for report in straight] == [5, 10, 14]
    assert straight[-1].train_loss < straight[0].train_loss
    assert len(straight[0].samples) == OPTIONS.samples
    assert torch.equal(torch.get_rng_state(), state) and not whole.network.training

    def die(report: TrainReport) -> None:
        if report.step == 10:
            raise Killed

    with pytest.raises(Killed):
        train_decoder(clone(), corpus, embed, OPTIONS, checkpoint_folder=tmp_path, on_report=die)
    resumed = clone()
    options = replace(OPTIONS, checkpoint_every=3)  # how often to save is free to change
    reports = train_decoder(
        resumed, corpus, embed, options, checkpoint_folder=tmp_path, resume=True
    )
    assert torch.equal(weights(resumed), weights(whole))
    assert reports[-1].validation_loss == straight[-1].validation_loss
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("change", ["options", "corpus"])
def test_checkpoint_of_another_run_is_refused(
    clone: Any, corpus: list[str], embed: Any, tmp_path: Path, change: str
) -> None:
    train_decoder(clone(), corpus, embed, OPTIONS, checkpoint_folder=tmp_path)
    options = replace(OPTIONS, noise_sigma=0.5) if change == "options" else OPTIONS
    texts = [*corpus, "a new text"] if change == "corpus" else corpus
    with pytest.raises(CheckpointError, match="noise_sigma" if change == "options" else "corpus"):
        train_decoder(clone(), texts, embed, options, checkpoint_folder=tmp_path, resume=True)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.pt", "state.json"])
def test_damaged_checkpoint_is_refused_by_file(
    clone: Any, corpus: list[str], embed: Any, tmp_path: Path, name: str
) -> None:
    train_decoder(clone(), corpus, embed, OPTIONS, checkpoint_folder=tmp_path)
    path = tmp_path / "checkpoint" / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CheckpointError, match=name):
        train_decoder(clone(), corpus, embed, OPTIONS, checkpoint_folder=tmp_path, resume=True)


def test_noise_is_added_to_unit_embeddings_then_normalised(
    clone: Any, corpus: list[str], embed: Any
) -> None:
    indices = np.arange(len(corpus))
    options = replace(OPTIONS, noise_sigma=0.08)
    made = _Corpus(clone(), corpus, embed(corpus) * 50, options, None)
    clean, noisy = made.embeddings(indices, noise=False), made.embeddings(indices)
    torch.testing.assert_close(noisy.norm(dim=1), torch.ones(len(corpus)))
    # To first order the noise across the unit vector stays: sigma times sqrt(dim - 1).
    distance = (noisy - clean).norm(dim=1).pow(2).mean().sqrt()
    assert float(distance) == pytest.approx(0.08 * 11**0.5, rel=0.1)


def test_corrupt_gets_the_noisy_unit_embeddings(clone: Any, corpus: list[str], embed: Any) -> None:
    seen: list[Tensor] = []

    def corrupt(rows: Tensor) -> Tensor:
        seen.append(rows)
        return -rows

    out = _Corpus(clone(), corpus, embed, OPTIONS, corrupt).embeddings(np.arange(4))
    assert torch.equal(out, -seen[0])
    torch.testing.assert_close(seen[0].norm(dim=1), torch.ones(4))


def test_bad_input_is_refused(clone: Any, corpus: list[str], embed: Any) -> None:
    for held_out in ([0, 0], [-1], [10_000]):
        with pytest.raises(OptionError, match="different indices"):
            train_decoder(clone(), corpus, embed, OPTIONS, held_out=held_out)
    diverging = clone()
    with torch.no_grad():
        diverging.network.prefix.bias.fill_(torch.inf)
    with pytest.raises(DecoderError, match="step 0"):
        train_decoder(diverging, corpus, embed, OPTIONS)
    with pytest.raises(TextError, match="no text"):
        train_decoder(clone(), [], embed, OPTIONS)
    with pytest.raises(DecoderError, match=r"\(90, 12\)"):
        train_decoder(clone(), corpus, embed(corpus)[:, :5], OPTIONS)
    with pytest.raises(DecoderError, match="embed gave"):
        train_decoder(clone(), corpus, lambda texts: torch.zeros(len(texts), 3), OPTIONS)
    with pytest.raises(DecoderError, match="not finite"):
        train_decoder(clone(), corpus, embed(corpus) * torch.nan, OPTIONS)
    with pytest.raises(DecoderError, match="corrupt gave"):
        train_decoder(clone(), corpus, embed, OPTIONS, corrupt=lambda rows: rows[:1])


def test_chosen_texts_are_held_out_as_a_share_would_be(
    clone: Any, corpus: list[str], embed: Any
) -> None:
    share = clone()
    chosen = clone()
    reports = train_decoder(share, corpus, embed, OPTIONS)
    held_out = _split(None, len(corpus), OPTIONS)[1].tolist()
    same = train_decoder(chosen, corpus, embed, OPTIONS, held_out=held_out[::-1])
    assert [r.validation_loss for r in same] == [r.validation_loss for r in reports]
    assert [r.samples for r in same] == [r.samples for r in reports]
    assert torch.equal(weights(share), weights(chosen))


# Batches: every text once, little padding, the same order for the same seed.


@given(st.lists(st.integers(1, 30), min_size=1, max_size=400), st.integers(1, 7), st.integers(0, 3))
def test_every_index_once_and_as_many_batches_as_told(
    lengths: list[int], batch: int, epoch: int
) -> None:
    batches = epoch_batches(np.array(lengths), batch, seed=1, epoch=epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch)
    assert max(map(len, batches)) <= batch


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("noise_sigma", -0.1),
        ("label_smoothing", 1.0),
        ("validation_share", 1.0),
        ("steps", 0),
        ("decay", "none"),
        ("seed", 2**64),
    ],
)
def test_bad_train_option_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=name):
        TrainOptions(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_rate_rises_then_falls_to_zero(decay: str) -> None:
    options = TrainOptions(learning_rate=1.0, warmup_steps=4, decay=decay)  # type: ignore[arg-type]
    rates = [options.rate_at(step, 20) for step in range(21)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[12] == pytest.approx(0.5)
    assert rates[20] == pytest.approx(0.0)
