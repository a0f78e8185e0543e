"""What a decoder is, and what the generate engine needs of a network.

Knows: the interfaces and the registry of decoder types.
Does NOT know: any concrete network, tokenizer or strategy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from decoders.head import OutputHead
from decoders.options import Decoded, DecodeOptions
from patchioner.base.registry import Registry
from patchioner.base.weights import Storage


class RowCache(Protocol):
    """What a network remembers of the rows it is decoding."""

    def select(self, rows: Tensor) -> None:
        """Keep these rows (int64 indices), in this order; repeats and omissions are allowed."""


CacheT = TypeVar("CacheT", bound=RowCache)


class StepNetwork(Protocol[CacheT]):
    """A network that the engine can drive: one prefix, then one token of every row at a time."""

    @property
    def max_tokens(self) -> int:
        """Most tokens that a sequence can hold."""

    @property
    def head(self) -> OutputHead:
        """Makes logits of states."""

    def row_bytes(self, max_tokens: int) -> int:
        """Memory that one row needs while `max_tokens` tokens are decoded."""

    def start(self, embeddings: Tensor, max_tokens: int) -> tuple[Tensor, CacheT]:
        """Read (n, dim) embeddings; the states (n, width) before the first token, and a cache."""

    def step(self, tokens: Tensor, cache: CacheT) -> Tensor:
        """Read (n,) tokens; the states (n, width) before the next token of each row."""


class Vocabulary(Protocol):
    """What the engine needs of a tokenizer."""

    @property
    def end_id(self) -> int:
        """The token that ends a caption."""

    @property
    def unwritable_ids(self) -> Sequence[int]:
        """Tokens that must never be generated."""

    def token_texts(self) -> list[str]:
        """What each token writes, by id; "" for special tokens."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids."""


class FoundTexts(Protocol):
    """What a memory finds for (n, dim) queries, best first."""

    @property
    def indices(self) -> Tensor:
        """(n, k) int64 rows of the memory."""

    @property
    def similarities(self) -> Tensor:
        """(n, k) float32 cosines."""

    @property
    def texts(self) -> Sequence[Sequence[str]] | None:
        """The n x k texts, or None from a memory without."""


class TextMemory(Protocol):
    """Texts and their embeddings, searched by cosine; `memory_bank.MemoryBank` is one."""

    @property
    def dim(self) -> int:
        """Width of the embeddings."""

    @property
    def texts(self) -> Sequence[str] | None:
        """The N texts, or None."""

    def __len__(self) -> int:
        """Number of rows, N."""

    def nearest(self, queries: Tensor, k: int) -> FoundTexts:
        """The k rows of highest cosine for each of (n, dim) queries."""

    def embeddings(self) -> Tensor:
        """(N, dim) float32, in a new tensor."""


class Decoder(ABC):
    """Embeddings in, captions out. Made by `load_decoder` or by a class's own `create`."""

    @property
    def needs_memory(self) -> bool:
        """Whether `generate` needs a memory of texts to draw on."""
        return False

    @property
    @abstractmethod
    def embedding_dim(self) -> int:
        """Width of the embeddings it takes."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where its weights are."""

    @abstractmethod
    def generate(
        self,
        embeddings: Tensor,
        options: DecodeOptions | None = None,
        memory: TextMemory | None = None,
    ) -> list[Decoded]:
        """Caption (n, embedding_dim) float embeddings: one `Decoded` each, in their order.

        A row's caption does not depend on the other rows.

        Args:
            memory: texts to draw on, where `needs_memory`; of the same width.

        Raises:
            DecoderError: no memory that is needed, a wrong shape, a row that is not finite, or a caption longer than
                the network has positions.
        """

    @abstractmethod
    def save(self, folder: str | Path, *, storage: Storage = "fp16") -> None:
        """Write config.json, weights.safetensors and tokenizer.json for `load_decoder`."""

    @abstractmethod
    def to(
        self,
        device: str | torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        optimize: bool = True,
    ) -> Self:
        """A copy for inference there (`patchioner.base.inference.inference_copy`); this one stays as it is."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, config: dict[str, Any]) -> Self:
        """Read what `save` wrote; `config` is config.json without its "type"."""


class TrainableDecoder(Protocol):
    """What text-only training needs of a decoder."""

    @property
    def embedding_dim(self) -> int:
        """Width of the embeddings it takes."""

    @property
    def max_tokens(self) -> int:
        """Most tokens that a training sequence can hold."""

    @property
    def module(self) -> nn.Module:
        """The weights to train."""

    def sequences(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text as trained, the end token included."""

    def loss(
        self, embeddings: Tensor, tokens: Tensor, lengths: Tensor, *, label_smoothing: float
    ) -> Tensor:
        """Mean cross-entropy of a batch.

        Args:
            embeddings: (n, embedding_dim) float.
            tokens: (n, t) int64, padded at the end.
            lengths: (n,) int64, real tokens of each row.
            label_smoothing: mass spread over the whole vocabulary.
        """

    def generate(
        self,
        embeddings: Tensor,
        options: DecodeOptions | None = None,
        memory: TextMemory | None = None,
    ) -> list[Decoded]:
        """Caption embeddings, for the samples shown while training."""


DECODERS: Registry[type[Decoder]] = Registry(
    "decoder",
    homes={
        "prefix_gpt2": "decoders.prefix_gpt2",
        "viecap": "decoders.viecap",
        "meacap": "decoders.meacap",
        "retrieval": "decoders.retrieval",
        "prefix_lm": "decoders.prefix_lm",
    },
)
