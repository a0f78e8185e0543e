"""GPT-2 (Radford et al. 2019) behind an embedding (`PrefixGPT2`; Li et al. 2023, DeCap) and behind vectors (`GPT2`).

Weights have GPT-2's names in the orientation of `torch.nn.Linear`; the output matrix is the token embedding.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from decoders.base import check_whole
from decoders.head import DerivedCache, LinearHead, pruning_if_worth, table_if_worth
from patchioner.base.errors import OptionError

if TYPE_CHECKING:
    from decoders.cuda_graph import StepGraphs


@dataclass(frozen=True)
class PrefixGPT2Config:
    """Shape of the network; OptionError where the numbers do not fit together.

    Args:
        embedding_dim, vocab_size: width of the embeddings that come in; number of tokens.
        layers, width, heads: of the transformer; `width` is a multiple of `heads`.
        positions: longest sequence, the prefix included.
        dropout: after the embedding and each residual branch, in training only.
        layer_norm_eps: of every layer norm.
        normalize_input: embeddings are scaled to unit length first.
        emit_start: the network generates the start token first (so do the published DeCap weights).
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
            check_whole(**{name: getattr(self, name)})
        if self.width % self.heads:
            raise OptionError(
                f"width {self.width} is not a multiple of heads {self.heads}; change one of them"
            )
        if not 0 <= self.dropout < 1:
            raise OptionError(f"dropout is {self.dropout}; it must be from 0 to below 1")


class KeyValueCache:
    """Keys and values of the positions already read, in one block (layers, 2, capacity, rows, heads, head_dim).

    `like` has the block's dtype and device; `padding` (rows,) int64 are places before each row that are not its own.
    """

    def __init__(
        self,
        *,
        layers: int,
        rows: int,
        heads: int,
        capacity: int,
        head_dim: int,
        like: Tensor,
        padding: Tensor | None = None,
    ) -> None:
        shape = (layers, 2, capacity, rows, heads, head_dim)
        self._block = torch.empty(shape, dtype=like.dtype, device=like.device)
        self._rows, self.padding = rows, padding
        self.length = 0

    def view(self, count: int) -> tuple[slice | Tensor, Tensor | None]:
        """The positions of the next `count` inputs, and the mask of what they see (None: all before them)."""
        return _view(self.length, count, self.padding)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add (rows, heads, new, head_dim) keys and values; give back all of them so far."""
        end = self.length + keys.shape[2]
        block = self._block[layer, :, :end, : self._rows].permute(0, 2, 3, 1, 4)
        block[0, :, :, self.length :] = keys
        block[1, :, :, self.length :] = values
        return block[0], block[1]

    def advance(self, positions: int) -> None:
        """Count the positions that every layer has now added."""
        self.length += positions

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order, repeated (beams) or left out (ended); only those that move are copied."""
        count = int(rows.shape[0])
        if count > self._block.shape[3]:
            shape = list(self._block.shape)
            shape[3] = count
            kept = self._block[:, :, : self.length].index_select(3, rows)
            self._block = self._block.new_empty(shape)
            self._block[:, :, : self.length] = kept
        else:
            places = (rows != torch.arange(count, device=rows.device)).nonzero().squeeze(1)
            if len(places):
                read = self._block[:, :, : self.length]
                read.index_copy_(3, places, read.index_select(3, rows[places]))
        self._rows = count
        self.padding = None if self.padding is None else self.padding[rows]


