"""CLIP's byte-pair encoding as a caption tokenizer: the one that the published DeCap decoders write with.

Knows: the `tokenizers` library, CLIP's merges (read out of an installed open_clip once), the tokenizer.json file.
Does NOT know: networks, embeddings, or how token ids are chosen.

Source: Radford et al. 2021 (CLIP, arXiv 2103.00020: lower-cased byte-level BPE of 48,894 merges; a word's last token
ends in "</w>"; start is 49406, end 49407).
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer
from tokenizers import decoders as bpe_decoders
from tokenizers.models import BPE
from tokenizers.normalizers import NFC, Lowercase
from tokenizers.normalizers import Sequence as NormalizerSequence
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizerSequence

from decoders.tokenizer_files import read_tokenizer
from patchioner.base.errors import CheckpointError
from patchioner.base.optional import require

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
# English contractions, runs of letters, single digits, runs of anything else that is not blank.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
# What CLIP's own cleaning straightens in ordinary captions; it repairs mis-decoded text as well, which we do not.
_STRAIGHT = str.maketrans(
    {"‘": "'", "’": "'", "‚": "'", "‛": "'", "“": '"', "”": '"', "„": '"', "‟": '"'}
    | {"\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl"}
)


class ClipTokenizer:
    """CLIP's BPE with the interface of `CaptionTokenizer`.

    Text is cleaned as CLIP cleans it (HTML entities, typographic quotes and ligatures, blanks, lower case). Padding is
    token 0, as published: a real token ("!"), so nothing is kept from being generated.

    Example:
        >>> tokenizer = ClipTokenizer.from_open_clip()  # doctest: +SKIP
        >>> tokenizer.encode(["A red bus."])  # doctest: +SKIP
        [[320, 736, 2840, 269]]
        >>> tokenizer.decode([49406, 320, 736, 2840, 269, 49407, 320])  # doctest: +SKIP
        'a red bus'
    """

    kind = "clip"
    pad_id = 0
    unwritable_ids: tuple[int, ...] = ()

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # A caption that happens to hold "<|endoftext|>" is text, not a command.
        self._tokenizer.encode_special_tokens = True
        self.start_id = self._special(START)
        self.end_id = self._special(END)

    @classmethod
    def from_merges(
        cls, vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]
    ) -> ClipTokenizer:
        """Make a tokenizer of a vocabulary (token -> id, both special tokens included) and its merges, in order."""
        tokenizer = Tokenizer(
            BPE(
                vocab=vocabulary,
                merges=list(merges),
                continuing_subword_prefix="",
                end_of_word_suffix=WORD_END,
                fuse_unk=False,
                unk_token=END,
            )
        )
        tokenizer.normalizer = NormalizerSequence([NFC(), Lowercase()])
        tokenizer.pre_tokenizer = PreTokenizerSequence(
            [
                Split(Regex(_WORDS), behavior="removed", invert=True),
                ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = bpe_decoders.ByteLevel()
        return cls(tokenizer)

    @classmethod
    def from_open_clip(cls) -> ClipTokenizer:
        """Read the vocabulary that the open_clip package carries; nothing is downloaded.

        Raises:
            MissingExtraError: open_clip is not installed.
        """
        source: Any = require("open_clip", "clip").tokenizer.SimpleTokenizer()
        names = {source.sot_token_id: START, source.eot_token_id: END}
        vocabulary = {names.get(index, token): index for token, index in source.encoder.items()}
        merges = sorted(source.bpe_ranks, key=source.bpe_ranks.__getitem__)
        return cls.from_merges(vocabulary, merges)

    @classmethod
    def load(cls, path: str | Path) -> ClipTokenizer:
        """Read a tokenizer.json that `save` wrote.

        Raises:
            CheckpointError: when the file is missing, damaged, or lacks a special token.
        """
        return read_tokenizer(path, cls)

    def save(self, path: str | Path) -> None:
        """Write the tokenizer.json that `load` reads: with it, open_clip is not needed any more."""
        self._tokenizer.save(str(path))

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the special ones included (49,408 in CLIP's own)."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def special_ids(self) -> tuple[int, int]:
        """Ids of the start and end tokens, which never show in decoded text."""
        return self.start_id, self.end_id

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        encodings = self._tokenizer.encode_batch(
            [_clean(text) for text in texts], add_special_tokens=False
        )
        return [list(encoding.ids) for encoding in encodings]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids up to the first end token.

        Start tokens and ids beyond the vocabulary write nothing; outer blanks and full stops are stripped, as the
        published evaluation does.
        """
        ids = list(token_ids)
        ids = ids[: ids.index(self.end_id)] if self.end_id in ids else ids
        return self._write(ids).strip(" .")

    def token_texts(self) -> list[str]:
        """What each token writes, by id, the blank after a word included; "" for special tokens."""
        ids = range(self.vocab_size)
        texts = self._tokenizer.decode_batch([[i] for i in ids], skip_special_tokens=False)
        return [
            "" if i in self.special_ids else text.replace(WORD_END, " ")
            for i, text in zip(ids, texts, strict=True)
        ]

    def _write(self, ids: Sequence[int]) -> str:
        words = [i for i in ids if 0 <= i < self.vocab_size and i not in self.special_ids]
        return str(self._tokenizer.decode(words, skip_special_tokens=False)).replace(WORD_END, " ")

    def _special(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise CheckpointError(f"the tokenizer has no {token} token; it is not CLIP's")
        return int(token_id)


def _clean(text: str) -> str:
    """CLIP's cleaning of one caption, in its order: entities twice, characters, blanks, lower case."""
    text = unicodedata.normalize("NFC", text.translate(_STRAIGHT))
    text = html.unescape(html.unescape(text))
    return " ".join(text.split()).lower()
