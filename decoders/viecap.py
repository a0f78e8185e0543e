"""The `viecap` decoder: a soft prompt from a mapping network and a hard prompt of entities before GPT-2.

Source: Fei et al. 2023 (ViECap, arXiv 2307.16525). Unlike the published code, prompts of different lengths are masked
(a caption does not depend on its batch), and scores are log-probabilities, not GPT-2's perplexity of the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, get_args

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from decoders.base import (
    CONFIG_FILE,
    DECODERS,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    TextMemory,
    check_whole,
    reading,
)
from decoders.entities import (
    COCO_ENTITIES,
    EntityFinder,
    EntityPrompter,
    entity_prompt,
    mask_entities,
)
from decoders.language_decoder import LanguageDecoder, MappingNetwork
from decoders.language_model import (
    build_language_model,
    choose_language_model,
    describe_language_model,
    fit_stored,
    stored_state,
    vocabulary_of,
    width_of,
)
from decoders.tokenizers import LanguageTokenizer
from patchioner.base.errors import CheckpointError, DecoderError, OptionError
from patchioner.base.weights import Storage, load_weights

Prompts = Literal["soft_hard", "hard_soft", "soft", "hard"]


class HardPrompter(Protocol):
    """Puts each of (n, dim) unit embeddings into words; a row's prompt does not depend on the others."""

    def prompts(self, embeddings: Tensor, memory: TextMemory | None = None) -> list[str]:
        """The prompts."""


@dataclass(frozen=True)
class ViecapConfig:
    """Shape of the mapping network, and how prompts are joined.

    Args:
        embedding_dim: width of the embeddings.
        prompt_tokens: vectors of the soft prompt (published `continuous_prompt_length`).
        project_tokens: vectors that an embedding is projected to first (published `clip_project_length`).
        mapping_layers, mapping_heads: of the mapping network.
        prompts: which prompts stand before a caption, in this order. "hard" leaves the mapping network unused.
        hard_tokens: a hard prompt of more tokens is cut.
        entity_masking: in training, the probability of leaving an entity of the caption out of the hard prompt.
        most_entities: in training, most entities of a hard prompt.

    Raises:
        OptionError: a value makes no sense.
    """

    embedding_dim: int
    prompt_tokens: int = 10
    project_tokens: int = 10
    mapping_layers: int = 8
    mapping_heads: int = 8
    prompts: Prompts = "soft_hard"
    hard_tokens: int = 64
    entity_masking: float = 0.4
    most_entities: int = 10

    def __post_init__(self) -> None:
        if self.prompts not in get_args(Prompts):
            raise OptionError(f"prompts is {self.prompts!r}; choose one of {get_args(Prompts)}")
        check_whole(hard_tokens=self.hard_tokens, most_entities=self.most_entities)
        if not 0 <= self.entity_masking <= 1:
            wrong = f"entity_masking is {self.entity_masking!r}"
            raise OptionError(f"{wrong}; it is a probability, from 0 to 1")

    @property
    def prefix_tokens(self) -> int:
        """Most vectors before a caption."""
        soft = self.prompt_tokens if "soft" in self.prompts else 0
        return soft + (self.hard_tokens if "hard" in self.prompts else 0)


class ViecapNetwork(nn.Module):
    """Mapping network and language model under the published names: `mapping_network.*`, `gpt.*`."""

    def __init__(self, config: ViecapConfig, gpt: nn.Module, *, seed: int = 0) -> None:
        super().__init__()
        self.mapping_network = MappingNetwork(
            config.embedding_dim,
            width_of(gpt),
            prompt_tokens=config.prompt_tokens,
            project_tokens=config.project_tokens,
            layers=config.mapping_layers,
            heads=config.mapping_heads,
            seed=seed,
        )
        self.gpt = gpt


