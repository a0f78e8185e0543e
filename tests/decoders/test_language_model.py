"""Language models: a plain forward pass says the same, no row minds its batch, files are strict."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from decoders import DecodeOptions
from decoders import language_model as language
from decoders.gpt2 import GPT2
from decoders.language_decoder import PromptedModel
from decoders.language_model import build_language_model, fetch_language_model, fit_stored
from decoders.search import generate
from patchioner.base import errors
from patchioner.base.errors import CheckpointError, DecoderError, OptionError
from tests.decoders.conftest import token_ids
from tests.support import language as tiny
from tests.support import randn

KINDS = ["gpt2", "gpt2-transformers", "opt", "llama"]
DIM, CPU = 6, torch.device("cpu")
GREEDY = DecodeOptions(max_tokens=10)
BEAM = DecodeOptions("beam", beam_width=3, max_tokens=10)
SAMPLE = DecodeOptions("sample", temperature=0.7, top_p=0.9, seed=4, max_tokens=10)


ROWS = randn(9, DIM, seed=3)


class Driven:
    """A wild model with prefixes of different lengths."""

    def __init__(self, kind: str) -> None:
        name, _, foreign = kind.partition("-")
        model = tiny.language_model(name)
        tiny.spread(model, 8.0)
        self.twin = tiny.transformers_twin(model)
        self.model = self.twin if foreign else model
        self.map = randn(DIM, 5 * language.table_shape(model)[1], seed=1)
        self.tokenizer = tiny.language_tokenizer()
        own = self.model if isinstance(self.model, GPT2) else language.TransformersModel(self.model)
        self.driver = PromptedModel(own, self.prefixes, prefix_tokens=5)

    def prefixes(self, embeddings: Tensor) -> list[Tensor]:
        """1 to 5 vectors, by the row's own numbers."""
        vectors = zip((embeddings @ self.map).view(len(embeddings), 5, -1), embeddings, strict=True)
        return [row[: 1 + int((one > 0).sum()) % 5] for row, one in vectors]

    def __call__(self, embeddings: Tensor, options: DecodeOptions) -> Any:
        return generate(self.driver, self.tokenizer, embeddings, options, CPU)


@pytest.fixture(scope="module", params=KINDS)
def driven(request: pytest.FixtureRequest) -> Driven:
    return Driven(request.param)


@torch.no_grad()
def test_tokens_and_log_probs_are_those_of_an_uncached_unpadded_twin(driven: Driven) -> None:
    model, found = driven.twin, driven(ROWS, GREEDY)
    for row, one in zip(ROWS, found, strict=True):
        prefix, tokens = driven.prefixes(row[None])[0], torch.tensor(one.token_ids)
        words = model.get_input_embeddings()(tokens[:-1])
        logits = model(inputs_embeds=torch.cat([prefix, words])[None]).logits[0]
        expected = logits[len(prefix) - 1 :].log_softmax(dim=1)
        assert expected.argmax(dim=1).tolist() == list(one.token_ids)
        assert len(tokens) == 10 or one.token_ids[-1] == 0
        wanted = expected.gather(1, tokens[:, None]).squeeze(1).tolist()
        assert one.log_probs == pytest.approx(wanted, rel=1e-3, abs=1e-3)
    assert len(set(token_ids(found))) > 4 and len(set(map(len, driven.prefixes(ROWS)))) > 2


@pytest.mark.parametrize("options", [GREEDY, BEAM, SAMPLE])
def test_a_caption_does_not_depend_on_its_batch(driven: Driven, options: DecodeOptions) -> None:
    alone = [driven(row[None], options)[0].token_ids for row in ROWS]
    assert token_ids(driven(ROWS, options)) == alone
    few = driven(ROWS.flip(0), replace(options, batch_memory_mb=0.001))
    assert token_ids(few)[::-1] == alone


def test_several_end_tokens_end_a_caption() -> None:
    driven = Driven("gpt2")
    plain = driven(ROWS, GREEDY)
    ends = (plain[0].token_ids[3], plain[1].token_ids[2])
    driven.tokenizer = driven.tokenizer.ending_with(ends)
    for options in (GREEDY, BEAM, replace(GREEDY, min_tokens=6)):
        for one in driven(ROWS, options):
            assert not set(ends) & set(one.token_ids[:-1])
            assert one.token_ids[-1] in ends or len(one.token_ids) == 10
            assert len(one.token_ids) > options.min_tokens


