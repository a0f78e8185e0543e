"""Text to token ids and back: our own captions' BPE, CLIP's (published DeCap), and any language model's."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar

from tokenizers import Regex, Tokenizer
from tokenizers import decoders as text_decoders
from tokenizers.models import BPE
from tokenizers.normalizers import NFC, Lowercase
from tokenizers.normalizers import Sequence as NormalizerSequence
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizerSequence
from tokenizers.trainers import BpeTrainer

from patchioner.base.errors import CheckpointError, OptionError
from patchioner.base.files import check
from patchioner.base.optional import require
from patchioner.base.weights import sound_tokenizer

T = TypeVar("T")

PAD, START, END = "<pad>", "<start>", "<end>"
SMALLEST_VOCABULARY = 3 + 256  # the special tokens and one token for each byte
CLIP_START, CLIP_END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
# English contractions, runs of letters, single digits, runs of anything else that is not blank.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
# What CLIP's own cleaning straightens in ordinary captions; it repairs mis-decoded text as well, which we do not.
_STRAIGHT = str.maketrans(
    {"‘": "'", "’": "'", "‚": "'", "‛": "'", "“": '"', "”": '"', "„": '"', "‟": '"'}
    | {"\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl"}
)
_ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<end>", "[SEP]")


def read_tokenizer(path: str | Path, make: Callable[[Tokenizer], T]) -> T:
    """What `make` makes of a tokenizer.json; CheckpointError names a file that is missing, damaged or refused."""
    with sound_tokenizer(Path(path)):
        return make(Tokenizer.from_file(str(path)))


class TextTokenizer:
    """What the tokenizers of captions share: `kind` names one in a decoder's config.json.

    Attributes:
        start_id, end_id, end_ids: the tokens that begin and end a caption.
        special_ids: never show in decoded text; the `unwritable_ids` among them are never generated.
        vocab_size: number of tokens, the special ones included.
    """

    kind: str
    _SPECIAL: tuple[str, ...]
    _UNWRITABLE: tuple[str, ...] = ()

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # A corpus line that happens to hold the end token is text, not a command.
        self._tokenizer.encode_special_tokens = True
        self.special_ids = tuple(self._special(token) for token in self._SPECIAL)
        self.start_id, self.end_id = self.special_ids[-2:]
        self.end_ids = (self.end_id,)
        self.unwritable_ids = tuple(map(self._special, self._UNWRITABLE))
        self.vocab_size = int(tokenizer.get_vocab_size())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a tokenizer.json; CheckpointError when it is missing, damaged, or lacks a special token."""
        return read_tokenizer(path, cls)

    def save(self, path: str | Path) -> None:
        """Write the tokenizer.json that `load` reads."""
        self._tokenizer.save(str(path))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        cleaned = [self._clean(text) for text in texts]
        return [list(one.ids) for one in self._tokenizer.encode_batch(cleaned, add_special_tokens=False)]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids; special tokens and outer blanks are left out."""
        words = [token for token in token_ids if token not in self.special_ids]
        return str(self._tokenizer.decode(words, skip_special_tokens=False)).strip()

    def token_texts(self) -> list[str]:
        """What each token writes, by id, its blank included; "" for special tokens. A network may have more tokens."""
        texts = self._tokenizer.decode_batch([[i] for i in range(self.vocab_size)], skip_special_tokens=False)
        return ["" if i in self.special_ids else text for i, text in enumerate(texts)]

    def _clean(self, text: str) -> str:
        return " ".join(text.split())

    def _special(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise CheckpointError(f"the tokenizer has no {token} token; it is of another kind")
        return int(token_id)


class CaptionTokenizer(TextTokenizer):
    """A lower-casing byte-level BPE for captions: no text is unknown, a word has the same tokens wherever it stands.

    Example:
        >>> tokenizer = CaptionTokenizer.train(["a red bus", "a red car"], vocab_size=270)
        >>> tokenizer.decode(tokenizer.encode(["A red bus"])[0])
        'a red bus'
    """

    kind, _SPECIAL, _UNWRITABLE = "caption", (PAD, START, END), (PAD, START)

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int = 8000) -> Self:
        """Learn the merges of a corpus; OptionError where `vocab_size` tokens cannot hold every byte."""
        check(f"int [{SMALLEST_VOCABULARY}, inf)", vocab_size=vocab_size)
        tokenizer = Tokenizer(BPE())
        tokenizer.normalizer = NormalizerSequence([NFC(), Lowercase()])
        tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
        tokenizer.decoder = text_decoders.ByteLevel()
        how: Any = {"special_tokens": [PAD, START, END], "initial_alphabet": ByteLevel.alphabet()}
        trainer = BpeTrainer(vocab_size=vocab_size, min_frequency=2, show_progress=False, **how)
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)


class ClipTokenizer(TextTokenizer):
    """CLIP's BPE as a caption tokenizer: the one that the published DeCap decoders write with, the start token first.

    Text is cleaned as CLIP does it (HTML entities, typographic quotes, ligatures, blanks, case); arXiv 2103.00020.
    """

    kind, _SPECIAL = "clip", (CLIP_START, CLIP_END)

    @classmethod
    def from_open_clip(cls) -> Self:
        """Read the vocabulary that the open_clip package carries (MissingExtraError without it)."""
        source: Any = require("open_clip", "clip").tokenizer.SimpleTokenizer()
        names = {source.sot_token_id: CLIP_START, source.eot_token_id: CLIP_END}
        vocabulary = {names.get(index, token): index for token, index in source.encoder.items()}
        merges = sorted(source.bpe_ranks, key=source.bpe_ranks.__getitem__)
        marks = {"continuing_subword_prefix": "", "end_of_word_suffix": WORD_END, "unk_token": CLIP_END}
        tokenizer = Tokenizer(BPE(vocabulary, merges, fuse_unk=False, **marks))
        tokenizer.normalizer = NormalizerSequence([NFC(), Lowercase()])
        words = Split(Regex(_WORDS), behavior="removed", invert=True)
        pieces = ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = PreTokenizerSequence([words, pieces])
        tokenizer.decoder = text_decoders.ByteLevel()
        return cls(tokenizer)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids up to the first end token, stripped of outer blanks and full stops, as published."""
        ids = takewhile(lambda token: token != self.end_id, token_ids)
        words = [i for i in ids if 0 <= i < self.vocab_size and i not in self.special_ids]
        text = str(self._tokenizer.decode(words, skip_special_tokens=False))
        return text.replace(WORD_END, " ").strip(" .")

    def token_texts(self) -> list[str]:
        """What each token writes, by id, the blank after a word included; "" for special tokens."""
        return [text.replace(WORD_END, " ") for text in super().token_texts()]

    def _clean(self, text: str) -> str:
        """CLIP's cleaning of one caption, in its order: entities twice, characters, blanks, lower case."""
        text = unicodedata.normalize("NFC", text.translate(_STRAIGHT))
        return super()._clean(html.unescape(html.unescape(text))).lower()