class FixedCache(KeyValueCache):
    """A cache whose shape never changes, without `select`: a mask hides the places not yet read.

    How far it has read is a number on the device, so that a step can be replayed as a graph.
    """

    def __init__(self, **shape: Any) -> None:
        super().__init__(**shape)
        self._block.zero_()  # a hidden place has weight 0, and 0 times a stray NaN would be NaN
        device = self._block.device
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._all = torch.arange(self._block.shape[2], device=device)[None]
        self._mask = self._all <= self._position

    def view(self, count: int) -> tuple[Tensor, Tensor]:
        """The position (1,) of the next input and the places (1, capacity) that it sees."""
        torch.le(self._all, self._position, out=self._mask)
        return self._position, self._mask

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As `KeyValueCache.extend`, of one position; gives back all places."""
        self._block[layer, 0].index_copy_(0, self._position, keys.permute(2, 0, 1, 3))
        self._block[layer, 1].index_copy_(0, self._position, values.permute(2, 0, 1, 3))
        block = self._block[layer].permute(0, 2, 3, 1, 4)
        return block[0], block[1]

    def advance(self, positions: int) -> None:
        """As `KeyValueCache.advance`."""
        self._position += positions

    def restart(self) -> None:
        """Forget what was read."""
        self._position.zero_()


def _view(first: int, count: int, padding: Tensor | None) -> tuple[slice | Tensor, Tensor | None]:
    """Positions, and (rows, 1, count, first + count) what each may see, of `count` inputs after `first`."""
    if padding is None:
        return slice(first, first + count), None
    keys = torch.arange(first + count, device=padding.device)
    queries = keys[first:]
    seen = (keys >= padding[:, None])[:, None] & (keys <= queries[:, None])
    # A place of padding sees itself: a softmax over nothing is not a number.
    seen = seen | (keys == queries[:, None])
    return (queries - padding[:, None]).clamp(min=0), seen[:, None]


class _Attention(nn.Module):
    """Causal self-attention; with a cache, over the cached positions as well."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(
        self, hidden: Tensor, cache: KeyValueCache | None, layer: int, mask: Tensor | None
    ) -> Tensor:
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
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=mask is None and positions > 1,
        )
        merged: Tensor = self.c_proj(mixed.transpose(1, 2).reshape(rows, positions, width))
        return merged


class _Block(nn.Module):
    def __init__(
        self, width: int, heads: int, eps: float, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=eps)
        self.attn = _Attention(width, heads, attention_dropout)
        self.ln_2 = nn.LayerNorm(width, eps=eps)
        inner, outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        gelu = nn.GELU(approximate="tanh")
        self.mlp = nn.Sequential(OrderedDict(c_fc=inner, gelu=gelu, c_proj=outer))
        self.drop = nn.Dropout(dropout)

    def forward(
        self, hidden: Tensor, cache: KeyValueCache | None, layer: int, mask: Tensor | None
    ) -> Tensor:
        hidden = hidden + self.drop(self.attn(self.ln_1(hidden), cache, layer, mask))
        out: Tensor = hidden + self.drop(self.mlp(self.ln_2(hidden)))
        return out


class _Transformer(nn.Module):
    """Vectors in, final hidden states out; adds the positions itself."""

    def __init__(
        self,
        vocab_size: int,
        positions: int,
        width: int,
        layers: int,
        heads: int,
        dropout: tuple[float, float, float],
        eps: float,
    ) -> None:
        super().__init__()
        branches, inputs, attention = dropout
        self.heads = heads
        # torch's layers draw initial weights, which the networks overwrite, from the global generator.
        with torch.random.fork_rng(devices=[]):
            self.wte = nn.Embedding(vocab_size, width)
            self.wpe = nn.Embedding(positions, width)
            self.drop = nn.Dropout(inputs)
            self.h = nn.ModuleList(
                _Block(width, heads, eps, branches, attention) for _ in range(layers)
            )
            self.ln_f = nn.LayerNorm(width, eps=eps)

    def forward(
        self, inputs: Tensor, cache: KeyValueCache | None = None, padding: Tensor | None = None
    ) -> Tensor:
        count = inputs.shape[1]
        places, mask = _view(0, count, padding) if cache is None else cache.view(count)
        hidden = self.drop(inputs + self.wpe.weight[places])
        for layer, block in enumerate(self.h):
            hidden = block(hidden, cache, layer, mask)
        if cache is not None:
            cache.advance(count)
        out: Tensor = self.ln_f(hidden)
        return out


