"""What a text tower is: texts in, vectors in the space of the patch tokens out."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from patchioner.base.errors import CheckpointError, TextError
from patchioner.base.registry import Registry
from patchioner.checkpoints.stored import StoredModule, make_part

TOKENIZER_FILE = "tokenizer.json"
logger = logging.getLogger(__name__)


class TextTower(StoredModule):
    """A network that puts texts into the space of the patch tokens."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width of the embedding space."""

    @abstractmethod
    def encode(self, texts: Sequence[str], *, batch: int = 256) -> Tensor:
        """Embed texts.

        Args:
            texts: n non-blank strings.
            batch: most texts per pass.

        Returns:
            (n, dim) float32 on the CPU, not normalised. A text's vector does not depend on the others.

        Raises:
            TextError: a text is blank or not a string.
        """


def check_texts(texts: Sequence[str]) -> None:
    """Refuse blank texts, half characters (lone surrogates) and things that are no text, by index."""
    if isinstance(texts, str):
        raise TextError(
            f"expected a list of texts, got the single string {texts!r}: wrap it in a list"
        )
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise TextError(f"text {index} is {text!r}: give non-blank strings")
        if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
            raise TextError(f"text {index} is {text!r}: half a character is in it; decode it anew")


def warn_of_cut(cut: int, total: int, limit: int) -> None:
    """Say in one line how many texts were longer than a tower reads."""
    if cut:
        logger.warning("%d of %d texts are longer than %d tokens and were cut", cut, total, limit)


def equal_lengths(
    sequences: Sequence[Sequence[int]], batch: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield (row indices, ids (B, T)) such that every batch holds sequences of one length."""
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for row, ids in enumerate(sequences):
        by_length[len(ids)].append(row)
    for rows in by_length.values():
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            yield part, torch.tensor([sequences[row] for row in part])


def encode_by_length(
    sequences: Sequence[Sequence[int]], batch: int, run: Callable[[Tensor], Tensor], dim: int
) -> Tensor:
    """Vectors (n, dim) float32 of token ids; those of one length share passes of `run`, so nothing is padded."""
    result = torch.empty(len(sequences), dim)
    for rows, ids in equal_lengths(sequences, batch):
        result[rows] = run(ids).to("cpu", torch.float32)
    return result


def read_tokenizer(path: Path) -> Tokenizer:
    """Read tokenizer.json; CheckpointError where it is none."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(
            f"{path} is no tokenizer ({error}): fetch the checkpoint again"
        ) from error


TEXT_TOWERS: Registry[type[TextTower]] = Registry(
    "text tower",
    homes={
        "bert": "patchioner.text.bert",
        "open_clip": "patchioner.text.clip",
        "siglip": "patchioner.text.clip",
        "talk2dino": "patchioner.text.talk2dino",
        "dinotxt": "patchioner.text.dinotxt",
    },
)


def load_tower(folder: Path) -> TextTower:
    """Read what `TextTower.save` wrote; CheckpointError where a file is missing, corrupt or of another shape."""
    return make_part(TEXT_TOWERS, folder, Path(), str(folder))
