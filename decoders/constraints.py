"""What may not be generated next: unwritable tokens, an early end, repetitions, banned words.

Knows: token texts, the words to avoid, what each row has written.
Does NOT know: networks, strategies, scores: it only sets logits to minus infinity.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from decoders.base import Vocabulary
from decoders.options import DecodeOptions


def end_ids(vocabulary: Vocabulary) -> tuple[int, ...]:
    """Every token that ends a caption: `vocabulary.end_ids` where it has several, else its `end_id`."""
    return tuple(getattr(vocabulary, "end_ids", (vocabulary.end_id,)))


class Constraints:
    """The bans of one call of the engine.

    Args:
        vocabulary: for the end tokens, the unwritable tokens and the token texts.
        options: `min_tokens`, `no_repeat_ngram` and `banned_words`.
        device: where the logits are.
    """

    def __init__(
        self, vocabulary: Vocabulary, options: DecodeOptions, device: torch.device
    ) -> None:
        self._min_tokens = options.min_tokens
        self._ngram = options.no_repeat_ngram
        self._never = torch.tensor(
            list(vocabulary.unwritable_ids), dtype=torch.int64, device=device
        )
        self._never_or_end = torch.tensor(
            [*vocabulary.unwritable_ids, *end_ids(vocabulary)], dtype=torch.int64, device=device
        )
        self._texts = (
            [text.lower() for text in vocabulary.token_texts()] if (options.banned_words) else []
        )
        words = sorted({" ".join(word.lower().split()) for word in options.banned_words})
        self._banned = [_BannedWord(word, self._texts) for word in words]

    def apply(self, logits: Tensor, written: Tensor) -> None:
        """Set what may not come next to minus infinity, in place.

        Args:
            logits: (n, vocab) float.
            written: (n, t) int64, the tokens of each row so far.
        """
        early = written.shape[1] < self._min_tokens
        logits[:, self._never_or_end if early else self._never] = -torch.inf
        if 0 < self._ngram <= written.shape[1]:
            _ban_repeats(logits, written, self._ngram)
        if not self._banned:
            return
        for row, tokens in enumerate(written.tolist()):
            tail = "".join(self._texts[token] for token in tokens)
            forbidden = [i for word in self._banned for i in word.completed_by(tail)]
            logits[row, forbidden] = -torch.inf


def _ban_repeats(logits: Tensor, written: Tensor, size: int) -> None:
    """Ban the tokens that would write an n-gram of `size` tokens a second time."""
    ngrams = written.unfold(1, size, 1)
    begun = written[:, None, written.shape[1] - size + 1 :]
    rows, places = (ngrams[:, :, :-1] == begun).all(dim=2).nonzero(as_tuple=True)
    logits[rows, ngrams[rows, places, -1]] = -torch.inf


class _BannedWord:
    """Which tokens would complete one banned word or phrase, given the text before them.

    Every way to cut the word into tokens is covered: the word's beginning is looked for in the
    text, its rest in the tokens.
    """

    def __init__(self, word: str, texts: Sequence[str]) -> None:
        self._word = word
        # By number of characters already written: tokens that write the rest.
        self._rest: list[list[int]] = [
            [i for i, text in enumerate(texts) if _begins(text, word[done:])]
            for done in range(len(word))
        ]
        self._whole = [i for i, text in enumerate(texts) if _contains(text, word)]

    def completed_by(self, tail: str) -> list[int]:
        forbidden = list(self._whole)
        for done, tokens in enumerate(self._rest):
            if tokens and _ends(tail, self._word[:done]):
                forbidden += tokens
        return forbidden


def _begins(text: str, rest: str) -> bool:
    """Whether `text` opens with `rest`, and the word ends there."""
    return text.startswith(rest) and not text[len(rest) : len(rest) + 1].isalnum()


def _ends(tail: str, beginning: str) -> bool:
    """Whether `tail` closes with `beginning`, and the word starts there."""
    start = len(tail) - len(beginning)
    return tail.endswith(beginning) and (start == 0 or not tail[start - 1].isalnum())


def _contains(text: str, word: str) -> bool:
    """Whether `text` holds the word after a character that cannot belong to it."""
    place = text.find(word, 1)
    while place > 0:
        if not text[place - 1].isalnum() and _begins(text[place:], word):
            return True
        place = text.find(word, place + 1)
    return False
