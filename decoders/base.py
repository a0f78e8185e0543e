"""What a decoder is and is asked, what the loop needs of a network, and how a folder becomes a decoder."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, get_args

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from patchioner.base.errors import CheckpointError, DecoderError, OptionError
from patchioner.base.files import check, read_json
from patchioner.base.optional import Registry
from patchioner.base.weights import AllocationLimit, Storage, inference_copy

if TYPE_CHECKING:
    from decoders.guidance import Guide
    from decoders.tokenizers import Vocabulary

CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE = "config.json", "weights.safetensors", "tokenizer.json"

Strategy = Literal["greedy", "beam", "sample"]


@dataclass(frozen=True)
class DecodeOptions:
    """How captions are decoded; OptionError where a value makes no sense.

    Args:
        strategy: "greedy" takes the likeliest token, "beam" keeps hypotheses, "sample" draws from the distribution.
        max_tokens: most tokens generated, the end token included.
        min_tokens: tokens that must come before the end token may.
        beam_width: hypotheses kept for each caption. A width of 1 equals greedy.
        length_penalty: hypotheses rank by (sum of log-probabilities) / length ** penalty: 0 favours short captions, 1
            ranks by the mean, more favours long ones.
        temperature: sampling divides the logits by it. Below 1 is sharper.
        top_p: sampling keeps the smallest set of likeliest tokens that holds this mass.
        seed: of sampling, below 2**128. The draw depends on the seed and the embedding, never on the batch.
        banned_words: words or phrases that must not be written, in any case and cut into any tokens. A longer word
            that begins with a banned one may be lost as well, where the tokenizer writes it in pieces.
        no_repeat_ngram: no sequence of this many tokens is written twice in a caption; 0 allows it.
        batch_memory_mb: memory budget of one batch; more embeddings are decoded one batch after another.
    """

    strategy: Strategy = "greedy"
    max_tokens: int = 30
    min_tokens: int = 0
    beam_width: int = 4
    length_penalty: float = 0.0
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    banned_words: tuple[str, ...] = ()
    no_repeat_ngram: int = 0
    batch_memory_mb: float = 512.0

    def __post_init__(self) -> None:
        check(get_args(Strategy), strategy=self.strategy)
        check("int [1, 10000]", self, "max_tokens beam_width")
        check(f"int [0, {self.max_tokens}]", min_tokens=self.min_tokens)
        check(f"int [0, {2**128})", seed=self.seed)
        check("int [0, inf)", no_repeat_ngram=self.no_repeat_ngram)
        check("[0, inf)", length_penalty=self.length_penalty)
        check("(0, inf)", self, "temperature batch_memory_mb")
        check("(0, 1]", top_p=self.top_p)
        words = self.banned_words
        if not isinstance(words, tuple) or not all(isinstance(w, str) and w.strip() for w in words):
            raise OptionError(f'banned_words is {words!r}; give a tuple of words or phrases: ("cat", "red car")')


@dataclass(frozen=True)
class Decoded:
    """One decoded caption.

    Args:
        text: the caption, without special tokens or outer blanks.
        token_ids: every generated token, the end token included when it was generated.
        log_probs: the network's own log-probability of each (natural logarithm, temperature 1, before bans and limits).
    """

    text: str
    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]

    @property
    def score(self) -> float:
        """Mean log-probability of a generated token, the end token included."""
        return sum(self.log_probs) / len(self.log_probs)


class StepNetwork(Protocol):
    """A network that the loop can drive: one prefix, then one token of every row at a time."""

    @property
    def max_tokens(self) -> int:
        """Most tokens that a sequence can hold."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""

    @property
    def gives_scores(self) -> bool:
        """Whether its logits are scores of no softmax."""

    def logits(self, states: Tensor) -> Tensor:
        """Float32 logits (n, vocab_size) of (n, width) states; the caller may change them."""

    def row_bytes(self, max_tokens: int) -> int:
        """Memory that one row needs while `max_tokens` tokens are decoded."""

    def start(self, embeddings: Tensor, max_tokens: int) -> tuple[Tensor, Any]:
        """Read (n, dim) embeddings; the states (n, width) before the first token, and a cache.

        The cache has `select(rows)`: keep these rows (int64 indices) in this order, repeated or left out.
        """

    def step(self, tokens: Tensor, cache: Any) -> Tensor:
        """Read (n,) tokens; the states (n, width) before the next token of each row."""


