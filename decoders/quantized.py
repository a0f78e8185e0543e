"""The prefix GPT-2 in fewer bits: half the memory traffic (bfloat16) or a quarter (int8), captions nearly the same.

Knows: which layers are replaced and how. Does NOT know: files (what is kept on disk is the original), how
captions change (counted in docs/studies.md).

int8 is dynamic: weights are rounded once, row by row; what comes in is rounded at each call, row by row, so
that no row minds its batch. Sums of products are exact. Never a default.
"""

from __future__ import annotations

import copy
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from decoders.head import Bans, best_of_all
from decoders.int8 import int8_product, quantize_rows
from decoders.network import PrefixGPT2
from patchioner.base.errors import OptionError

Precision = Literal["int8", "bf16"]


def quantized(network: PrefixGPT2, precision: Precision) -> PrefixGPT2:
    """A copy of a network that decodes in fewer bits; it can neither be trained nor saved.

    Args:
        network: float32, left untouched.
        precision: "bf16" (fast where the processor multiplies bfloat16) or "int8" (where it has VNNI).

    Raises:
        OptionError: another precision.

    Example:
        >>> quantized(decoder.network, "int8")  # doctest: +SKIP
    """
    if precision not in get_args(Precision):
        known = ", ".join(get_args(Precision))
        raise OptionError(f"precision {precision!r} is unknown; choose one of: {known}")
    if precision == "bf16":
        return copy.deepcopy(network).to(torch.bfloat16).requires_grad_(False)
    return Int8PrefixGPT2(network)


class Int8Linear(nn.Module):
    """A linear layer with 8-bit weights and, at each call, 8-bit inputs.

    Args:
        weight: (out, in) float.
        bias: (out,) float, or None.
    """

    rows: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        rows, scales = quantize_rows(weight.detach())
        self.register_buffer("rows", rows)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) float to (..., out) float32."""
        flat = inputs.reshape(-1, inputs.shape[-1])
        rows, scales = quantize_rows(flat)
        out = int8_product(rows, self.rows).float()
        out.mul_(self.scales).mul_(scales[:, None])
        if self.bias is not None:
            out.add_(self.bias)
        return out.view(*inputs.shape[:-1], -1)


class Int8Embedding(nn.Module):
    """Rows of an 8-bit table, read as float32; the same table is the output matrix."""

    rows: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows, scales = quantize_rows(weight.detach())
        self.register_buffer("rows", rows)
        self.register_buffer("scales", scales)

    def forward(self, ids: Tensor) -> Tensor:
        """(...,) int64 to (..., width) float32."""
        return self.rows[ids] * self.scales[ids, None]


class Int8Head:
    """Logits by an 8-bit product; an `OutputHead`."""

    whole = False

    def __init__(self, table: Int8Embedding) -> None:
        self._table = table
        self.vocab_size = len(table.rows)

    def logits(self, states: Tensor, first: int, last: int) -> Tensor:
        """Float32 logits (n, last - first) of (n, width) states."""
        rows, scales = quantize_rows(states)
        out = int8_product(rows, self._table.rows[first:last]).float()
        return out.mul_(self._table.scales[first:last]).mul_(scales[:, None])

    def best(self, states: Tensor, bans: Bans) -> Tensor:
        """Tokens (n,) of the highest logits that are not banned."""
        return best_of_all(self, states, bans)


class Int8PrefixGPT2(PrefixGPT2):
    """A prefix GPT-2 whose linear layers and word table are 8-bit; the prefix and the norms stay float32.

    Args:
        network: what it is made of; left untouched.
    """

    def __init__(self, network: PrefixGPT2) -> None:
        nn.Module.__init__(self)
        self.config = network.config
        self._forget_what_was_made()
        self.prefix = copy.deepcopy(network.prefix).float()
        self.transformer = copy.deepcopy(network.transformer)
        # The position table is short and stays as it is; the word table is most of the weights.
        self.transformer.wte = Int8Embedding(network.transformer.wte.weight)  # type: ignore[assignment]
        for block in self.transformer.h:
            for part in (block.attn, block.mlp):
                _replace_linear(part)
        self.transformer.float()
        self.requires_grad_(False)
        self.eval()

    @property
    def head(self) -> Any:
        """Makes logits of states, any stretch of the vocabulary at a time."""
        return Int8Head(self.transformer.wte)  # type: ignore[arg-type]

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) hidden states to (..., vocab_size) logits."""
        flat = self.head.logits(hidden.reshape(-1, hidden.shape[-1]), 0, self.config.vocab_size)
        out: Tensor = flat.view(*hidden.shape[:-1], -1)
        return out


def _replace_linear(module: Any) -> None:
    for name, layer in list(module.named_children()):
        if isinstance(layer, nn.Linear):
            setattr(module, name, Int8Linear(layer.weight, layer.bias))