@torch.no_grad()
def test_loss_equals_the_row_by_row_twin(driven: Driven) -> None:
    rows = [torch.tensor(ids) for ids in ([5, 9, 30, 0], [7, 0], [8, 80, 60, 50, 40, 0])]
    lengths = torch.tensor([len(ids) for ids in rows])
    prefixes, total = driven.prefixes(ROWS[:3]), torch.tensor(0.0)
    for prefix, ids in zip(prefixes, rows, strict=True):
        inputs = torch.cat([prefix, driven.twin.get_input_embeddings()(ids[:-1])])
        logits = driven.twin(inputs_embeds=inputs[None]).logits[0, len(prefix) - 1 :]
        total += functional.cross_entropy(logits, ids, label_smoothing=0.1, reduction="sum")
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    loss = driven.driver.loss(prefixes, tokens, lengths, 0.1)
    torch.testing.assert_close(loss, total / lengths.sum(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_model_without_a_cache_is_read_anew(kind: str) -> None:
    driven, options = Driven(kind), DecodeOptions("beam", beam_width=2, max_tokens=6)
    expected = token_ids(driven(ROWS, options))
    forward = driven.model.forward

    def without(**inputs: Any) -> Any:
        out = forward(**{**inputs, "use_cache": False})
        return type(out)(logits=out.logits)

    driven.model.forward = without
    assert token_ids(driven(ROWS, options)) == expected


@pytest.mark.parametrize("kind", ["gpt2", "opt", "qwen2", "mistral", "llama"])
def test_described_and_built_again_is_the_same_network(kind: str) -> None:
    tied = {"tie_word_embeddings": True} if kind == "llama" else {}
    model = tiny.language_model(kind, seed=1, **tied)
    config, state = language.describe_language_model(model), language.stored_state(model)
    assert config["model_type"] == kind and "_name_or_path" not in config
    again = build_language_model(config, seed=2)
    fit_stored(again, state, source="memory")
    torch.testing.assert_close(dict(again.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    if tied:  # such weights have one name, but may have two
        assert "lm_head.weight" not in state
        state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
        fit_stored(again, state, source="file")
        state["lm_head.weight"] += 1
        with pytest.raises(CheckpointError, match="lm_head"):
            fit_stored(again, state, source="file")


def test_a_folder_of_transformers_is_read_but_no_pickled_weights(tmp_path: Path) -> None:
    model, tokenizer = fetch_language_model(str(tiny.language_folder(tmp_path)))
    twin = tiny.language_model(seed=5)
    torch.testing.assert_close(dict(model.state_dict()), dict(twin.state_dict()), rtol=0, atol=0)
    assert tokenizer.end_ids == (0,) and tokenizer.decode(tokenizer.encode(["a cat"])[0]) == "a cat"
    (tmp_path / "model.safetensors").unlink()
    torch.save(tiny.transformers_twin(model).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(errors.HubError, match="safetensors"):
        fetch_language_model(str(tmp_path))


def test_impossible_configurations_are_refused() -> None:
    odd = {"model_type": "gpt2", "n_embd": 10, "n_head": 3}
    wrong: Any = ((odd, "gpt2"), ({"model_type": "gtp2"}, "gtp2"), ({}, "type"), (None, "type"))
    for config, word in wrong:
        with pytest.raises(CheckpointError, match=word):
            build_language_model(config)


def test_without_transformers_the_message_has_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert isinstance(build_language_model(tiny.language_config()), GPT2)
    with pytest.raises(errors.MissingExtraError, match="language-models"):
        build_language_model(tiny.language_config("opt"))


def test_what_cannot_be_driven_is_refused() -> None:
    model: Any = tiny.language_model(n_positions=12)
    driver = PromptedModel(model, lambda e: [torch.ones(5, 32)] * len(e), prefix_tokens=5)
    assert driver.max_tokens == 8
    with pytest.raises(DecoderError, match="positions for 8; lower max_tokens"):
        generate(driver, tiny.language_tokenizer(), ROWS, DecodeOptions(max_tokens=9), CPU)
    foreign: Any = tiny.language_model("opt")
    del foreign.model
    with pytest.raises(OptionError, match="OPT"):
        language.TransformersModel(foreign).check()
