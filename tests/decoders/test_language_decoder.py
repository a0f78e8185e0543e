"""Any language model behind a prefix: what trains, what is stored, and that it learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from decoders import load_decoder, train_decoder
from decoders.language_decoder import LanguageDecoder, PromptMLP
from tests.decoders.conftest import DIM, PAIRS, SHORT, embed_words, on_language_model, quick, weights

OPTIONS = quick(steps=8, warmup_steps=2, validate_every=3, checkpoint_every=2, validation_share=0.1)


@pytest.mark.parametrize(
    ("kind", "model", "settings", "storage"),
    [
        ("prefix_lm", "gpt2", {"tune": "frozen"}, "fp32"),
        ("prefix_lm", "opt", {}, "fp16"),
        ("prefix_lm", "llama", {"tune": "full"}, "fp32"),
        ("viecap", "gpt2", {}, "int8"),
    ],
)
def test_training_changes_what_it_should_and_is_stored(
    tmp_path: Path, kind: str, model: str, settings: dict[str, Any], storage: Any
) -> None:
    decoder = on_language_model(kind, model, **settings)
    base = {n: p.detach().clone() for n, p in decoder.model.named_parameters()}
    before = weights(decoder)
    reports = train_decoder(decoder, PAIRS, embed_words, OPTIONS)
    assert reports[-1].train_loss < reports[0].train_loss
    assert not torch.equal(weights(decoder), before)
    after, tune = dict(decoder.model.named_parameters()), decoder.config.tune
    assert all(torch.equal(base[name], after[name]) for name in base) == (tune != "full")
    assert not decoder.model.training
    decoder.save(tmp_path, storage=storage)
    stored = load_file(tmp_path / "weights.safetensors")
    if (kind, model) == ("prefix_lm", "gpt2"):  # as others have it
        assert stored["language_model.transformer.h.0.attn.c_attn.weight"].shape == (32, 96)
        assert "mapper.input.weight" in stored
    loaded = load_decoder(tmp_path)
    assert isinstance(loaded, LanguageDecoder) and loaded.config == decoder.config
    left, right = (one.generate(embed_words(PAIRS[:8]), SHORT) for one in (decoder, loaded))
    if storage == "fp32":
        assert left == right
    assert [o.score for o in right] == pytest.approx([o.score for o in left], abs=0.1)
    # A loaded decoder can be trained further.
    again = train_decoder(loaded, PAIRS, embed_words, quick(steps=2))
    assert torch.isfinite(torch.tensor(again[-1].train_loss))


def test_the_mlp_is_linear_tanh_linear() -> None:
    made, row = PromptMLP(DIM, 8, prompt_tokens=3), embed_words(["cat"])
    with torch.no_grad():
        inner = (made.input.weight @ row[0] + made.input.bias).tanh()
        expected = (made.output.weight @ inner + made.output.bias).reshape(3, 8)
        torch.testing.assert_close(made(row)[0], expected)
