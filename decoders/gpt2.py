"""The `prefix_gpt2` decoder: GPT-2 (Radford et al. 2019) behind an embedding (Li et al. 2023, DeCap).

Weights have GPT-2's names in the orientation of `torch.nn.Linear`; the output matrix is the token embedding.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from decoders.base import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, TextMemory, TrainableDecoder, reading, token_loss
from decoders.tokenizers import CaptionTokenizer, ClipTokenizer, TextTokenizer
from patchioner.base.errors import CheckpointError, OptionError, check_texts
from patchioner.base.files import check, write_json
from patchioner.base.weights import PackedTable, Storage, can_pack, fit_weights, load_weights, save_weights

_TOKENIZERS: dict[str, Callable[[Path], TextTokenizer]] = {"caption": CaptionTokenizer.load, "clip": ClipTokenizer.load}


@dataclass(frozen=True)
class PrefixGPT2Config:
    """Shape of the network; OptionError where the numbers do not fit together."""

    embedding_dim: int
    vocab_size: int
    layers: int = 4
    width: int = 320  # of the transformer, a multiple of `heads`
    heads: int = 4
    positions: int = 64  # longest sequence, the prefix included
    dropout: float = 0.1  # after the embedding and each residual branch, in training only
    layer_norm_eps: float = 1e-5
    normalize_input: bool = True  # embeddings are scaled to unit length first

    def __post_init__(self) -> None:
        check("int [1, inf)", self, "embedding_dim vocab_size layers width heads positions")
        check("[0, 1)", dropout=self.dropout)
        if self.width % self.heads:
            raise OptionError(f"width {self.width} is not a multiple of heads {self.heads}; change one of them")


class KeyValueCache:
    """Keys and values of the positions already read, in an empty block (layers, 2, capacity, rows, heads, head_dim).

    `padding` (rows,) int64 are places before each row that are not its own.
    """

    def __init__(self, block: Tensor, padding: Tensor | None = None) -> None:
        self._block, self._rows, self.padding = block, block.shape[3], padding
        self.length = 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add (rows, heads, new, head_dim) keys and values; give back all of them so far."""
        end = self.length + keys.shape[2]
        block = self._block[layer, :, :end, : self._rows].permute(0, 2, 3, 1, 4)
        block[0, :, :, self.length :] = keys
        block[1, :, :, self.length :] = values
        return block[0], block[1]

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order, repeated (beams) or left out (ended); only those that move are copied."""
        count = int(rows.shape[0])
        read = self._block[:, :, : self.length]
        if count > self._block.shape[3]:
            room = count + count // 4  # where rows grow little by little
            self._block = self._block.new_empty((*self._block.shape[:3], room, *self._block.shape[4:]))
            self._block[:, :, : self.length, :count] = read.index_select(3, rows)
        else:
            places = (rows != torch.arange(count, device=rows.device)).nonzero().squeeze(1)
            if len(places):
                read.index_copy_(3, places, read.index_select(3, rows[places]))
        self._rows = count
        self.padding = None if self.padding is None else self.padding[rows]


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

    def forward(self, hidden: Tensor, cache: KeyValueCache | None, layer: int, mask: Tensor | None) -> Tensor:
        rows, positions, width = hidden.shape
        parts = self.c_attn(hidden).view(rows, positions, 3, self.heads, width // self.heads)
        query, keys, values = parts.permute(2, 0, 3, 1, 4).unbind(0)  # (rows, heads, pos, dim)
        if cache is not None:
            keys, values = cache.extend(layer, keys, values)
        dropout = self.dropout if self.training else 0.0
        # One new position sees all before it; several come only while the cache is empty.
        causal = mask is None and positions > 1
        mixed = functional.scaled_dot_product_attention(query, keys, values, mask, dropout, causal)
        merged: Tensor = self.c_proj(mixed.transpose(1, 2).reshape(rows, positions, width))
        return merged


class _Block(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, eps = config["n_embd"], config["layer_norm_epsilon"]
        self.ln_1 = nn.LayerNorm(width, eps=eps)
        self.attn = _Attention(width, config["n_head"], config["attn_pdrop"])
        self.ln_2 = nn.LayerNorm(width, eps=eps)
        inner, outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(OrderedDict(c_fc=inner, gelu=nn.GELU(approximate="tanh"), c_proj=outer))
        self.drop = nn.Dropout(config["resid_pdrop"])

    def forward(self, hidden: Tensor, cache: KeyValueCache | None, layer: int, mask: Tensor | None) -> Tensor:
        hidden = hidden + self.drop(self.attn(self.ln_1(hidden), cache, layer, mask))
        out: Tensor = hidden + self.drop(self.mlp(self.ln_2(hidden)))
        return out


class Transformer(nn.Module):
    """Vectors in, final hidden states out, by the configuration of `GPT2`; adds the positions itself."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.heads, width = config["n_head"], config["n_embd"]
        # torch's layers draw initial weights, which the networks overwrite, from the global generator.
        with torch.random.fork_rng(devices=[]):
            self.wte = nn.Embedding(config["vocab_size"], width)
            self.wpe = nn.Embedding(config["n_positions"], width)
            self.drop = nn.Dropout(config["embd_pdrop"])
            self.h = nn.ModuleList(_Block(config) for _ in range(config["n_layer"]))
            self.ln_f = nn.LayerNorm(width, eps=config["layer_norm_epsilon"])

    def forward(self, inputs: Tensor, cache: KeyValueCache | None = None, padding: Tensor | None = None) -> Tensor:
        """(rows, places, width) after `cache`; `padding` as of `KeyValueCache`, where there is none."""
        count, first = inputs.shape[1], 0
        if cache is not None:
            first, padding = cache.length, cache.padding
        places, mask = _view(first, count, padding)
        hidden = self.drop(inputs + self.wpe.weight[places])
        for layer, block in enumerate(self.h):
            hidden = block(hidden, cache, layer, mask)
        if cache is not None:
            cache.length += count
        out: Tensor = self.ln_f(hidden)
        return out