@DECODERS.register("viecap")
class ViecapDecoder(LanguageDecoder):
    """Soft prompt, hard prompt, GPT-2 of any size (or another causal language model).

    A caption ends with one of the tokenizer's end tokens, which is no part of its text. The published decoder ends at
    "." or " ." (`tokenizer.full_stops()`), after at most 64 tokens, greedily or with a beam of 5.

    Published training: `TrainOptions(epochs=15, batch=80, learning_rate=2e-5, warmup_steps=5000, decay="linear",
    noise_sigma=0.126, label_smoothing=0.0)`, all weights of both networks.
    """

    TYPE: ClassVar[str] = "viecap"
    MODEL, MAPPER = "gpt", "mapping_network"
    config: ViecapConfig

    def __init__(
        self,
        network: ViecapNetwork,
        tokenizer: LanguageTokenizer,
        config: ViecapConfig,
        prompter: HardPrompter | None = None,
    ) -> None:
        super().__init__(network, tokenizer, prefix_tokens=config.prefix_tokens)
        self.config, self.prompter = config, prompter
        self._finds: tuple[Sequence[str], EntityFinder] | None = None

    @classmethod
    def create(
        cls,
        embedding_dim: int,
        language_model: str | Mapping[str, Any],
        tokenizer: LanguageTokenizer | None = None,
        *,
        prompter: HardPrompter | None = None,
        end: Literal["own", "stop"] = "own",
        seed: int = 0,
        **shape: Any,
    ) -> Self:
        """A decoder with a fresh mapping network, to be trained.

        Args:
            language_model: a hub id or folder, trained; or a configuration ("model_type" and its settings), random,
                which needs a `tokenizer`.
            prompter: puts unit embeddings into words; can be set later.
            end: captions end with the language model's "own" end of text, or at a full "stop" as published.
            shape: the other values of `ViecapConfig`.

        Raises:
            OptionError, HubError, CheckpointError: values that make no sense; a language model that cannot be had.
        """
        model, tokenizer = choose_language_model(language_model, tokenizer, seed=seed)
        if end == "stop":
            tokenizer = stopping(tokenizer)
        config = ViecapConfig(embedding_dim, **shape)
        return cls(ViecapNetwork(config, model, seed=seed), tokenizer, config, prompter)

    def prefixes(self, embeddings: Tensor, memory: TextMemory | None = None) -> Sequence[Tensor]:
        """Soft and hard prompt of each row, joined as the configuration says."""
        texts: list[str] | None = None
        if "hard" in self.config.prompts:
            if self.prompter is None:
                raise DecoderError(
                    f"this {self.TYPE} decoder has no hard prompter; set `prompter`, or use prompts='soft'"
                )
            rows = functional.normalize(embeddings.float(), dim=-1)
            texts = self.prompter.prompts(rows, memory)
        return self._join(embeddings, texts)

    def training_prefixes(
        self, embeddings: Tensor, tokens: Tensor, lengths: Tensor
    ) -> Sequence[Tensor]:
        """Soft prompt, and a hard prompt of the entities that the caption itself names, in training some left out."""
        if "hard" not in self.config.prompts:
            return self._join(embeddings, None)
        finder = self._finder()
        texts = []
        for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True):
            names = finder.find(self.tokenizer.decode(row[:length]))
            share = self.config.entity_masking if self.network.training else 0.0
            kept = mask_entities(names, share=share, most=self.config.most_entities)
            texts.append(entity_prompt(kept))
        return self._join(embeddings, texts)

    def save(self, folder: str | Path, *, storage: Storage = "fp16") -> None:
        """Write config.json, weights.safetensors, tokenizer.json and what the hard prompter keeps."""
        folder = Path(folder)
        language, kept = describe_language_model(self.model), self._save_prompter(folder)
        state = stored_state(self.network)
        self._write(folder, state, storage, language_model=language, **kept)

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path) -> Self:
        """Read what `save` wrote; see `Decoder.from_config`."""
        settings, path = dict(config), folder / CONFIG_FILE
        prompter = cls._load_prompter(folder, settings)
        with reading(path):
            language, end_ids = settings.pop("language_model"), settings.pop("end_ids")
            shape = ViecapConfig(**settings)
            network = ViecapNetwork(shape, build_language_model(language))
        weights = folder / WEIGHTS_FILE
        fit_stored(network, load_weights(weights), source=str(weights))
        path, size = folder / TOKENIZER_FILE, vocabulary_of(network.gpt)
        tokenizer = LanguageTokenizer.load(path, end_ids=end_ids, vocab_size=size)
        return cls(network, tokenizer, shape, prompter)

    # For decoders of this form with another hard prompt.

    def _save_prompter(self, folder: Path) -> dict[str, Any]:
        """Write the prompter's files; give back what config.json keeps of it."""
        if self.prompter is None:
            return {"entities": None}
        if not isinstance(self.prompter, EntityPrompter):
            raise CheckpointError(
                f"a {type(self.prompter).__name__} cannot be saved with a viecap decoder; use an EntityPrompter"
            )
        self.prompter.save(folder)
        return {"entities": self.prompter.settings}

    @classmethod
    def _load_prompter(cls, folder: Path, settings: dict[str, Any]) -> HardPrompter | None:
        """Read what `_save_prompter` wrote, taking its values out of `settings`."""
        entities = settings.pop("entities", None)
        if entities is None:
            return None
        with reading(folder / CONFIG_FILE):
            return EntityPrompter.load(folder, **entities)

    def _finder(self) -> EntityFinder:
        """Finds the entities of a caption: those of the prompter, else the classes of COCO."""
        names = getattr(self.prompter, "names", COCO_ENTITIES)
        if self._finds is None or self._finds[0] != names:
            self._finds = names, EntityFinder(names)
        return self._finds[1]

    def _join(self, embeddings: Tensor, texts: Sequence[str] | None) -> list[Tensor]:
        order = self.config.prompts.split("_")
        parts: dict[str, Sequence[Tensor]] = {}
        if "soft" in order:
            parts["soft"] = list(self.soft_prompts(embeddings))
        if texts is not None:
            parts["hard"] = self._embed(texts)
        return [torch.cat(row) for row in zip(*(parts[name] for name in order), strict=True)]

    def _embed(self, texts: Sequence[str]) -> list[Tensor]:
        """The language model's word vectors (p_i, width) of each prompt; equal prompts are looked up once."""
        words: Any = self.model.get_input_embeddings()  # type: ignore[operator]
        different = list(dict.fromkeys(texts))
        vectors = {}
        for text, ids in zip(different, self.tokenizer.encode(different, lead=False), strict=True):
            if not ids:
                raise DecoderError(f"the hard prompt {text!r} has no words; give a sentence")
            cut = torch.tensor(ids[: self.config.hard_tokens], device=self.device)
            vectors[text] = words(cut)
        return [vectors[text] for text in texts]


def stopping(tokenizer: LanguageTokenizer) -> LanguageTokenizer:
    """The same tokenizer, with captions that end at "." or " ." (as published) or at its own end of text."""
    stops = tokenizer.full_stops()
    if not stops:
        raise OptionError('the tokenizer has no token for "."; use its own end of text')
    return tokenizer.ending_with((*stops, *(i for i in tokenizer.end_ids if i not in stops)))
