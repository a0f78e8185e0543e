"""Decoders on a language model: vectors stand before the caption, padded at the left and masked: rows are independent.

Sources of the mappers: Mokady et al. 2021 (ClipCap, arXiv 2111.09734); Fei et al. 2023 (ViECap, arXiv 2307.16525).
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from decoders.base import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    TextMemory,
    TrainableDecoder,
    check_whole,
)
from decoders.head import GivenLogits, OutputHead
from decoders.language_model import GPT2, stored_state, vocabulary_of
from decoders.tokenizers import LanguageTokenizer
from patchioner.base.errors import CheckpointError, DecoderError, OptionError
from patchioner.base.files import write_json
from patchioner.base.weights import Storage, save_weights

_NO_LIMIT = 1_000_000  # positions of a model that has no table of them
# (n, dim) embeddings -> the input vectors (p_i, width) of each row, p_i at least 1
Prefixes: TypeAlias = Callable[[Tensor], Sequence[Tensor]]


@dataclass
class _Cache:
    """What a model of `transformers` has read of each row."""

    past: Any  # keys and values; None for a model that gives none
    keyword: str  # by which `transformers` gives `past` back and takes it
    inputs: Tensor | None  # (rows, places, width), all that was read, where there is no `past`
    padding: Tensor | None  # (rows,) int64
    length: int  # places read

    def select(self, rows: Tensor) -> None:
        if self.past is not None:
            self.past.reorder_cache(rows)
        self.inputs = None if self.inputs is None else self.inputs[rows]
        self.padding = None if self.padding is None else self.padding[rows]


class TransformersModel:
    """A causal language model of `transformers` with the interface of `GPT2`; its states are its logits.

    A model that gives no cache is read anew at each step. `check` tries what is relied on.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        accepted = inspect.signature(model.forward).parameters
        self._extras = [name for name in ("position_ids", "logits_to_keep") if name in accepted]

    def check(self) -> None:
        """Padding must not change a row, reading on must equal reading anew; else OptionError."""
        fault = "minds padding or its own cache"
        try:
            sound = self._sound()
        except (TypeError, AttributeError) as error:
            sound, fault = False, f"is no causal language model that reads input vectors ({error})"
        if not sound:
            raise OptionError(
                f"{type(self.model).__name__} {fault}; choose a causal transformer (GPT-2, OPT, Llama, Qwen ...)"
            )

    @property
    def head(self) -> GivenLogits:
        """The last layer may be more than a product, so it stays inside the model."""
        return GivenLogits(vocabulary_of(self.model))

    @property
    def max_places(self) -> int:
        """Longest sequence that the model can read; a million where it has no limit of its own."""
        found = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return found if isinstance(found, int) and found > 0 else _NO_LIMIT

    def get_input_embeddings(self) -> Any:
        """The word vectors."""
        return self.model.get_input_embeddings()

    def row_bytes(self, places: int) -> int:
        """Memory that one row of a batch needs while decoding, of so many places in all."""
        config = self.model.config.get_text_config()
        heads = int(config.num_attention_heads)
        head = getattr(config, "head_dim", None) or config.hidden_size // heads
        keys = (getattr(config, "num_key_value_heads", None) or heads) * int(head)
        size = self.model.get_input_embeddings().weight.element_size()
        # Twice, because a cache that grows is copied.
        cache = 2 * 2 * int(config.num_hidden_layers) * keys * places * size
        return int(cache + vocabulary_of(self.model) * (size + 8))

    def read(
        self, inputs: Tensor, padding: Tensor | None, max_tokens: int
    ) -> tuple[Tensor, _Cache]:
        """As `GPT2.read`: float32 logits (n, vocab) of the first token."""
        out = self._call(inputs.shape[1], 0, padding, keep=1, inputs_embeds=inputs, use_cache=True)
        caches = [name for name, value in out.items() if hasattr(value, "reorder_cache")]
        past, keyword = (out[caches[0]], caches[0]) if caches else (None, "")
        kept = None if caches else inputs
        return out.logits[:, -1].float(), _Cache(past, keyword, kept, padding, inputs.shape[1])

    def step(self, tokens: Tensor, cache: _Cache) -> Tensor:
        """Read one more token (n,) of each row; float32 logits (n, vocab) of the next."""
        cache.length += 1
        if cache.inputs is not None:
            words = self.model.get_input_embeddings()(tokens[:, None])
            cache.inputs = torch.cat([cache.inputs, words], dim=1)
            return self.read(cache.inputs, cache.padding, 1)[0]
        past = {cache.keyword: cache.past, "use_cache": True, "input_ids": tokens[:, None]}
        out = self._call(1, cache.length - 1, cache.padding, keep=1, **past)
        cache.past = out[cache.keyword]
        logits: Tensor = out.logits[:, -1].float()
        return logits

    def logits_at(self, inputs: Tensor, padding: Tensor | None, real: Tensor) -> Tensor:
        """As `GPT2.logits_at`."""
        count = real.shape[1]
        given = {"inputs_embeds": inputs, "use_cache": False}
        out = self._call(inputs.shape[1], 0, padding, keep=count, **given)
        logits: Tensor = out.logits[:, -count:][real]
        return logits

    def _call(
        self, count: int, first: int, padding: Tensor | None, *, keep: int, **inputs: Any
    ) -> Any:
        """The model's output for `count` places after the `first` that it has read."""
        rows = inputs["inputs_embeds" if "inputs_embeds" in inputs else "input_ids"]
        pad = torch.zeros(len(rows), device=rows.device).long() if padding is None else padding
        places = torch.arange(first + count, device=rows.device)
        mask = (places >= pad[:, None]).long()
        positions = (places[first:] - pad[:, None]).clamp(min=0)
        extra = {"position_ids": positions, "logits_to_keep": keep}
        return self.model(
            **inputs,
            **{name: extra[name] for name in self._extras},
            attention_mask=None if padding is None else mask,
            return_dict=True,
        )

    @torch.inference_mode()
    def _sound(self) -> bool:
        """Whether a padded row reads as it does alone, and a step with the cache as one without."""
        words = self.model.get_input_embeddings()
        ids = torch.arange(3, device=words.weight.device) % vocabulary_of(self.model)
        vectors = words(ids)
        together, cache = self.read(*pad_left([vectors[1:2], vectors[:2]]), 2)
        alone = self.read(vectors[None, 1:2], None, 1)[0]
        cached = self.step(ids[2:].expand(2), cache)
        anew = self.read(*pad_left([vectors[1:], vectors]), 1)[0]
        return all(
            bool((one - other).abs().max() <= 0.05 * other.abs().max().clamp(min=1e-6))
            for one, other in ((together[:1], alone), (cached, anew))
        )


