"""The prefix GPT-2: a causal transformer whose first input is an embedding, not a word.

Knows: layers, one step of decoding with a cache, all positions at once for training.
Does NOT know: tokenizers, decoding strategies, files, or what an embedding stands for.

Names of the weights follow GPT-2 (`transformer.h.0.attn.c_attn.weight`), in the orientation of
`torch.nn.Linear` (output, input). The output matrix is the token embedding itself (tied).

Sources: Radford et al. 2019 (GPT-2: pre-layer-norm, learned positions, tanh GELU); Li et al. 2023
(DeCap: one linear map turns an embedding into the one-token prefix).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from decoders.cache import FixedCache, KeyValueCache
from decoders.head import LinearHead, table_if_worth
from decoders.made_of import MadeOf
from decoders.screen import screen_if_worth
from decoders.steady import StepGraphs
from patchioner.base.errors import OptionError


@dataclass(frozen=True)
class PrefixGPT2Config:
    """Shape of the network.

    Args:
        embedding_dim: width of the embeddings that come in.
        vocab_size: number of tokens.
        layers, width, heads: of the transformer; `width` is a multiple of `heads`.
        positions: longest sequence, the prefix included.
        dropout: after the embedding and each residual branch, in training only.
        layer_norm_eps: of every layer norm.
        normalize_input: embeddings are scaled to unit length first.
        emit_start: sequences open with the start token, which the network then generates first
            (so are the published DeCap weights); otherwise the first token is the first word.

    Raises:
        OptionError: when the numbers do not fit together.
    """

    embedding_dim: int
    vocab_size: int
    layers: int = 4
    width: int = 320
    heads: int = 4
    positions: int = 64
    dropout: float = 0.1
    layer_norm_eps: float = 1e-5
    normalize_input: bool = True
    emit_start: bool = False

    def __post_init__(self) -> None:
        for name in ("embedding_dim", "vocab_size", "layers", "width", "heads", "positions"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise OptionError(f"{name} is {value!r}; it must be a whole number, at least 1")
        if self.width % self.heads:
            raise OptionError(
                f"width {self.width} is not a multiple of heads {self.heads}; change one of them"
            )
        if not 0 <= self.dropout < 1:
            raise OptionError(f"dropout is {self.dropout}; it must be from 0 to below 1")


class _Attention(nn.Module):
    """Causal self-attention; with a cache, over the cached positions as well."""

    def __init__(self, config: PrefixGPT2Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.c_attn = nn.Linear(config.width, 3 * config.width)
        self.c_proj = nn.Linear(config.width, config.width)

    def forward(self, hidden: Tensor, cache: KeyValueCache | None, layer: int) -> Tensor:
        rows, positions, width = hidden.shape
        parts = self.c_attn(hidden).view(rows, positions, 3, self.heads, width // self.heads)
        query, keys, values = parts.permute(2, 0, 3, 1, 4).unbind(0)  # (rows, heads, pos, dim)
        if cache is not None:
            keys, values = cache.extend(layer, keys, values)
        # One new position sees all before it; several come only while the cache is empty.
        mixed = functional.scaled_dot_product_attention(
            query,
            keys,
            values,
            attn_mask=None if cache is None else cache.mask,
            is_causal=positions > 1,
        )
        merged: Tensor = self.c_proj(mixed.transpose(1, 2).reshape(rows, positions, width))
        return merged


class _FeedForward(nn.Module):
    def __init__(self, config: PrefixGPT2Config) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.width, 4 * config.width)
        self.c_proj = nn.Linear(4 * config.width, config.width)

    def forward(self, hidden: Tensor) -> Tensor:
        inner = functional.gelu(self.c_fc(hidden), approximate="tanh")
        out: Tensor = self.c_proj(inner)
        return out


class _Block(nn.Module):
    def __init__(self, config: PrefixGPT2Config) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.attn = _Attention(config)
        self.ln_2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = _FeedForward(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, cache: KeyValueCache | None, layer: int) -> Tensor:
        hidden = hidden + self.drop(self.attn(self.ln_1(hidden), cache, layer))
        out: Tensor = hidden + self.drop(self.mlp(self.ln_2(hidden)))
        return out


class _Transformer(nn.Module):
    """Vectors in, final hidden states out; adds the positions itself."""

    def __init__(self, config: PrefixGPT2Config) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.width)
        self.wpe = nn.Embedding(config.positions, config.width)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, inputs: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        count = inputs.shape[1]
        places = slice(0, count) if cache is None else cache.places(count)
        hidden = self.drop(inputs + self.wpe.weight[places])
        for layer, block in enumerate(self.h):
            hidden = block(hidden, cache, layer)
        if cache is not None:
            cache.advance(count)
        out: Tensor = self.ln_f(hidden)
        return out


class PrefixGPT2(nn.Module):
    """The network: an embedding prefix, then tokens.

    `forward` reads whole sequences (training); `start` and `step` read one position at a time
    with a cache (decoding). Both give the same numbers.
    """

    def __init__(self, config: PrefixGPT2Config, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self._forget_what_was_made()
        # torch's layers draw initial weights, overwritten below, from the global generator.
        with torch.random.fork_rng(devices=[]):
            self.prefix = nn.Linear(config.embedding_dim, config.width)
            self.transformer = _Transformer(config)
        self._initialise(seed)

    def forward(self, embeddings: Tensor, tokens: Tensor) -> Tensor:
        """Hidden states of the prefix and of every token.

        Args:
            embeddings: (n, embedding_dim) float.
            tokens: (n, t) int64, t may be 0; 1 + t at most `positions`.

        Returns:
            (n, 1 + t, width): the state at i predicts token i of the sequence.
        """
        prefix = self._prefix(embeddings).unsqueeze(1)
        return self._run(torch.cat([prefix, self.transformer.wte(tokens)], dim=1), None)

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, width) hidden states to (…, vocab_size) logits, with the tied matrix."""
        return functional.linear(hidden, self.transformer.wte.weight)

    @property
    def head(self) -> LinearHead:
        """Makes logits of states, any stretch of the vocabulary at a time."""
        matrix = self.transformer.wte.weight
        return LinearHead(matrix, lambda: self.screens.of(matrix), lambda: self.tables.of(matrix))

    @property
    def max_tokens(self) -> int:
        """Most tokens one sequence can hold: the last one generated needs no position."""
        return self.config.positions

    def row_bytes(self, max_tokens: int) -> int:
        """Memory that one row of a batch needs while decoding `max_tokens` tokens."""
        size = self.transformer.wpe.weight.element_size()
        cache = 2 * self.config.layers * self.config.width * max_tokens * size
        # Logits in the working type and in float32, with their sorted or masked copy.
        return cache + self.config.vocab_size * (size + 8) + 16 * self.config.width * size

    def start(self, embeddings: Tensor, max_tokens: int) -> tuple[Tensor, KeyValueCache]:
        """Read (n, embedding_dim) prefixes; the states (n, width) that `head` makes logits of."""
        cache = KeyValueCache(**self._cache_shape(embeddings.shape[0], max_tokens))
        return self.read_prefix(embeddings, cache), cache

    def fixed_cache(self, rows: int, capacity: int) -> FixedCache:
        """An empty cache whose shape stays, for `steady_search`."""
        return FixedCache(**self._cache_shape(rows, capacity))

    def read_prefix(self, embeddings: Tensor, cache: KeyValueCache) -> Tensor:
        """Read (n, embedding_dim) prefixes into an empty cache; the states (n, width) before the first token."""
        return self._run(self._prefix(embeddings).unsqueeze(1), cache)[:, -1]

    def step(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        """Read one more token (n,) of each row; the states (n, width) of the next."""
        inputs = self.transformer.wte(tokens).unsqueeze(1)
        return self._run(inputs, cache)[:, -1]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What torch does to move or convert weights; what was made of the old ones is let go, with its memory."""
        self._forget_what_was_made()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _cache_shape(self, rows: int, capacity: int) -> dict[str, Any]:
        return dict(
            layers=self.config.layers,
            rows=rows,
            heads=self.config.heads,
            capacity=capacity,
            head_dim=self.config.width // self.config.heads,
            like=self.transformer.wpe.weight,
        )

    def _forget_what_was_made(self) -> None:
        self.screens, self.tables = MadeOf(screen_if_worth), MadeOf(table_if_worth)
        self.step_graphs = StepGraphs()

    def _prefix(self, embeddings: Tensor) -> Tensor:
        like = self.transformer.wpe.weight
        embeddings = embeddings.to(like.device, torch.float32)
        if self.config.normalize_input:
            embeddings = functional.normalize(embeddings, dim=-1)
        out: Tensor = self.prefix(embeddings.to(like.dtype))
        return out

    def _run(self, inputs: Tensor, cache: KeyValueCache | None) -> Tensor:
        out: Tensor = self.transformer(inputs, cache)
        return out

    def _initialise(self, seed: int) -> None:
        """GPT-2's scheme: normal 0.02; branches that add to the residual shrink with depth."""
        generator = torch.Generator().manual_seed(seed)
        shrink = 1 / math.sqrt(2 * self.config.layers)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
                elif ".ln_" in name:
                    parameter.fill_(1.0)
                else:
                    scale = 0.02 * (shrink if name.endswith("c_proj.weight") else 1.0)
                    parameter.normal_(0.0, scale, generator=generator)
