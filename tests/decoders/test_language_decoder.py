"""The mappers against plain twins, and the published names and shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from decoders.language_decoder import MappingNetwork, PromptMLP
from patchioner.base.errors import OptionError
from tests.support import randn

DIM, WIDTH, HEADS, PROMPT, PROJECT = 5, 12, 3, 4, 2


def twin_of(layer: Any) -> nn.Module:
    """torch's own layer with the same weights."""
    twin = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
    )
    named = {
        "self_attn.in_proj_": [layer.attn.to_queries, layer.attn.to_keys_values],
        "self_attn.out_proj.": [layer.attn.project],
        "linear1.": [layer.mlp.fc1],
        "linear2.": [layer.mlp.fc2],
        "norm1.": [layer.norm1],
        "norm2.": [layer.norm2],
    }
    state = {}
    for name, parts in named.items():
        biases = [torch.zeros(len(one.weight)) if one.bias is None else one.bias for one in parts]
        state |= {f"{name}weight": torch.cat([one.weight for one in parts])}
        state |= {f"{name}bias": torch.cat(biases)}
    twin.load_state_dict(state)
    return twin.eval()


@torch.no_grad()
def test_the_mapping_network_equals_torchs_own_layers() -> None:
    network: Any = MappingNetwork(
        DIM, WIDTH, prompt_tokens=PROMPT, project_tokens=PROJECT, layers=2, heads=HEADS
    )
    for parameter in network.parameters():  # norms and biases that are not neutral
        parameter.add_(torch.randn_like(parameter) * 0.3)
    rows = randn(3, DIM)
    flat = rows @ network.linear.weight.T + network.linear.bias
    places = torch.cat(
        [flat.view(3, PROJECT, WIDTH), network.prefix_const.expand(3, -1, -1)], dim=1
    )
    for layer in network.transformer["layers"]:
        places = twin_of(layer)(places)
    torch.testing.assert_close(network(rows), places[:, PROJECT:], rtol=1e-5, atol=1e-5)


def test_the_mlp_is_linear_tanh_linear() -> None:
    made = PromptMLP(DIM, 8, prompt_tokens=3)
    row = torch.randn(1, DIM)
    with torch.no_grad():
        inner = (made.input.weight @ row[0] + made.input.bias).tanh()
        expected = (made.output.weight @ inner + made.output.bias).reshape(3, 8)
        torch.testing.assert_close(made(row)[0], expected)


@pytest.mark.parametrize(
    ("values", "word"),
    [({"heads": 5}, "heads"), ({"layers": 0}, "layers"), ({"prompt_tokens": 1.5}, "prompt_tokens")],
)
def test_impossible_shapes_are_refused(values: dict[str, Any], word: str) -> None:
    with pytest.raises(OptionError, match=word):
        MappingNetwork(DIM, WIDTH, **values)


def test_names_and_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        state = MappingNetwork(768, 768).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["linear.weight"] == (7680, 768) and shapes["prefix_const"] == (10, 768)
    assert shapes["transformer.layers.7.attn.to_keys_values.weight"] == (1536, 768)
    assert shapes["transformer.layers.7.mlp.fc2.weight"] == (768, 1536)
    assert len(shapes) == 3 + 8 * 12
