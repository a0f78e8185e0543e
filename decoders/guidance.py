"""Decoding that is told what a region shows and its surroundings do not.

At each step a token scores, under the network,

    log p(token | region) + contrast * (log p(token | region) - log p(token | around)) + evidence of the word

where `around` is what surrounds the region (as in contrastive decoding, Li et al. 2022, arXiv 2210.15097, whose
threshold of plausible tokens it has, and the rational speech acts of Cohn-Gordon et al., arXiv 1804.05417), and the
evidence counts for the first mention of a word. Before that, words for people that tell their sex may give their
probability to neutral ones, and words for several lose some of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from decoders.base import StepNetwork
from decoders.tokenizers import Vocabulary

PLAUSIBLE = 0.1
"""Share of the likeliest token's probability, given the region, below which a token is not written."""
REPEATED = -4.0
"""In place of the evidence of a word that the caption has already."""
_ROWS = 16  # a multiple of it is read of rows that are alike
_NEVER = 1e4  # taken off what is not plausible: its order stays, for where all else is banned
NEUTRAL = {
    "person": "man guy gentleman woman lady", "people": "men guys women ladies", "child": "boy girl",
    "children": "boys girls", "their": "his her", "they": "he she", "them": "him",
}  # fmt: skip
"""Words for people, each with those that it stands in for: what these are worth together, it is worth."""
SEVERAL = (
    *("people", "men", "women", "children", "boys", "girls", "kids", "players"),
    *("group", "couple", "crowd", "bunch", "two", "several"),
)
"""Words for more than one: captions of photos, from which decoders learn, have them oftener than regions show them."""
UNCOUNTED = ("three", "four", "five", "six", "seven", "eight", "nine", "ten")
"""Numbers that are guessed; never written where words for several count less."""


class Words:
    """k words that evidence may speak for, each in singular and plural; a form of several words is the first one's.

    Example:
        >>> Words(["cup", "berry"]).in_text("two cups of berries on a table")
        [0, 1]
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._places = {form: place for place, word in reversed(list(enumerate(words))) for form in _forms(word)}
        self._known: WeakKeyDictionary[Any, tuple[Tensor, Tensor]] = WeakKeyDictionary()
        self._whole: WeakKeyDictionary[Any, dict[str, int]] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[Words], tuple[tuple[str, ...]]]:
        return type(self), (self.words,)  # what is weakly held cannot be pickled

    def in_text(self, text: str) -> list[int]:
        """Places of the words that a text has, in order."""
        return [self._places[word] for word in text.lower().split() if word in self._places]

    def whole(self, vocabulary: Vocabulary) -> dict[str, int]:
        """Words that a vocabulary writes with one token, a blank in front -> that token."""
        found = self._whole.get(vocabulary)
        if found is None:
            texts = enumerate(vocabulary.token_texts())
            found = self._whole[vocabulary] = {text.strip(): token for token, text in texts if text.startswith(" ")}
        return found

    def tokens(self, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
        """Tokens (m,) int64 of a vocabulary that write one of the words whole, and the place (m,) of the word."""
        found = self._known.get(vocabulary)
        if found is None:
            pairs = [
                (token, self._places[text.strip().lower()])
                for token, text in enumerate(vocabulary.token_texts())
                if text != text.strip() and text.strip().lower() in self._places
            ]
            tokens, places = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).unbind(1)
            found = self._known[vocabulary] = tokens, places
        return found


def _forms(word: str) -> tuple[str, ...]:
    regular = (word, f"{word}s", f"{word}es")
    return (*regular, f"{word[:-1]}ies") if word.endswith("y") else regular


@dataclass(frozen=True, eq=False)
class Guide:
    """What is known of n regions beside their embeddings.

    Attributes:
        around: (n, dim) float, embeddings of what surrounds each, as the decoder takes them.
        words: k words.
        evidence: (n, k) float, natural logarithms: how much likelier each word is seen in the region than elsewhere.
        contrast: 0 or more.
        neutral: whether people are called persons and children, not by their sex (`NEUTRAL`).
        several: taken off the log-probability of each of `SEVERAL`; more than 0 leaves out `UNCOUNTED`.
    """

    around: Tensor
    words: Words
    evidence: Tensor
    contrast: float = 0.3
    neutral: bool = False
    several: float = 0.0


class GuidedNetwork:
    """A network of the same interface whose states are the scores above, of rows [region, around, evidence]."""

    gives_scores = True

    def __init__(self, network: StepNetwork, vocabulary: Vocabulary, guide: Guide) -> None:
        self._network, self._contrast = network, guide.contrast
        self._width = guide.evidence.shape[1]
        self.max_tokens, self.vocab_size = network.max_tokens, network.vocab_size
        tokens, words = guide.words.tokens(vocabulary)
        self._word_of = torch.full((self.vocab_size,), -1).index_copy(0, tokens, words)
        places = guide.words.whole(vocabulary)
        self._neutral = [
            (places[word], [places[one] for one in stood_for.split() if one in places])
            for word, stood_for in NEUTRAL.items()
            if guide.neutral and word in places
        ]
        self._several = [places[word] for word in SEVERAL if word in places]
        self._less = guide.several
        self._never = [places[word] for word in UNCOUNTED if guide.several and word in places]

    def row_bytes(self, max_tokens: int) -> int:
        """Memory of one row: twice the network's, and scores."""
        return 2 * self._network.row_bytes(max_tokens) + 24 * self.vocab_size + 4 * self._width

    def start(self, embeddings: Tensor, max_tokens: int) -> tuple[Tensor, _Cache]:
        """Read rows [region, around, evidence]; see `StepNetwork`."""
        dim = (embeddings.shape[1] - self._width) // 2
        region, around, evidence = embeddings.split([dim, dim, self._width], dim=1)
        states, cache = self._network.start(torch.cat([region, around]), max_tokens)
        held = _Cache(cache, evidence.clone())
        return self._scores(states, held), held

    def step(self, tokens: Tensor, cache: _Cache) -> Tensor:
        """Read (n,) tokens; see `StepNetwork`."""
        word = self._word_of.to(tokens.device)[tokens]
        rows = (word >= 0).nonzero().squeeze(1)
        cache.evidence[rows, word[rows]] = REPEATED
        return self._scores(self._network.step(tokens.repeat(2), cache.both), cache)

    def logits(self, states: Tensor) -> Tensor:
        """The scores."""
        return states

    def _scores(self, states: Tensor, cache: _Cache) -> Tensor:
        """(2n, width) states of regions and of what is around them -> (n, vocab) scores."""
        logits = self._network.logits(states)
        self._hide_sex(logits)
        logits[:, self._several] -= self._less
        logits[:, self._never] -= _NEVER
        (near, far), totals = logits.chunk(2), logits.logsumexp(dim=1, keepdim=True).chunk(2)
        least = near.amax(dim=1, keepdim=True) + math.log(PLAUSIBLE)
        most = int((near >= least).sum(dim=1).max())
        logit, token = near.topk(most, dim=1)
        score = logit * (1 + self._contrast) - far.gather(1, token) * self._contrast
        score -= totals[0] * (1 + self._contrast) - totals[1] * self._contrast
        word = self._word_of.to(token.device)[token]
        score += cache.evidence.gather(1, word.clamp(min=0)).masked_fill(word < 0, 0.0)
        plausible = torch.where(logit < least, logit - _NEVER, score)
        return near.sub_(_NEVER).scatter_(1, token, plausible)

    def _hide_sex(self, logits: Tensor) -> None:
        """Give neutral words of (n, vocab) logits the probability of those they stand in for, too."""
        for word, stood_for in self._neutral:
            logits[:, word] = logits[:, [word, *stood_for]].logsumexp(dim=1)
            logits[:, stood_for] -= _NEVER