class GPT2(nn.Module):
    """GPT-2 of any size as a language model that reads vectors, without `transformers`.

    `config` has the values of `transformers`' configuration ("n_layer", "n_embd" ...), kept for `config.json`. The
    network knows `vocab_size` tokens and reads at most `max_places` places.
    """

    gives_scores = False
    _SHAPE = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}
    _OTHER = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1, "layer_norm_epsilon": 1e-5}
    # What this network does; a model that is told otherwise is left to `transformers`.
    _FIXED = {
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    }

    @classmethod
    def understands(cls, config: Mapping[str, Any]) -> bool:
        """Whether a configuration of `transformers` describes such a network."""
        usual = all(config.get(name, value) == value for name, value in cls._FIXED.items())
        inner = config.get("n_inner") in (None, 4 * config.get("n_embd", 768))
        # Names that other models have for these settings, and transformers takes for them.
        other = {"hidden_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers"}
        named = config.get("model_type") == "gpt2" and not other & config.keys()
        return named and usual and inner

    def __init__(self, config: Mapping[str, Any], *, seed: int = 0) -> None:
        super().__init__()
        self.config = value = {**self._SHAPE, **self._OTHER, **config, "model_type": "gpt2"}
        check("int [1, inf)", **{name: value[name] for name in self._SHAPE})
        if value["n_embd"] % value["n_head"]:
            raise OptionError(f"n_embd {value['n_embd']} is not a multiple of n_head {value['n_head']}")
        self.vocab_size: int = value["vocab_size"]
        self.max_places: int = value["n_positions"]
        self.transformer = Transformer(value)
        self._table: PackedTable | None = None
        self._initialise(seed)

    def get_input_embeddings(self) -> nn.Embedding:
        """The word vectors."""
        return self.transformer.wte

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) hidden states to (..., vocab_size) float32 logits, with the tied matrix."""
        if self._table is not None and not torch.is_grad_enabled():
            return self._table.product(hidden)
        return functional.linear(hidden, self.transformer.wte.weight).float()

    def row_bytes(self, places: int) -> int:
        """Memory that one row of a batch needs while decoding, of so many places in all."""
        words = self.transformer.wte.weight
        vocabulary, width = words.shape
        size = words.element_size()
        cache = 2 * len(self.transformer.h) * width * places * size
        # Logits in the working type and in float32, with their sorted or masked copy.
        return cache + vocabulary * (size + 8) + 16 * width * size

    def read(self, inputs: Tensor, padding: Tensor | None, max_tokens: int) -> tuple[Tensor, KeyValueCache]:
        """Read (n, p, width) vectors before `max_tokens` tokens; the states (n, width) before the first.

        `padding`: (n,) int64, places at the left of each row that are not its own; None where there are none.
        """
        like, heads = self.transformer.wpe.weight, self.transformer.heads
        capacity, width = inputs.shape[1] + max_tokens - 1, like.shape[1]
        shape = (len(self.transformer.h), 2, capacity, len(inputs), heads, width // heads)
        cache = KeyValueCache(like.new_empty(shape), padding)
        return self.transformer(inputs, cache)[:, -1], cache

    def step(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        """Read one more token (n,) of each row; the states (n, width) of the next."""
        states: Tensor = self.transformer(self.transformer.wte(tokens).unsqueeze(1), cache)[:, -1]
        return states

    def logits_at(self, inputs: Tensor, padding: Tensor | None, real: Tensor) -> Tensor:
        """Logits (m, vocab) at the real places among the last t, of (n, p, width) vectors and a mask (n, t)."""
        hidden = self.transformer(inputs, padding=padding)[:, -real.shape[1] :]
        return self.logits(hidden[real])

    def pack(self) -> None:
        """Of an inference copy on a CPU: keep the output matrix in oneDNN's order as well, where that gains."""
        if can_pack(self.transformer.wte.weight):
            self._table = PackedTable(self.transformer.wte.weight)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._table = None  # of weights that are moved or converted
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _initialise(self, seed: int) -> None:
        """GPT-2's scheme: normal 0.02; branches that add to the residual shrink with depth."""
        generator = torch.Generator().manual_seed(seed)
        shrink = 1 / math.sqrt(2 * len(self.transformer.h))
        with torch.no_grad():
            for part in reversed(list(self.children())):  # what stands before the transformer first
                for name, parameter in part.named_parameters():
                    if name.endswith("bias"):
                        parameter.zero_()
                    elif "ln_" in name:
                        parameter.fill_(1.0)
                    else:
                        scale = 0.02 * (shrink if name.endswith("c_proj.weight") else 1.0)
                        parameter.normal_(0.0, scale, generator=generator)


