"""The DeCap decoder as published: no cache, always 30 steps, logits at every position.

Knows: the layers of a GPT-2 with a one-token prefix, written again from Radford et al. 2019, on the weights of our
`decoders` network. Does NOT know batches, budgets or early ends; that is the point of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from decoders import PrefixGPT2Decoder

STEPS = 30


class NaiveDecoder:
    """The cacheless twin of a `PrefixGPT2Decoder`.

    Args:
        decoder: whose weights are used, shared and unchanged.

    Example:
        >>> NaiveDecoder(decoder).token_ids(torch.randn(4, 768))  # doctest: +SKIP
        [[49406, 320, 2368, ...], ...]
    """

    def __init__(self, decoder: PrefixGPT2Decoder) -> None:
        self._config = decoder.network.config
        self._end = decoder.tokenizer.end_id
        self._tokenizer = decoder.tokenizer
        self._weights: Mapping[str, Tensor] = decoder.network.state_dict()

    @torch.inference_mode()
    def token_ids(self, embeddings: Tensor, steps: int = STEPS) -> list[list[int]]:
        """Exactly `steps` tokens for each of (n, dim) embeddings, whatever stands behind the end token."""
        words = self._weights["transformer.wte.weight"]
        prefix = embeddings
        if self._config.normalize_input:
            prefix = functional.normalize(embeddings, dim=-1)
        inputs = self._linear("prefix", prefix)[:, None]
        found: list[Tensor] = []
        for _ in range(steps):
            logits = self._states(inputs) @ words.T  # at every position
            probabilities = logits[:, -1].softmax(dim=-1)
            found.append(probabilities.argmax(dim=-1, keepdim=True))
            inputs = torch.cat([inputs, words[found[-1]]], dim=1)
        return torch.cat(found, dim=1).tolist()

    def until_end(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """The tokens up to the first end token, which is kept."""
        ids = tuple(token_ids)
        return ids[: ids.index(self._end) + 1] if self._end in ids else ids

    def text(self, token_ids: Sequence[int]) -> str:
        """What the tokens before the end token write."""
        return self._tokenizer.decode(self.until_end(token_ids))

    def _states(self, inputs: Tensor) -> Tensor:
        """(n, positions, width) inputs to final hidden states of all positions."""
        hidden = inputs + self._weights["transformer.wpe.weight"][: inputs.shape[1]]
        for layer in range(self._config.layers):
            name = f"transformer.h.{layer}."
            hidden = hidden + self._attend(name, self._norm(f"{name}ln_1", hidden))
            inner = self._linear(f"{name}mlp.c_fc", self._norm(f"{name}ln_2", hidden))
            inner = functional.gelu(inner, approximate="tanh")
            hidden = hidden + self._linear(f"{name}mlp.c_proj", inner)
        return self._norm("transformer.ln_f", hidden)

    def _attend(self, name: str, hidden: Tensor) -> Tensor:
        parts = self._linear(f"{name}attn.c_attn", hidden).chunk(3, dim=-1)
        query, keys, values = (
            part.unflatten(-1, (self._config.heads, -1)).transpose(1, 2) for part in parts
        )
        mixed = functional.scaled_dot_product_attention(query, keys, values, is_causal=True)
        return self._linear(f"{name}attn.c_proj", mixed.transpose(1, 2).flatten(2))

    def _linear(self, name: str, inputs: Tensor) -> Tensor:
        return functional.linear(
            inputs, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        )

    def _norm(self, name: str, inputs: Tensor) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        eps = self._config.layer_norm_eps
        return functional.layer_norm(inputs, weight.shape, weight, bias, eps)