class _GPT2(nn.Module):
    """What the two networks share: the transformer, the output layer, the memory of a row."""

    transformer: _Transformer

    def __init__(self) -> None:
        super().__init__()
        self._reset_derived()

    @property
    def head(self) -> LinearHead:
        """Makes logits of states, any stretch of the vocabulary at a time."""
        return LinearHead(self.transformer.wte.weight, self.candidates, self.tables)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) hidden states to (..., vocab_size) logits, with the tied matrix."""
        return functional.linear(hidden, self.transformer.wte.weight)

    def row_bytes(self, places: int) -> int:
        """Memory that one row of a batch needs while decoding, of so many places in all."""
        words = self.transformer.wte
        size = self.transformer.wpe.weight.element_size()
        vocabulary, width = words.num_embeddings, words.embedding_dim
        cache = 2 * len(self.transformer.h) * width * places * size
        # Logits in the working type and in float32, with their sorted or masked copy.
        return cache + vocabulary * (size + 8) + 16 * width * size

    def step(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        """Read one more token (n,) of each row; the states (n, width) of the next."""
        inputs = self.transformer.wte(tokens).unsqueeze(1)
        states: Tensor = self.transformer(inputs, cache)[:, -1]
        return states

    def _cache_shape(self, rows: int, capacity: int) -> dict[str, Any]:
        like, heads = self.transformer.wpe.weight, self.transformer.heads
        shape = dict(layers=len(self.transformer.h), rows=rows, heads=heads, capacity=capacity)
        return {**shape, "head_dim": like.shape[1] // heads, "like": like}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Weights are moved or converted: what was made of the old ones is let go, with its memory.
        self._reset_derived()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _reset_derived(self) -> None:
        self.candidates, self.tables = DerivedCache(pruning_if_worth), DerivedCache(table_if_worth)

    def _initialise(self, seed: int) -> None:
        """GPT-2's scheme: normal 0.02; branches that add to the residual shrink with depth."""
        generator = torch.Generator().manual_seed(seed)
        shrink = 1 / math.sqrt(2 * len(self.transformer.h))
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
                elif ".ln_" in name:
                    parameter.fill_(1.0)
                else:
                    scale = 0.02 * (shrink if name.endswith("c_proj.weight") else 1.0)
                    parameter.normal_(0.0, scale, generator=generator)


def _step_graphs(matrix: Tensor) -> StepGraphs:
    from decoders.cuda_graph import StepGraphs

    return StepGraphs()