class PrefixGPT2(GPT2):
    """An embedding as the first input, then tokens: whole sequences (`forward`), or step by step with a cache."""

    def __init__(self, config: PrefixGPT2Config, *, seed: int = 0) -> None:
        c = config
        shape = {"n_positions": c.positions, "n_embd": c.width, "n_layer": c.layers, "n_head": c.heads}
        other = {"resid_pdrop": c.dropout, "embd_pdrop": c.dropout, "attn_pdrop": 0.0}
        super().__init__({"vocab_size": c.vocab_size, **shape, **other, "layer_norm_epsilon": c.layer_norm_eps})
        self.shape = config
        self.max_tokens = c.positions  # the last one generated needs no position
        with torch.random.fork_rng(devices=[]):
            self.prefix = nn.Linear(c.embedding_dim, c.width)
        self._initialise(seed)

    def start(self, embeddings: Tensor, max_tokens: int) -> tuple[Tensor, KeyValueCache]:
        """Read (n, embedding_dim) prefixes; the states (n, width) before the first token."""
        return self.read(self._prefix(embeddings), None, max_tokens)

    def forward(self, embeddings: Tensor, tokens: Tensor) -> Tensor:
        """States (n, 1 + t, width) of (n, embedding_dim) embeddings and (n, t) tokens; that at i predicts token i."""
        out: Tensor = self.transformer(torch.cat([self._prefix(embeddings), self.transformer.wte(tokens)], dim=1))
        return out

    def _prefix(self, embeddings: Tensor) -> Tensor:
        like = self.transformer.wpe.weight
        embeddings = embeddings.to(like.device, torch.float32)
        if self.shape.normalize_input:
            embeddings = functional.normalize(embeddings, dim=-1)
        out: Tensor = self.prefix(embeddings.to(like.dtype)).unsqueeze(1)
        return out


