"""Text to token ids and back: a lower-casing byte-level BPE with three special tokens.

Knows: the `tokenizers` library, the special tokens, the tokenizer.json file.
Does NOT know: networks, embeddings, or how token ids are chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer
from tokenizers import decoders as bpe_decoders
from tokenizers.models import BPE
from tokenizers.normalizers import NFC, Lowercase
from tokenizers.normalizers import Sequence as NormalizerSequence
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from decoders.tokenizer_files import read_tokenizer
from patchioner.base.errors import CheckpointError, OptionError

PAD, START, END = "<pad>", "<start>", "<end>"
SMALLEST_VOCABULARY = 3 + 256  # the special tokens and one token for each byte


class TextTokenizer(Protocol):
    """What a decoder asks of a tokenizer, ours or another model's."""

    @property
    def kind(self) -> str:
        """Its name in a decoder's config.json."""

    @property
    def start_id(self) -> int:
        """The token that opens a sequence, where the network was trained to write one."""

    @property
    def end_id(self) -> int:
        """The token that ends a caption."""

    @property
    def unwritable_ids(self) -> tuple[int, ...]:
        """Tokens that stand for no text and must never be generated, start and end apart."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the special ones included."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids."""

    def token_texts(self) -> list[str]:
        """What each token writes, by id; "" for special tokens."""

    def save(self, path: str | Path) -> None:
        """Write its tokenizer.json."""


class CaptionTokenizer:
    """A BPE tokenizer for captions.

    Every word carries its leading blank, the first one too, so that a word is written with the
    same tokens wherever it stands. Bytes are the alphabet: no text is unknown.

    Example:
        >>> tokenizer = CaptionTokenizer.train(["a red bus", "a red car"], vocab_size=270)
        >>> tokenizer.decode(tokenizer.encode(["A red bus"])[0])
        'a red bus'
    """

    kind = "caption"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # A corpus line that happens to hold "<end>" is text, not a command.
        self._tokenizer.encode_special_tokens = True
        self.pad_id = self._special(PAD)
        self.start_id = self._special(START)
        self.end_id = self._special(END)

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int = 8000) -> CaptionTokenizer:
        """Learn the merges of a corpus.

        Args:
            texts: captions, one string each.
            vocab_size: most tokens, special ones included; a small corpus gives fewer.

        Raises:
            OptionError: when the vocabulary could not hold every byte.
        """
        if vocab_size < SMALLEST_VOCABULARY:
            raise OptionError(
                f"vocab_size is {vocab_size}; at least {SMALLEST_VOCABULARY} are needed: "
                "three special tokens and one for each byte"
            )
        tokenizer = Tokenizer(BPE())
        tokenizer.normalizer = NormalizerSequence([NFC(), Lowercase()])
        tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
        tokenizer.decoder = bpe_decoders.ByteLevel()
        trainer = BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            show_progress=False,
            special_tokens=[PAD, START, END],
            initial_alphabet=ByteLevel.alphabet(),
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: str | Path) -> CaptionTokenizer:
        """Read a tokenizer.json.

        Raises:
            CheckpointError: when the file is missing, damaged, or lacks a special token.
        """
        return read_tokenizer(path, cls)

    def save(self, path: str | Path) -> None:
        """Write the tokenizer.json that `load` reads."""
        self._tokenizer.save(str(path))

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the special ones included."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def special_ids(self) -> tuple[int, int, int]:
        """Ids of the pad, start and end tokens: they never show in decoded text."""
        return self.pad_id, self.start_id, self.end_id

    @property
    def unwritable_ids(self) -> tuple[int, ...]:
        """Padding, which must never be generated."""
        return (self.pad_id,)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        encodings = self._tokenizer.encode_batch(
            [" ".join(text.split()) for text in texts], add_special_tokens=False
        )
        return [list(encoding.ids) for encoding in encodings]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids; special tokens and outer blanks are left out."""
        words = [token for token in token_ids if token not in self.special_ids]
        return str(self._tokenizer.decode(words, skip_special_tokens=False)).strip()

    def token_texts(self) -> list[str]:
        """What each token writes, by id, its leading blank included; "" for special tokens."""
        ids = range(self.vocab_size)
        texts = self._tokenizer.decode_batch([[i] for i in ids], skip_special_tokens=False)
        return ["" if i in self.special_ids else text for i, text in zip(ids, texts, strict=True)]

    def _special(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise CheckpointError(f"the tokenizer has no {token} token; it is not one of ours")
        return int(token_id)
