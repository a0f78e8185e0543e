"""What a decoder is, what the generate loop needs of a network, and how a folder becomes a decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from decoders.head import OutputHead
from decoders.options import Decoded, DecodeOptions
from patchioner.base.errors import CheckpointError, UnknownNameError
from patchioner.base.files import read_json
from patchioner.base.registry import Registry
from patchioner.base.weights import Storage

CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE = "config.json", "weights.safetensors", "tokenizer.json"


class StepNetwork(Protocol):
    """A network that the loop can drive: one prefix, then one token of every row at a time."""

    @property
    def max_tokens(self) -> int:
        """Most tokens that a sequence can hold."""

    @property
    def head(self) -> OutputHead:
        """Makes logits of states."""

    def row_bytes(self, max_tokens: int) -> int:
        """Memory that one row needs while `max_tokens` tokens are decoded."""

    def start(self, embeddings: Tensor, max_tokens: int) -> tuple[Tensor, Any]:
        """Read (n, dim) embeddings; the states (n, width) before the first token, and a cache.

        The cache has `select(rows)`: keep these rows (int64 indices) in this order, repeated or left out.
        """

    def step(self, tokens: Tensor, cache: Any) -> Tensor:
        """Read (n,) tokens; the states (n, width) before the next token of each row."""


class Vocabulary(Protocol):
    """What the loop needs of a tokenizer."""

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end a caption."""

    @property
    def unwritable_ids(self) -> Sequence[int]:
        """Tokens that must never be generated."""

    def token_texts(self) -> list[str]:
        """What each token writes, by id; "" for special tokens."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids."""


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

    def nearest(self, queries: Tensor, k: int) -> Any:
        """The k rows of highest cosine of each of (n, dim) queries: `indices` (n, k) int64, `similarities` (n, k)."""


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
        """Write config.json, and weights.safetensors and tokenizer.json where there are any."""

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
    def from_config(cls, config: dict[str, Any], folder: Path) -> Self:
        """Read what `save` wrote, strictly; `config` is config.json without its "type".

        Raises:
            CheckpointError: a missing, damaged or unfitting file.
        """


class TrainableDecoder(Decoder):
    """A decoder with weights that `train_decoder` can teach."""

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """All weights."""

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """The weights to train."""

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """Most tokens that a training sequence can hold."""

    @abstractmethod
    def sequences(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text as trained, the end token included."""

    @abstractmethod
    def loss(
        self, embeddings: Tensor, tokens: Tensor, lengths: Tensor, *, label_smoothing: float = 0.0
    ) -> Tensor:
        """Mean cross-entropy of a batch.

        Args:
            embeddings: (n, embedding_dim) float.
            tokens: (n, t) int64, padded at the end.
            lengths: (n,) int64, real tokens of each row.
            label_smoothing: mass spread over the whole vocabulary.
        """


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


def load_decoder(folder: str | Path, device: str | torch.device = "cpu") -> Decoder:
    """Load the decoder that `Decoder.save` wrote.

    Args:
        folder: holds config.json, weights.safetensors and tokenizer.json.
        device: elsewhere than on the CPU, what comes back is a copy for inference.

    Raises:
        CheckpointError: for a missing, damaged, foreign or unfitting file.
    """
    path = Path(folder) / CONFIG_FILE
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("type"), str):
        raise CheckpointError(f'{path} has no "type"; a decoder\'s config.json names its type')
    try:
        decoder_class = DECODERS.get(config["type"])
    except UnknownNameError as error:
        raise CheckpointError(f"{path}: {error}") from error
    settings = {key: value for key, value in config.items() if key != "type"}
    decoder = decoder_class.from_config(settings, Path(folder))
    return decoder if torch.device(device).type == "cpu" else decoder.to(device)