class PrefixGPT2Decoder(TrainableDecoder):
    """A small GPT-2 that reads an embedding as its first input (the DeCap form).

    The network may have more tokens than the tokenizer (the published DeCap: GPT-2's 50,257 beside CLIP's 49,408);
    those beyond are never trained, write nothing, and are not kept from being generated.
    """

    network: PrefixGPT2

    def __init__(self, network: PrefixGPT2, tokenizer: TextTokenizer) -> None:
        size, least = network.shape.vocab_size, tokenizer.vocab_size
        if size < least or (size > least and tokenizer.kind == "caption"):
            raise CheckpointError(f"network has {size} tokens, tokenizer {least}: they come from different decoders")
        self.network, self.tokenizer = network.eval(), tokenizer
        self.embedding_dim = network.shape.embedding_dim

    @classmethod
    def create(
        cls, texts: Sequence[str], *, embedding_dim: int, vocab_size: int = 8000, seed: int = 0, **shape: Any
    ) -> Self:
        """Train a tokenizer of at most `vocab_size` tokens on `texts`, and make an untrained network for it.

        The shape is that of `PrefixGPT2Config`. TextError for what is no text, OptionError for numbers that do not fit.
        """
        check_texts(texts, blank=True)
        tokenizer = CaptionTokenizer.train(texts, vocab_size=vocab_size)
        config = PrefixGPT2Config(embedding_dim, tokenizer.vocab_size, **shape)
        return cls(PrefixGPT2(config, seed=seed), tokenizer)

    def driven(self, memory: TextMemory | None = None) -> tuple[PrefixGPT2, TextTokenizer]:
        """The network and the tokenizer."""
        return self.network, self.tokenizer

    def save(self, folder: str | Path, *, storage: Storage = "fp16") -> None:
        """Write config.json, weights.safetensors and tokenizer.json."""
        folder = Path(folder)
        save_weights(self.network.state_dict(), folder / WEIGHTS_FILE, storage=storage)
        self.tokenizer.save(folder / TOKENIZER_FILE)
        kind = {"type": "prefix_gpt2", "tokenizer": self.tokenizer.kind}
        write_json(folder / CONFIG_FILE, kind | asdict(self.network.shape))

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path) -> Self:
        """Read what `save` wrote; see `Decoder.from_config`."""
        settings = dict(config)
        settings.pop("emit_start", None)  # earlier releases: the tokenizer tells
        kind = settings.pop("tokenizer", "caption")
        with reading(folder / CONFIG_FILE):
            check(tuple(_TOKENIZERS), tokenizer=kind)
            network = PrefixGPT2(PrefixGPT2Config(**settings))
        path = folder / WEIGHTS_FILE
        fit_weights(network, load_weights(path), source=str(path))
        return cls(network, _TOKENIZERS[kind](folder / TOKENIZER_FILE))

    def sequences(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text as trained: words, end; before them the start token where that is written."""
        start = self.tokenizer.start_id
        opening = [] if start in self.tokenizer.unwritable_ids else [start]
        return [[*opening, *ids, self.tokenizer.end_id] for ids in self.tokenizer.encode(texts)]

    def loss(self, embeddings: Tensor, tokens: Tensor, lengths: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """See `TrainableDecoder.loss`."""
        hidden = self.network(embeddings, tokens[:, :-1])
        return token_loss(lambda real: self.network.logits(hidden[real]), tokens, lengths, label_smoothing)
