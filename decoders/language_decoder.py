"""Decoders on a language model: vectors stand before the caption, padded at the left and masked: rows are independent.

Sources: ClipCap (Mokady et al. 2021, arXiv 2111.09734), ViECap (arXiv 2307.16525).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeAlias, get_args

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from decoders import language_model as language
from decoders.base import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, TextMemory, TrainableDecoder, reading, token_loss
from decoders.gpt2 import GPT2
from decoders.language_model import TransformersModel
from decoders.tokenizers import LanguageTokenizer
from patchioner.base.errors import CheckpointError, OptionError
from patchioner.base.files import check, write_json
from patchioner.base.weights import Storage, load_weights, save_weights

Tune = Literal["frozen", "full"]
# (n, dim) embeddings -> the input vectors (p_i, width) of each row, p_i at least 1
Prefixes: TypeAlias = Callable[[Tensor], Sequence[Tensor]]


class PromptedModel:
    """A `StepNetwork`: a language model, evaluated, behind the vectors (at most `prefix_tokens`) of `prefixes`."""

    gives_scores = False

    def __init__(self, model: GPT2 | TransformersModel, prefixes: Prefixes, prefix_tokens: int) -> None:
        self._model, self._prefixes, self._prefix_tokens = model, prefixes, prefix_tokens
        self.max_tokens = model.max_places - prefix_tokens + 1  # the last one generated needs no position
        self.vocab_size, self.logits, self.step = model.vocab_size, model.logits, model.step

    def row_bytes(self, max_tokens: int) -> int:
        """Memory that one row of a batch needs while decoding `max_tokens` tokens."""
        return self._model.row_bytes(self._prefix_tokens + max_tokens)

    def start(self, embeddings: Tensor, max_tokens: int) -> tuple[Tensor, Any]:
        """Read the prefixes of (n, dim) embeddings; the states before the first token."""
        return self._model.read(*language.pad_left(self._prefixes(embeddings)), max_tokens)

    def loss(self, prefixes: Sequence[Tensor], tokens: Tensor, lengths: Tensor, label_smoothing: float) -> Tensor:
        """As `TrainableDecoder.loss`, behind n prefixes (p_i, width)."""
        inputs, padding = language.pad_left(prefixes)
        vectors = self._model.get_input_embeddings()(tokens[:, :-1]).to(inputs.dtype)
        logits_at = partial(self._model.logits_at, torch.cat([inputs, vectors], dim=1), padding)
        return token_loss(logits_at, tokens, lengths, label_smoothing)


@dataclass(frozen=True)
class PrefixLMConfig:
    """Shape of the mapper, and what is trained; OptionError where a value makes no sense."""

    embedding_dim: int
    prompt_tokens: int = 10  # vectors that stand before a caption
    tune: Tune = "frozen"  # the language model stays so, or is trained in "full"

    def __post_init__(self) -> None:
        check(get_args(Tune), tune=self.tune)
        check("int [1, inf)", self, "embedding_dim prompt_tokens")

    @property
    def prefix_tokens(self) -> int:
        """Vectors before a caption."""
        return self.prompt_tokens

    def make_mapper(self, width: int, seed: int) -> nn.Module:
        """A fresh one for a language model of this width."""
        return PromptMLP(self.embedding_dim, width, prompt_tokens=self.prompt_tokens, seed=seed)


class LanguageDecoder(TrainableDecoder):
    """The `prefix_lm` decoder: a soft prompt before any causal language model; and the base of those with more prompts.

    `network` holds the language model and the mapper under the names MODEL and MAPPER, which files have as well.
    OptionError for a model that cannot be driven or has too few positions, CheckpointError for another's tokenizer.
    """

    TYPE, MODEL, MAPPER = "prefix_lm", "language_model", "mapper"
    CONFIG: ClassVar[type[Any]] = PrefixLMConfig
    USUAL_TOKENS = 64  # published ViECap: at most 64 steps

    def __init__(self, model: nn.Module, tokenizer: LanguageTokenizer, config: Any, *, seed: int = 0) -> None:
        mapper = config.make_mapper(language.table_shape(model)[1], seed)
        self.network = nn.ModuleDict({self.MAPPER: mapper, self.MODEL: model}).eval()
        self.tokenizer, self.config = tokenizer, config
        self.embedding_dim = config.embedding_dim
        self._check()
        model.requires_grad_(config.tune == "full")

    def _check(self) -> None:
        known, most = language.table_shape(self.model)[0], self._driven.max_places
        if self.tokenizer.vocab_size != known:
            wanted = self.tokenizer.vocab_size
            raise CheckpointError(f"the tokenizer is of a model with {wanted} tokens, not {known}: use the model's own")
        if isinstance(self._driven, TransformersModel):
            self._driven.check()
        if self.max_tokens < 1:
            prompt = self.config.prefix_tokens
            raise OptionError(
                f"the language model has {most} positions, the prompt takes {prompt}: shorten it or take another"
            )

    @classmethod
    def create(
        cls,
        embedding_dim: int,
        language_model: str,
        tokenizer: LanguageTokenizer | None = None,
        *,
        seed: int = 0,
        **settings: Any,
    ) -> Self:
        """A decoder with a fresh mapper before a trained language model (its id or folder), to be trained.

        Args:
            tokenizer: its own, whose end tokens end captions, or that with others (`ending_with`).
            settings: the other values of the configuration; OptionError for those that make no sense.

        Other errors are those of `fetch_language_model`.
        """
        config = cls.CONFIG(embedding_dim, **settings)
        model, usual = language.fetch_language_model(language_model)
        return cls(model, tokenizer or usual, config, seed=seed)

    @property
    def module(self) -> nn.Module:
        """The weights to train: the mapper, and the language model where `config.tune` is "full"."""
        return self.network if self.config.tune == "full" else self.mapper

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

    def prefixes(self, embeddings: Tensor, memory: TextMemory | None = None) -> Sequence[Tensor]:
        """The vectors (p_i, width) before the caption of each of (n, dim) embeddings; no row minds the others."""
        return list(self.soft_prompts(embeddings))

    def training_prefixes(self, embeddings: Tensor, tokens: Tensor, lengths: Tensor) -> Sequence[Tensor]:
        """The same for training, where the caption is known; with gradients."""
        return self.prefixes(embeddings)

    def driven(self, memory: TextMemory | None = None) -> tuple[PromptedModel, LanguageTokenizer]:
        """The language model behind the prefixes, and its tokenizer."""
        prefixes = partial(self.prefixes, memory=memory)
        return PromptedModel(self._driven, prefixes, self.config.prefix_tokens), self.tokenizer

    def save(self, folder: str | Path, *, storage: Storage = "fp16") -> None:
        """Write config.json, weights.safetensors, tokenizer.json and what the decoder keeps beside them."""
        folder = Path(folder)
        more, state = self._save_more(folder), language.stored_state(self.network)
        save_weights(state, folder / WEIGHTS_FILE, storage=storage)
        self.tokenizer.save(folder / TOKENIZER_FILE)
        values = {**asdict(self.config), "end_ids": list(self.tokenizer.end_ids), **more}
        place = language.describe_language_model(self.model)
        write_json(folder / CONFIG_FILE, {"type": self.TYPE, **values, "language_model": place})

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path) -> Self:
        """Read what `save` wrote, strictly."""
        settings, weights = dict(config), folder / WEIGHTS_FILE
        with reading(folder / CONFIG_FILE):
            more = cls._load_more(folder, settings)
            model = language.build_language_model(settings.pop("language_model"))
            ends, known = settings.pop("end_ids"), language.table_shape(model)[0]
            tokenizer = LanguageTokenizer.load(folder / TOKENIZER_FILE, end_ids=ends, vocab_size=known)
            decoder = cls(model, tokenizer, cls.CONFIG(**settings), **more)
        decoder.fit(load_weights(weights), str(weights))
        return decoder

    def fit(self, state: Mapping[str, Tensor], source: str) -> None:
        """Load the weights of a file, strictly."""
        language.fit_stored(self.network, state, source=source)

    def _save_more(self, folder: Path) -> dict[str, Any]:
        """Write what is neither weight nor tokenizer; what config.json keeps of it."""
        return {}

    @classmethod
    def _load_more(cls, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
        """Read what `_save_more` wrote, taking its values out of `settings`; arguments of the constructor."""
        return {}

    def sequences(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text as trained: words, end. A text stops at its first end token ("." in ViECap)."""
        own = self.tokenizer
        return [[*takewhile(lambda token: token not in own.end_ids, ids), own.end_id] for ids in own.encode(texts)]

    def loss(self, embeddings: Tensor, tokens: Tensor, lengths: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """As `TrainableDecoder.loss`; the prefix does not count."""
        prefixes = self.training_prefixes(embeddings, tokens, lengths)
        return self.driven()[0].loss(prefixes, tokens, lengths, label_smoothing)

    def soft_prompts(self, embeddings: Tensor) -> Tensor:
        """The mapper's (n, k, width) of (n, dim) embeddings, in the mapper's type."""
        rows = functional.normalize(embeddings.to(self.device, torch.float32), dim=-1)
        out: Tensor = self.mapper(rows.to(next(self.mapper.parameters()).dtype))
        return out


class PromptMLP(nn.Module):
    """The simple mapper: Linear, tanh, Linear to `prompt_tokens` vectors (ClipCap's first variant)."""

    def __init__(self, embedding_dim: int, width: int, *, prompt_tokens: int = 10, seed: int = 0) -> None:
        super().__init__()
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
