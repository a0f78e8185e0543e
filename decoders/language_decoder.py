"""What every decoder built on a language model shares: driving it, its vocabulary, its training loss.

Knows: the engine, a causal language model, a tokenizer. Does NOT know: how an embedding becomes a prefix, files.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Self

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from decoders.base import Decoder, TextMemory
from decoders.causal_lm import CausalLanguageModel, vocabulary_of
from decoders.engine import generate
from decoders.language_tokenizer import LanguageTokenizer
from decoders.options import Decoded, DecodeOptions
from patchioner.base.errors import CheckpointError
from patchioner.base.inference import inference_copy

USUAL_TOKENS = 64  # published ViECap: at most 64 steps


class LanguageDecoder(Decoder):
    """A decoder that puts vectors before a language model and lets the one engine drive it.

    Args:
        network: holds the language model and the mapper.
        tokenizer: of the language model's tokens.
        prefix_tokens: most vectors that stand before a caption.

    Raises:
        CheckpointError: model and tokenizer do not belong together.
        OptionError: a model that cannot be driven, or with too few positions.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: LanguageTokenizer,
        *,
        prefix_tokens: int,
    ) -> None:
        self.network, self.tokenizer = network.eval(), tokenizer
        model = self.model
        if tokenizer.vocab_size != vocabulary_of(model):
            raise CheckpointError(
                f"the language model has {vocabulary_of(model)} tokens, the tokenizer was made for "
                f"{tokenizer.vocab_size}; they come from different models"
            )
        self.driver = CausalLanguageModel(model, self.prefixes, prefix_tokens=prefix_tokens)

    @abstractmethod
    def prefixes(self, embeddings: Tensor, memory: TextMemory | None = None) -> Sequence[Tensor]:
        """The vectors (p_i, width) before the caption of each of (n, dim) embeddings; no row minds the others."""

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """The language model, a part of `network`."""

    @property
    @abstractmethod
    def mapper(self) -> nn.Module:
        """What makes vectors of embeddings, a part of `network`."""

    def training_prefixes(
        self, embeddings: Tensor, tokens: Tensor, lengths: Tensor
    ) -> Sequence[Tensor]:
        """The same for training, where the caption is known; with gradients."""
        return self.prefixes(embeddings)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.mapper.parameters()).device

    def generate(
        self,
        embeddings: Tensor,
        options: DecodeOptions | None = None,
        memory: TextMemory | None = None,
    ) -> list[Decoded]:
        """Caption (n, embedding_dim) float embeddings; see `Decoder.generate`.

        Without options: greedy, at most 64 tokens.
        """
        if options is None:
            options = replace(DecodeOptions(), max_tokens=min(USUAL_TOKENS, self.max_tokens))
        driver = self.driver
        if memory is not None:
            driver = copy.copy(driver)
            driver.prefixes = partial(self.prefixes, memory=memory)
        return generate(
            driver,
            self.tokenizer,
            embeddings,
            options,
            embedding_dim=self.embedding_dim,
            device=self.device,
        )

    def to(
        self,
        device: str | torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        optimize: bool = True,
    ) -> Self:
        """A copy for inference there; see `Decoder.to`."""
        made = copy.copy(self)
        made.network = inference_copy(self.network, device, dtype, optimize=optimize)
        made.driver = copy.copy(self.driver)
        made.driver.model, made.driver.prefixes = made.model, made.prefixes
        return made

    # What training asks.

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """The weights to train."""

    @property
    def max_tokens(self) -> int:
        """Most tokens of a caption, the end token included."""
        return self.driver.max_tokens

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
        """Mean cross-entropy of the real tokens, the prefix apart; see `TrainableDecoder.loss`."""
        prefixes = self.training_prefixes(embeddings, tokens, lengths)
        return self.driver.loss(prefixes, tokens, lengths, label_smoothing=label_smoothing)

    def soft_prompts(self, embeddings: Tensor, *, normalize: bool = True) -> Tensor:
        """The mapper's (n, k, width) of (n, dim) embeddings, in the mapper's type."""
        rows = embeddings.to(self.device, torch.float32)
        if normalize:
            rows = functional.normalize(rows, dim=-1)
        out: Tensor = self.mapper(rows.to(next(self.mapper.parameters()).dtype))
        return out