class LanguageTokenizer:
    """The tokenizer of a language model, with its end tokens; of special tokens, those alone are generated.

    A caption is encoded with the blank before its first word, so that a word has the same tokens wherever it stands.

    Args:
        tokenizer: a fast tokenizer; copied.
        end_ids: tokens that end a caption, the one to train with first. None: the tokenizer's own end of text.
        vocab_size: of the network, where it has more; those beyond the tokenizer's are never generated.

    CheckpointError for more tokens than the network has, or end tokens that the tokenizer does not have.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, end_ids: Sequence[int] | None = None, vocab_size: int | None = None
    ) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True  # "</s>" in a corpus is text, not a command
        known = self._tokenizer.get_vocab()
        # Ids need not be dense, so the highest counts, not their number.
        highest = max(known.values(), default=-1) + 1
        self.vocab_size = size = highest if vocab_size is None else vocab_size
        if not known or highest > size:
            raise CheckpointError(f"a tokenizer of {highest} ids, a network of {size} tokens: from different models")
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = frozenset(i for i, token in added.items() if token.special)
        self.end_ids = tuple(end_ids) if end_ids else self._own_end()
        if not all(0 <= i < highest for i in self.end_ids):
            raise CheckpointError(f"end_ids {self.end_ids} are not all tokens of the tokenizer")
        written = set(known.values()) - self._special
        self.unwritable_ids = tuple(i for i in range(size) if i not in written and i not in self.end_ids)
        alone, inside = (self._tokenizer.encode(text, add_special_tokens=False).ids for text in ("a", "x a"))
        # Some tokenizers put the blank before the first word by themselves.
        self._lead = "" if alone[-1:] == inside[-1:] and len(alone) < len(inside) else " "
        self._texts: list[str] | None = None

    @classmethod
    def of_transformers(cls, tokenizer: Any, *, vocab_size: int) -> LanguageTokenizer:
        """Take a tokenizer of `transformers` (OptionError for a "slow" one); `eos_token_id` is the usual end."""
        fast = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(fast, Tokenizer):
            raise OptionError(f"{type(tokenizer).__name__} has no tokenizer.json; choose a model with a fast tokenizer")
        own = getattr(tokenizer, "eos_token_id", None)
        end_ids = (own,) if isinstance(own, int) else None
        return cls(fast, end_ids=end_ids, vocab_size=vocab_size)

    @classmethod
    def load(cls, path: str | Path, *, end_ids: Sequence[int], vocab_size: int) -> LanguageTokenizer:
        """Read a tokenizer.json; CheckpointError when it is missing or damaged, or does not fit the numbers."""
        return read_tokenizer(path, partial(cls, end_ids=end_ids, vocab_size=vocab_size))

    def save(self, path: str | Path) -> None:
        """Write the tokenizer.json that `load` reads; the end tokens belong in the decoder's config.json."""
        self._tokenizer.save(str(path))

    def ending_with(self, end_ids: Sequence[int]) -> LanguageTokenizer:
        """The same tokenizer with other end tokens."""
        return LanguageTokenizer(self._tokenizer, end_ids=end_ids, vocab_size=self.vocab_size)

    def full_stops(self) -> tuple[int, ...]:
        """The single tokens that write "." or " .", as ViECap ends a caption; perhaps none."""
        texts = self.token_texts()
        return tuple(i for stop in (".", " .") for i, text in enumerate(texts) if text == stop)

    @property
    def end_id(self) -> int:
        """The token that a training sequence ends with."""
        return self.end_ids[0]

    def encode(self, texts: Sequence[str], *, lead: bool = True) -> list[list[int]]:
        """Token ids of each text, without special tokens; `lead=False` is for the opening of a prompt."""
        blank = self._lead if lead else ""
        cleaned = [blank + " ".join(text.split()) for text in texts]
        return [list(one.ids) for one in self._tokenizer.encode_batch(cleaned, add_special_tokens=False)]

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
        found = [token for token in map(self._tokenizer.token_to_id, _ENDS) if token is not None]
        if not found:
            raise CheckpointError("the tokenizer has no end of text token; name one in end_ids")
        return (int(found[0]),)


Vocabulary: TypeAlias = TextTokenizer | LanguageTokenizer
