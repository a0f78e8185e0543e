"""What a caller asks of a decoder (`DecodeOptions`) and what comes back (`Decoded`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from patchioner.base.errors import OptionError

Strategy = Literal["greedy", "beam", "sample"]
_MOST_STEPS = 10_000
_MOST_SEED = 2**128 - 1


@dataclass(frozen=True)
class DecodeOptions:
    """How captions are decoded.

    Args:
        strategy: "greedy" takes the likeliest token, "beam" keeps `beam_width` hypotheses, "sample" draws from the
            distribution (`temperature`, `top_p`, `seed`).
        max_tokens: most tokens generated, the end token included.
        min_tokens: tokens that must come before the end token may.
        beam_width: hypotheses kept for each caption. A width of 1 equals greedy.
        length_penalty: beam hypotheses rank by (sum of log-probabilities) / length ** penalty: 0 favours short
            captions, 1 ranks by the mean, more favours long ones.
        temperature: sampling divides the logits by it. Below 1 is sharper.
        top_p: sampling keeps the smallest set of likeliest tokens that holds this mass.
        seed: of sampling, below 2**128. The draw depends on the seed and the embedding, never on the batch.
        banned_words: words or phrases that must not be written, in any case and cut into any tokens. A longer word
            that begins with a banned one may be lost as well, where the tokenizer writes it in pieces.
        no_repeat_ngram: no sequence of this many tokens is written twice in a caption; 0 allows it.
        batch_memory_mb: memory budget of one batch; more embeddings are decoded one batch after another.
        scores: whether log-probabilities are wanted. Without them they are NaN, and greedy search may leave out most
            of the product with the vocabulary (the tokens stay the same); beam search and sampling give them anyway.

    Raises:
        OptionError: when a value makes no sense.

    Example:
        >>> DecodeOptions(strategy="beam", beam_width=3).max_tokens
        30
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
    scores: bool = True

    def __post_init__(self) -> None:
        if self.strategy not in get_args(Strategy):
            known = ", ".join(get_args(Strategy))
            raise OptionError(f"strategy is {self.strategy!r}; choose one of: {known}")
        check_whole(max_tokens=self.max_tokens, beam_width=self.beam_width)
        for name in ("min_tokens", "seed", "no_repeat_ngram"):
            check_whole(0, **{name: getattr(self, name)})
        if max(self.beam_width, self.max_tokens) > _MOST_STEPS:
            raise OptionError(f"beam_width and max_tokens must be {_MOST_STEPS} at most")
        if self.seed > _MOST_SEED:
            raise OptionError(f"seed is {self.seed}; it must be below 2**128")
        if self.min_tokens > self.max_tokens:
            raise OptionError(
                f"min_tokens is {self.min_tokens}, above max_tokens {self.max_tokens}; "
                "lower the one or raise the other"
            )
        if not isinstance(self.scores, bool):
            raise OptionError(f"scores is {self.scores!r}; it must be True or False")
        for name in ("length_penalty", "temperature", "top_p", "batch_memory_mb"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value < 0:
                raise OptionError(f"{name} is {value!r}; it must be a finite number, 0 or more")
            if value == 0 and name != "length_penalty":
                raise OptionError(f"{name} is {value!r}; it must be above 0")
        if self.top_p > 1:
            raise OptionError(f"top_p is {self.top_p}; it is a probability, at most 1")
        if not isinstance(self.banned_words, tuple):
            raise OptionError(
                f"banned_words is a {type(self.banned_words).__name__}; "
                'give a tuple of strings, such as ("cat", "red car")'
            )
        for word in self.banned_words:
            if not isinstance(word, str) or not word.strip():
                raise OptionError(f"banned_words holds {word!r}; each must be a word or a phrase")


@dataclass(frozen=True)
class Decoded:
    """One decoded caption.

    Args:
        text: the caption, without special tokens or outer blanks.
        token_ids: every generated token, the end token included when it was generated.
        log_probs: the network's own log-probability of each of those tokens (natural logarithm, temperature 1, before
            any ban or limit); NaN where they were not asked for.

    Example:
        >>> Decoded("a cat", (5, 9, 2), (-0.5, -0.25, -0.75)).score
        -0.5
    """

    text: str
    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]

    @property
    def score(self) -> float:
        """Mean log-probability of a generated token, the end token included."""
        return sum(self.log_probs) / len(self.log_probs)


def check_whole(at_least: int = 1, /, **numbers: object) -> None:
    """OptionError for a value that is no whole number of at least that size; names it.

    Example:
        >>> check_whole(layers=4)
    """
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            raise OptionError(
                f"{name} is {value!r}; it must be a whole number, at least {at_least}"
            )