class TextMemory(Protocol):
    """Texts and their embeddings, searched by cosine; `memory_bank.MemoryBank` is one."""

    dim: int
    texts: Sequence[str] | None

    def __len__(self) -> int:
        """Number of rows, N."""

    def nearest(self, queries: Tensor, k: int) -> Any:
        """The k rows of highest cosine of each of (n, dim) queries: `indices` (n, k) int64, `similarities` (n, k)."""


def nearest_rows(memory: TextMemory, queries: Tensor, k: int) -> list[list[tuple[int, float]]]:
    """The k nearest rows and their cosines; equal ones in the order of the memory, whatever order a search gives."""
    found = memory.nearest(queries, k)
    pairs = zip(found.indices.tolist(), found.similarities.tolist(), strict=True)
    return [sorted(zip(rows, cosines, strict=True), key=lambda one: (-one[1], one[0])) for rows, cosines in pairs]


class Decoder(ABC):
    """Embeddings in, captions out. Made by `load_decoder` or by a class's own `create`.

    Attributes:
        network: has all its weights, perhaps none.
        embedding_dim: width of the embeddings it takes.
        needs_memory: whether `generate` needs a memory of texts to draw on.
        can_be_guided: whether `generate` takes a guide.
    """

    network: nn.Module
    embedding_dim: int
    needs_memory: bool = False
    can_be_guided: ClassVar[bool] = True
    USUAL_TOKENS: ClassVar[int] = DecodeOptions().max_tokens

    @property
    def device(self) -> torch.device:
        """Where its weights are; without any, the CPU."""
        return next((one.device for one in self.network.parameters()), torch.device("cpu"))

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """Most tokens of a caption, the end token included."""

    def generate(
        self,
        embeddings: Tensor,
        options: DecodeOptions | None = None,
        memory: TextMemory | None = None,
        guide: Guide | None = None,
    ) -> list[Decoded]:
        """Caption (n, embedding_dim) float embeddings: one `Decoded` each, in their order.

        A row's caption does not depend on the other rows.

        Args:
            options: None: greedily, at most as many tokens as is usual for the decoder.
            memory: texts to draw on, where `needs_memory`; of the same width.
            guide: of the same rows; what each shows and its surroundings do not (`decoders.guidance`). `log_probs` are
                the scores of the tokens there.

        Raises:
            DecoderError: no memory that is needed, a guide of other rows, a wrong shape, a row that is not finite, or a
                caption longer than the network has positions.
        """
        check_embeddings(embeddings, self.embedding_dim)
        if self.needs_memory:
            if memory is None or not memory.texts:
                raise DecoderError("this decoder needs a memory with texts: give one, or load the model with its bank")
            if memory.dim != self.embedding_dim:
                raise DecoderError(f"the memory is {memory.dim} wide, not {self.embedding_dim}: use the same model's")
        if guide is not None:
            if not self.can_be_guided:
                raise DecoderError(f"a {type(self).__name__} cannot be guided: leave the guide out")
            check_embeddings(guide.around, self.embedding_dim)
            check_embeddings(guide.evidence, len(guide.words.words))
            if not len(embeddings) == len(guide.around) == len(guide.evidence):
                raise DecoderError(f"the guide is not of {len(embeddings)} rows, as the embeddings")
        if options is None:
            options = DecodeOptions(max_tokens=min(self.USUAL_TOKENS, self.max_tokens))
        return self._generate(embeddings, options, memory, guide)

    @abstractmethod
    def _generate(
        self, embeddings: Tensor, options: DecodeOptions, memory: TextMemory | None, guide: Guide | None
    ) -> list[Decoded]: ...

    @abstractmethod
    def save(self, folder: str | Path, *, storage: Storage = "fp16") -> None:
        """Write config.json, and weights.safetensors and tokenizer.json where there are any."""

    def to(self, device: str | torch.device, dtype: torch.dtype = torch.float32, *, optimize: bool = True) -> Self:
        """A copy for inference there (`patchioner.base.weights.inference_copy`)."""
        made = copy.copy(self)
        made.network = inference_copy(self.network, device, dtype, optimize=optimize)
        return made

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any], folder: Path) -> Self:
        """Read what `save` wrote, strictly; `config` is config.json without its "type".

        CheckpointError for a missing, damaged or unfitting file.
        """