class PrefixGPT2(_GPT2):
    """An embedding as the first input, then tokens: whole sequences (`forward`), or step by step with a cache."""

    def __init__(self, config: PrefixGPT2Config, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            self.prefix = nn.Linear(config.embedding_dim, config.width)
        c, dropout = config, (config.dropout, config.dropout, 0.0)
        self.transformer = _Transformer(
            c.vocab_size, c.positions, c.width, c.layers, c.heads, dropout, c.layer_norm_eps
        )
        self._initialise(seed)

    def forward(self, embeddings: Tensor, tokens: Tensor) -> Tensor:
        """States (n, 1 + t, width) of (n, embedding_dim) embeddings and (n, t) tokens; that at i predicts token i."""
        prefix = self._prefix(embeddings).unsqueeze(1)
        out: Tensor = self.transformer(torch.cat([prefix, self.transformer.wte(tokens)], dim=1))
        return out

    @property
    def max_tokens(self) -> int:
        """Most tokens one sequence can hold: the last one generated needs no position."""
        return self.config.positions

    def start(self, embeddings: Tensor, max_tokens: int) -> tuple[Tensor, KeyValueCache]:
        """Read (n, embedding_dim) prefixes; the states (n, width) that `head` makes logits of."""
        cache = KeyValueCache(**self._cache_shape(embeddings.shape[0], max_tokens))
        return self.read_prefix(embeddings, cache), cache

    def fixed_cache(self, rows: int, capacity: int) -> FixedCache:
        """An empty cache whose shape stays, for `graph_search`."""
        return FixedCache(**self._cache_shape(rows, capacity))

    def read_prefix(self, embeddings: Tensor, cache: KeyValueCache) -> Tensor:
        """Read (n, embedding_dim) prefixes into an empty cache; the states (n, width) before the first token."""
        states: Tensor = self.transformer(self._prefix(embeddings).unsqueeze(1), cache)[:, -1]
        return states

    def _reset_derived(self) -> None:
        super()._reset_derived()
        self.step_graphs = DerivedCache(_step_graphs)

    def _prefix(self, embeddings: Tensor) -> Tensor:
        like = self.transformer.wpe.weight
        embeddings = embeddings.to(like.device, torch.float32)
        if self.config.normalize_input:
            embeddings = functional.normalize(embeddings, dim=-1)
        out: Tensor = self.prefix(embeddings.to(like.dtype))
        return out


class GPT2(_GPT2):
    """GPT-2 of any size as a language model that reads vectors, without `transformers`.

    Args:
        config: the values of `transformers`' configuration ("n_layer", "n_embd" ...), kept for `config.json`.
    """

    _DEFAULTS = {
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "layer_norm_epsilon": 1e-5,
    }
    # What this network does; a model that is told otherwise is left to `transformers`.
    _FIXED = {
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    }
    _ALIASES = set(
        ["hidden_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers"]
    )

    @classmethod
    def understands(cls, config: Mapping[str, Any]) -> bool:
        """Whether a configuration of `transformers` describes such a network."""
        usual = all(config.get(name, value) == value for name, value in cls._FIXED.items())
        inner = config.get("n_inner") in (None, 4 * config.get("n_embd", 768))
        named = config.get("model_type") == "gpt2" and not cls._ALIASES & config.keys()
        return named and usual and inner

    def __init__(self, config: Mapping[str, Any], *, seed: int = 0) -> None:
        super().__init__()
        self.config = {**self._DEFAULTS, **config, "model_type": "gpt2"}
        value = self.config
        check_whole(**{name: value[name] for name in list(self._DEFAULTS)[:5]})
        if value["n_embd"] % value["n_head"]:
            wrong = f"n_embd {value['n_embd']} is not a multiple of n_head {value['n_head']}"
            raise OptionError(wrong)
        self.transformer = _Transformer(
            value["vocab_size"],
            value["n_positions"],
            value["n_embd"],
            value["n_layer"],
            value["n_head"],
            (value["resid_pdrop"], value["embd_pdrop"], value["attn_pdrop"]),
            value["layer_norm_epsilon"],
        )
        self._initialise(seed)

    @property
    def max_places(self) -> int:
        """Longest sequence that it can read."""
        return self.transformer.wpe.num_embeddings

    def get_input_embeddings(self) -> nn.Embedding:
        """The word vectors."""
        return self.transformer.wte

    def read(
        self, inputs: Tensor, padding: Tensor | None, max_tokens: int
    ) -> tuple[Tensor, KeyValueCache]:
        """Read (n, p, width) vectors before `max_tokens` tokens; the states (n, width) before the first.

        `padding`: (n,) int64, places at the left of each row that are not its own; None where there are none.
        """
        shape = self._cache_shape(len(inputs), inputs.shape[1] + max_tokens - 1)
        cache = KeyValueCache(**shape, padding=padding)
        states: Tensor = self.transformer(inputs, cache)[:, -1]
        return states, cache

    def logits_at(self, inputs: Tensor, padding: Tensor | None, real: Tensor) -> Tensor:
        """Logits (m, vocab) at the real places among the last t, of (n, p, width) vectors and a mask (n, t)."""
        hidden = self.transformer(inputs, padding=padding)[:, -real.shape[1] :]
        return self.logits(hidden[real])