def pad_left(prefixes: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Rows of (p_i, width) as one (n, p, width), zeros before the shorter ones, and how many (n,); None if none."""
    longest = max(len(prefix) for prefix in prefixes)
    padding = [longest - len(prefix) for prefix in prefixes]
    rows = zip(prefixes, padding, strict=True)
    inputs = torch.stack([functional.pad(prefix, (0, 0, more, 0)) for prefix, more in rows])
    return inputs, torch.tensor(padding, device=inputs.device) if any(padding) else None


@dataclass(frozen=True)
class PromptedModel:
    """A `StepNetwork`: a language model, evaluated, behind the vectors (at most `prefix_tokens`) of `prefixes`."""

    model: GPT2 | TransformersModel
    prefixes: Prefixes
    prefix_tokens: int

    @property
    def max_tokens(self) -> int:
        """Most tokens of a caption: the last one generated needs no position."""
        return self.model.max_places - self.prefix_tokens + 1

    @property
    def head(self) -> OutputHead:
        """Makes logits of states."""
        return self.model.head

    def row_bytes(self, max_tokens: int) -> int:
        """Memory that one row of a batch needs while decoding `max_tokens` tokens."""
        return self.model.row_bytes(self.prefix_tokens + max_tokens)

    def start(self, embeddings: Tensor, max_tokens: int) -> tuple[Tensor, Any]:
        """Read the prefixes of (n, dim) embeddings; the states before the first token."""
        inputs, padding = pad_left(self.prefixes(embeddings))
        if inputs.shape[1] > self.model.max_places + 1 - max_tokens:
            raise DecoderError(
                f"a prompt of {inputs.shape[1]} vectors leaves no room for {max_tokens} tokens; "
                "lower max_tokens"
            )
        return self.model.read(inputs, padding, max_tokens)

    def step(self, tokens: Tensor, cache: Any) -> Tensor:
        """Read one more token (n,) of each row; the states before the next."""
        return self.model.step(tokens, cache)

    def loss(
        self, prefixes: Sequence[Tensor], tokens: Tensor, lengths: Tensor, label_smoothing: float
    ) -> Tensor:
        """As `TrainableDecoder.loss`, behind n prefixes (p_i, width)."""
        inputs, padding = pad_left(prefixes)
        vectors = self.model.get_input_embeddings()(tokens[:, :-1]).to(inputs.dtype)
        # Padding after a caption is hidden by causality from all that counts.
        real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        logits = self.model.logits_at(torch.cat([inputs, vectors], dim=1), padding, real)
        return functional.cross_entropy(
            logits.float(), tokens[real], label_smoothing=label_smoothing
        )


class LanguageDecoder(TrainableDecoder):
    """A decoder that puts vectors (at most `prefix_tokens`) before a language model and lets the one loop drive it.

    `network` holds the language model and the mapper, under the names MODEL and MAPPER, which files have, too;
    OptionError for a model that cannot be driven, or has too few positions.
    """

    MODEL: ClassVar[str]
    MAPPER: ClassVar[str]
    TYPE: ClassVar[str]
    USUAL_TOKENS = 64  # published ViECap: at most 64 steps
    config: Any

    def __init__(
        self,
        model: nn.Module,
        mapper: nn.Module,
        tokenizer: LanguageTokenizer,
        config: Any,
        *,
        prefix_tokens: int,
    ) -> None:
        self.network = nn.ModuleDict({self.MAPPER: mapper, self.MODEL: model}).eval()
        self.tokenizer, self.config = tokenizer, config
        self.embedding_dim, self._prefix_tokens = config.embedding_dim, prefix_tokens
        known = vocabulary_of(model)
        if tokenizer.vocab_size != known:
            raise CheckpointError(
                f"the language model has {known} tokens, the tokenizer was made for "
                f"{tokenizer.vocab_size}; they come from different models"
            )
        if isinstance(self._driven, TransformersModel):
            self._driven.check()
        if self.max_tokens < 1:
            raise OptionError(
                f"the language model has {self._driven.max_places} positions, the prompt takes "
                f"{prefix_tokens}; use a shorter prompt or a model with more positions"
            )

    @property
    def model(self) -> nn.Module:
        """The language model, a part of `network`."""
        return self.network.get_submodule(self.MODEL)

    @property
    def _driven(self) -> GPT2 | TransformersModel:
        return self.model if isinstance(self.model, GPT2) else TransformersModel(self.model)

    @property
    def mapper(self) -> nn.Module:
        """What makes vectors of embeddings, a part of `network`."""
        return self.network.get_submodule(self.MAPPER)

    @abstractmethod
    def prefixes(self, embeddings: Tensor, memory: TextMemory | None = None) -> Sequence[Tensor]:
        """The vectors (p_i, width) before the caption of each of (n, dim) embeddings; no row minds the others."""

    def training_prefixes(
        self, embeddings: Tensor, tokens: Tensor, lengths: Tensor
    ) -> Sequence[Tensor]:
        """The same for training, where the caption is known; with gradients."""
        return self.prefixes(embeddings)

    def driven(self, memory: TextMemory | None = None) -> tuple[PromptedModel, LanguageTokenizer]:
        """The language model behind the prefixes, and its tokenizer."""
        prefixes = partial(self.prefixes, memory=memory)
        return PromptedModel(self._driven, prefixes, self._prefix_tokens), self.tokenizer

    def save(self, folder: str | Path, *, storage: Storage = "fp16") -> None:
        """Write config.json, weights.safetensors, tokenizer.json and what the decoder keeps beside them."""
        folder, state = Path(folder), self._stored()
        more = self._save_more(folder)
        save_weights(state, folder / WEIGHTS_FILE, storage=storage)
        self.tokenizer.save(folder / TOKENIZER_FILE)
        values = {**asdict(self.config), "end_ids": list(self.tokenizer.end_ids), **more}
        write_json(folder / CONFIG_FILE, {"type": self.TYPE, **values})

    def _stored(self) -> dict[str, Tensor]:
        """The weights as the file has them."""
        return stored_state(self.network)

    @abstractmethod
    def _save_more(self, folder: Path) -> dict[str, Any]:
        """Write what is neither weight nor tokenizer; what config.json keeps, the "language_model" among it."""

    @staticmethod
    def _tokenizer(settings: dict[str, Any], folder: Path, model: nn.Module) -> LanguageTokenizer:
        """Read a decoder's tokenizer, taking its values out of `settings`."""
        how = {"end_ids": settings.pop("end_ids"), "vocab_size": vocabulary_of(model)}
        return LanguageTokenizer.load(folder / TOKENIZER_FILE, **how)

    def sequences(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text as trained: words, end. A text stops at its first end token ("." in ViECap)."""
        ends = set(self.tokenizer.end_ids)
        found = []
        for ids in self.tokenizer.encode(texts):
            stop = next((place for place, token in enumerate(ids) if token in ends), len(ids))
            found.append([*ids[:stop], self.tokenizer.end_id])
        return found

    def loss(
        self, embeddings: Tensor, tokens: Tensor, lengths: Tensor, *, label_smoothing: float = 0.0
    ) -> Tensor:
        """As `TrainableDecoder.loss`; the prefix does not count."""
        prefixes = self.training_prefixes(embeddings, tokens, lengths)
        return self.driven()[0].loss(prefixes, tokens, lengths, label_smoothing)

    def soft_prompts(self, embeddings: Tensor, *, normalize: bool = True) -> Tensor:
        """The mapper's (n, k, width) of (n, dim) embeddings, in the mapper's type."""
        rows = embeddings.to(self.device, torch.float32)
        if normalize:
            rows = functional.normalize(rows, dim=-1)
        out: Tensor = self.mapper(rows.to(next(self.mapper.parameters()).dtype))
        return out


class MappingNetwork(nn.Module):
    """Linear(dim -> project_tokens * width), `prompt_tokens` constants appended, a transformer, its last outputs.

    Layers are pre-norm, attention goes both ways; `width` is the language model's, a multiple of `heads`.

    Example:
        >>> MappingNetwork(8, 16, prompt_tokens=3, layers=1, heads=2)(torch.zeros(5, 8)).shape
        torch.Size([5, 3, 16])
    """

    def __init__(
        self,
        embedding_dim: int,
        width: int,
        *,
        prompt_tokens: int = 10,
        project_tokens: int = 10,
        layers: int = 8,
        heads: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_whole(embedding_dim=embedding_dim, width=width, layers=layers, heads=heads)
        check_whole(prompt_tokens=prompt_tokens, project_tokens=project_tokens)
        if width % heads:
            raise OptionError(f"width {width} is not a multiple of heads {heads}; change the heads")
        self.prompt_tokens, self.project_tokens = prompt_tokens, project_tokens
        # torch's layers draw their initial weights from the global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.linear = nn.Linear(embedding_dim, project_tokens * width)
            self.prefix_const = nn.Parameter(torch.randn(prompt_tokens, width))
            made = nn.Sequential(*(_MappingLayer(width, heads) for _ in range(layers)))
            self.transformer = nn.ModuleDict({"layers": made})

    def forward(self, embeddings: Tensor) -> Tensor:
        """(n, embedding_dim) to the soft prompt (n, prompt_tokens, width)."""
        rows, width = len(embeddings), self.prefix_const.shape[1]
        projected = self.linear(embeddings).view(rows, self.project_tokens, width)
        constants = self.prefix_const.expand(rows, -1, -1)
        out: Tensor = self.transformer["layers"](torch.cat([projected, constants], dim=1))
        return out[:, self.project_tokens :]


class PromptMLP(nn.Module):
    """The simple mapper: Linear, tanh, Linear to `prompt_tokens` vectors (ClipCap's first variant)."""

    def __init__(
        self, embedding_dim: int, width: int, *, prompt_tokens: int = 10, seed: int = 0
    ) -> None:
        super().__init__()
        check_whole(embedding_dim=embedding_dim, width=width, prompt_tokens=prompt_tokens)
        self.prompt_tokens = prompt_tokens
        inner = max(1, prompt_tokens * width // 2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.input = nn.Linear(embedding_dim, inner)
            self.output = nn.Linear(inner, prompt_tokens * width)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(n, embedding_dim) to the soft prompt (n, prompt_tokens, width)."""
        out: Tensor = self.output(torch.tanh(self.input(embeddings)))
        return out.view(len(embeddings), self.prompt_tokens, -1)


class _MappingLayer(nn.Module):
    """Attention without mask (`to_keys_values` gives keys, then values), and a perceptron; both pre-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"to_queries": nn.Linear(width, width, bias=False)})
        self.attn["to_keys_values"] = nn.Linear(width, 2 * width, bias=False)
        self.attn["project"] = nn.Linear(width, width)
        fc1, fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.mlp = nn.Sequential(OrderedDict(fc1=fc1, relu=nn.ReLU(), fc2=fc2))

    def forward(self, hidden: Tensor) -> Tensor:
        rows, places, width = hidden.shape
        normed = self.norm1(hidden)
        both = self.attn["to_keys_values"](normed).chunk(2, dim=-1)
        queries, keys, values = (
            part.reshape(rows, places, self.heads, width // self.heads).transpose(1, 2)
            for part in (self.attn["to_queries"](normed), *both)
        )
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        merged = mixed.transpose(1, 2).reshape(rows, places, width)
        hidden = hidden + self.attn["project"](merged)
        out: Tensor = hidden + self.mlp(self.norm2(hidden))
        return out