class TrainableDecoder(Decoder):
    """A decoder with weights that `train_decoder` can teach."""

    @property
    def module(self) -> nn.Module:
        """The weights to train."""
        return self.network

    @abstractmethod
    def driven(self, memory: TextMemory | None = None) -> tuple[StepNetwork, Vocabulary]:
        """What the loop drives, of captions that draw on this memory, and what its tokens write."""

    @property
    def max_tokens(self) -> int:
        """Most tokens of a caption, the end token included."""
        return self.driven()[0].max_tokens

    def _generate(
        self, embeddings: Tensor, options: DecodeOptions, memory: TextMemory | None, guide: Guide | None, draws: int = 1
    ) -> list[Decoded]:
        from decoders.search import generate  # which needs this module

        return generate(*self.driven(memory), embeddings, options, self.device, guide, draws=draws)

    def draw(
        self, embeddings: Tensor, options: DecodeOptions, memory: TextMemory | None, guide: Guide | None, count: int
    ) -> list[list[Decoded]]:
        """`count` samples of each row, of seeds `options.seed` and those that follow; see `generate`."""
        found = self._generate(embeddings, replace(options, strategy="sample"), memory, guide, count)
        return [found[first : first + count] for first in range(0, len(found), count)]

    @abstractmethod
    def sequences(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text as trained, the end token included."""

    @abstractmethod
    def loss(self, embeddings: Tensor, tokens: Tensor, lengths: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy of a batch: (n, dim) float embeddings, (n, t) int64 tokens padded at the end, lengths.

        `label_smoothing` is the mass spread over the whole vocabulary.
        """


def token_loss(logits_at: Callable[[Tensor], Tensor], tokens: Tensor, lengths: Tensor, smoothing: float) -> Tensor:
    """`TrainableDecoder.loss` of what gives logits (m, vocab) at the m real places of a mask (n, t)."""
    # Padding after a caption is hidden by causality from all that counts.
    real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
    return functional.cross_entropy(logits_at(real).float(), tokens[real], label_smoothing=smoothing)


def check_embeddings(embeddings: Tensor, dim: int) -> None:
    """DecoderError for what is not (n, dim) finite floats."""
    if not isinstance(embeddings, Tensor):
        raise DecoderError(f"the embeddings are a {type(embeddings).__name__}; give a tensor")
    if embeddings.dim() != 2 or embeddings.shape[1] != dim:
        raise DecoderError(f"the embeddings have shape {tuple(embeddings.shape)}; this decoder takes (n, {dim})")
    if not embeddings.is_floating_point():
        raise DecoderError(f"the embeddings are {embeddings.dtype}; give a float tensor")
    bad = (~torch.isfinite(embeddings).all(dim=1)).nonzero().flatten().tolist()
    if bad:
        rows = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        raise DecoderError(f"embeddings are not finite in row {rows}; check the regions and features they come from")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Settings of a file that lack something or make no sense are a CheckpointError that names it."""
    try:
        yield
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error}; was it written by `save`?") from error
    except (TypeError, OptionError, RuntimeError) as error:  # torch: an impossible shape
        raise CheckpointError(f"{path}: {error}") from error


_HOMES = {
    "prefix_gpt2": "decoders.gpt2:PrefixGPT2Decoder",
    "viecap": "decoders.viecap:ViecapDecoder",
    "meacap": "decoders.retrieval:MeacapDecoder",
    "retrieval": "decoders.retrieval:RetrievalDecoder",
    "prefix_lm": "decoders.language_decoder:LanguageDecoder",
}
DECODERS: Registry[type[Decoder]] = Registry("decoder", _HOMES)


def load_decoder(folder: str | Path, device: str | torch.device = "cpu") -> Decoder:
    """Load the decoder that `Decoder.save` wrote; elsewhere than on the CPU, a copy for inference.

    CheckpointError for a missing, damaged, foreign or unfitting file.
    """
    path = Path(folder) / CONFIG_FILE
    config = read_json(path)
    decoder_class = DECODERS.of_config(config, str(path))
    settings = {key: value for key, value in config.items() if key != "type"}
    with AllocationLimit.beside(Path(folder) / WEIGHTS_FILE, str(path)):
        decoder = decoder_class.from_config(settings, Path(folder))
    return decoder if torch.device(device).type == "cpu" else decoder.to(device)
