"""The tokenizer of a language model: any tokenizer of the `tokenizers` library, with its end tokens.

Knows: text to token ids and back, which tokens end a caption, the tokenizer.json file.
Does NOT know: networks, embeddings, where a tokenizer comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from decoders.tokenizer_files import read_tokenizer
from patchioner.base.errors import CheckpointError, OptionError

_FULL_STOPS = (".", " .")


class LanguageTokenizer:
    """What the engine and the training ask of a language model's tokenizer.

    A caption is encoded as if it went on a sentence (with the blank before its first word), so that a word is written
    with the same tokens wherever it stands. Special tokens stand for no text, and none but an end token is generated.

    Args:
        tokenizer: a fast tokenizer; padding, truncation and special tokens play no part here.
        end_ids: tokens that end a caption, the one to train with first. None: the tokenizer's own end of text.
        vocab_size: of the network, where it has more rows than the tokenizer has tokens; those beyond are never
            generated.

    Raises:
        CheckpointError: more tokens than the network has, or end tokens that it does not have.

    Example:
        >>> tokenizer = LanguageTokenizer(Tokenizer.from_file("tokenizer.json"))  # doctest: +SKIP
        >>> tokenizer.decode(tokenizer.encode(["a red bus"])[0])  # doctest: +SKIP
        'a red bus'
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        end_ids: Sequence[int] | None = None,
        vocab_size: int | None = None,
    ) -> None:
        self._tokenizer = Tokenizer.from_str(
            tokenizer.to_str()
        )  # the caller's own is left as it is
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True  # "</s>" in a corpus is text, not a command
        known = int(self._tokenizer.get_vocab_size())
        # Ids need not be dense, so the highest counts, not their number.
        highest = max(self._tokenizer.get_vocab().values(), default=-1) + 1
        self.vocab_size = highest if vocab_size is None else vocab_size
        if not known or highest > self.vocab_size:
            raise CheckpointError(
                f"the tokenizer has ids up to {highest - 1}, the network {self.vocab_size} tokens; "
                "they come from different models"
            )
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = frozenset(i for i, token in added.items() if token.special)
        self.end_ids = tuple(end_ids) if end_ids else self._own_end()
        if not all(0 <= i < highest for i in self.end_ids):
            raise CheckpointError(f"end_ids {self.end_ids} are not all tokens of the tokenizer")
        written = set(self._tokenizer.get_vocab().values()) - self._special
        self.unwritable_ids: tuple[int, ...] = tuple(
            i for i in range(self.vocab_size) if i not in written and i not in self.end_ids
        )
        self._lead = self._blank_before_words()
        self._texts: list[str] | None = None

    @classmethod
    def of_transformers(
        cls,
        tokenizer: Any,
        *,
        end_ids: Sequence[int] | None = None,
        vocab_size: int | None = None,
    ) -> LanguageTokenizer:
        """Take a tokenizer of `transformers`; its `eos_token_id` ends a caption where `end_ids` does not say.

        Raises:
            OptionError: a tokenizer that the `tokenizers` library does not run (a "slow" one).
        """
        fast = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(fast, Tokenizer):
            raise OptionError(
                f"{type(tokenizer).__name__} has no tokenizer.json form; choose a language model with "
                "a fast tokenizer"
            )
        own = getattr(tokenizer, "eos_token_id", None)
        if end_ids is None and isinstance(own, int):
            end_ids = (own,)
        return cls(fast, end_ids=end_ids, vocab_size=vocab_size)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        end_ids: Sequence[int] | None = None,
        vocab_size: int | None = None,
    ) -> LanguageTokenizer:
        """Read a tokenizer.json.

        Raises:
            CheckpointError: the file is missing or damaged, or does not fit the numbers.
        """
        make = partial(cls, end_ids=end_ids, vocab_size=vocab_size)
        return read_tokenizer(path, make)

    def save(self, path: str | Path) -> None:
        """Write the tokenizer.json that `load` reads; the end tokens belong in the decoder's config.json."""
        self._tokenizer.save(str(path))

    def ending_with(self, end_ids: Sequence[int]) -> LanguageTokenizer:
        """The same tokenizer with other end tokens."""
        return LanguageTokenizer(self._tokenizer, end_ids=end_ids, vocab_size=self.vocab_size)

    def full_stops(self) -> tuple[int, ...]:
        """The single tokens that write "." or " .", as ViECap ends a caption; perhaps none."""
        texts = self.token_texts()
        return tuple(i for stop in _FULL_STOPS for i, text in enumerate(texts) if text == stop)

    @property
    def end_id(self) -> int:
        """The token that a training sequence ends with."""
        return self.end_ids[0]

    def encode(self, texts: Sequence[str], *, lead: bool = True) -> list[list[int]]:
        """Token ids of each text, without special tokens.

        Args:
            texts: blanks in them are made single.
            lead: encode the first word as one inside a sentence; False for the opening of a prompt.
        """
        blank = self._lead if lead else ""
        cleaned = [blank + " ".join(text.split()) for text in texts]
        encodings = self._tokenizer.encode_batch(cleaned, add_special_tokens=False)
        return [list(encoding.ids) for encoding in encodings]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids; end tokens, special tokens and outer blanks are left out."""
        silent = {*self.end_ids, *self.unwritable_ids}
        words = [token for token in token_ids if token not in silent]
        return str(self._tokenizer.decode(words, skip_special_tokens=False)).strip()

    def token_texts(self) -> list[str]:
        """What each token writes inside a text, by id, its leading blank included; "" where it writes nothing."""
        if self._texts is None:
            # After another token, because some tokenizers drop the blank before the first word.
            before = self._tokenizer.encode("a", add_special_tokens=False).ids
            start = len(self._tokenizer.decode(before, skip_special_tokens=False))
            pairs = [[*before, i] for i in range(self.vocab_size)]
            texts = self._tokenizer.decode_batch(pairs, skip_special_tokens=False)
            silent = {*self.unwritable_ids, *(self._special & set(self.end_ids))}
            self._texts = ["" if i in silent else text[start:] for i, text in enumerate(texts)]
        return self._texts

    def _own_end(self) -> tuple[int, ...]:
        for token in ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<end>", "[SEP]"):
            found = self._tokenizer.token_to_id(token)
            if found is not None:
                return (int(found),)
        raise CheckpointError("the tokenizer has no end of text token; name one in end_ids")

    def _blank_before_words(self) -> str:
        """What to put before a text for its first word to be encoded as one inside a sentence."""
        alone, inside = (
            self._tokenizer.encode(text, add_special_tokens=False).ids for text in ("a", "x a")
        )
        return "" if alone[-1:] == inside[-1:] and len(alone) < len(inside) else " "
