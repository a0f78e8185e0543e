"""The mapping network against a plain twin written from its weights alone, and the published names and shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from decoders.language_decoder import MappingNetwork, PromptMLP
from patchioner.base.errors import OptionError

DIM, WIDTH, HEADS, PROMPT, PROJECT = 5, 12, 3, 4, 2


@pytest.fixture(scope="module")
def network() -> MappingNetwork:
    made = MappingNetwork(
        DIM, WIDTH, prompt_tokens=PROMPT, project_tokens=PROJECT, layers=2, heads=HEADS
    )
    with torch.no_grad():
        for parameter in made.parameters():  # norms and biases that are not neutral
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return made


def _norm(row: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centred = row - row.mean()
    unit = centred / (centred.pow(2).mean() + 1e-5).sqrt()
    return unit * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _plain(weights: dict[str, Tensor], embedding: Tensor, layers: int) -> Tensor:
    """One row, one place, one head at a time."""
    flat = weights["linear.weight"] @ embedding + weights["linear.bias"]
    places = [flat[i * WIDTH : (i + 1) * WIDTH] for i in range(PROJECT)]
    places += list(weights["prefix_const"])
    head = WIDTH // HEADS
    for layer in range(layers):
        name = f"transformer.layers.{layer}"
        normed = [_norm(row, weights, f"{name}.norm1") for row in places]
        queries = [weights[f"{name}.attn.to_queries.weight"] @ row for row in normed]
        both = [weights[f"{name}.attn.to_keys_values.weight"] @ row for row in normed]
        mixed = []
        for query in queries:
            pieces = []
            for h in range(HEADS):
                cut = slice(h * head, (h + 1) * head)
                logits = [query[cut] @ kv[:WIDTH][cut] / head**0.5 for kv in both]
                shares = torch.stack(logits).exp()
                shares = shares / shares.sum()
                values = [kv[WIDTH:][cut] for kv in both]
                pieces.append(sum(s * v for s, v in zip(shares, values, strict=True)))
            mixed.append(torch.cat(pieces))
        project = f"{name}.attn.project"
        places = [
            row + weights[f"{project}.weight"] @ mix + weights[f"{project}.bias"]
            for row, mix in zip(places, mixed, strict=True)
        ]
        after = []
        for row in places:
            inner = weights[f"{name}.mlp.fc1.weight"] @ _norm(row, weights, f"{name}.norm2")
            inner = (inner + weights[f"{name}.mlp.fc1.bias"]).clamp(min=0)
            outer = weights[f"{name}.mlp.fc2.weight"] @ inner + weights[f"{name}.mlp.fc2.bias"]
            after.append(row + outer)
        places = after
    return torch.stack(places[PROJECT:])


def test_it_equals_the_plain_twin(network: MappingNetwork) -> None:
    rows = torch.randn(3, DIM, generator=torch.Generator().manual_seed(0))
    weights = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        found = network(rows)
    for row, prompt in zip(rows, found, strict=True):
        torch.testing.assert_close(prompt, _plain(weights, row, 2), rtol=1e-5, atol=1e-5)


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