@dataclass
class _Cache:
    """What was read of regions and, in the rows after them, of what is around; and the evidence that counts, (n, k)."""

    both: Any
    evidence: Tensor

    def select(self, rows: Tensor) -> None:
        self.both.select(torch.cat([rows, rows + len(self.evidence)]))
        self.evidence = self.evidence[rows]


def distinct_rows(embeddings: Tensor) -> tuple[Tensor, list[int]]:
    """Each different row once, in order of appearance, and for each row which of them it is."""
    keys = [row.tobytes() for row in embeddings.cpu().numpy()]
    firsts = {key: index for index, key in reversed(list(enumerate(keys)))}
    order = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    return embeddings[[firsts[key] for key in order]], [order[key] for key in keys]


class SharedRows:
    """A network of the same interface that reads rows once that are alike: equal embeddings, then equal tokens.

    Of guided captions a third are: many regions of a photo have the same surroundings, and captions begin alike.
    """

    gives_scores = False

    def __init__(self, network: StepNetwork) -> None:
        self._network = network
        self.max_tokens, self.vocab_size = network.max_tokens, network.vocab_size
        self.row_bytes, self.logits = network.row_bytes, network.logits

    def start(self, embeddings: Tensor, max_tokens: int) -> tuple[Tensor, _SharedCache]:
        """Read (n, dim) embeddings; see `StepNetwork`."""
        distinct, places = distinct_rows(embeddings)
        states, cache = self._network.start(distinct, max_tokens)
        rows = torch.tensor(places, device=embeddings.device)
        return states[rows], _SharedCache(cache, rows)

    def step(self, tokens: Tensor, cache: _SharedCache) -> Tensor:
        """Read (n,) tokens; see `StepNetwork`."""
        alike = torch.stack([cache.rows, tokens], dim=1)
        distinct, places = alike.unique(dim=0, return_inverse=True)
        order = _kept_in_place(distinct[:, 0])
        cache.rows = order.argsort()[places]
        # To one of few numbers of rows: for each, oneDNN prepares and keeps its kernels.
        more = order[:1].expand(-len(order) % _ROWS)
        sources, words = distinct[torch.cat([order, more])].unbind(1)
        cache.read.select(sources)
        return self._network.step(words, cache.read)[cache.rows]


@dataclass
class _SharedCache:
    """What was read of distinct rows, and which of them each row is, (n,) int64."""

    read: Any
    rows: Tensor

    def select(self, rows: Tensor) -> None:
        self.rows = self.rows[rows]


def _kept_in_place(sources: Tensor) -> Tensor:
    """An order of rows of sorted sources (m,) in which the first of each source is at its place, where there is one."""
    count = len(sources)
    stays = (sources < count) & (sources != sources.roll(1))
    stays[:1] = sources[:1] < count
    order, free = torch.empty_like(sources), torch.ones_like(stays)
    order[sources[stays]] = stays.nonzero().squeeze(1)
    free[sources[stays]] = False
    order[free] = (~stays).nonzero().squeeze(1)
    return order
