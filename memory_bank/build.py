"""Building a bank from texts and any text encoder.

Knows texts, text files and a function that embeds a list of texts. Does not know what that function
does inside.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from memory_bank.arrays import Precision, as_matrix
from memory_bank.bank import MemoryBank
from patchioner.base.errors import MemoryBankError, OptionError, TextError
from patchioner.base.progress import progress

_log = logging.getLogger(__name__)


def build_bank(
    texts: Iterable[str] | str | os.PathLike[str],
    encode: Callable[[list[str]], Tensor],
    batch: int = 256,
    *,
    merge_repeats: bool = False,
    keep_texts: bool = True,
    drop_zero_rows: bool = False,
    dtype: Precision = "float32",
) -> MemoryBank:
    """Embed texts and make a bank of them.

    Args:
        texts: the texts, or the path of a UTF-8 file with one text per line. Surrounding blanks go;
            blank texts are left out, and their number is logged as a warning.
        encode: up to `batch` texts -> (len, dim) float tensor, finite. It sees the texts sorted by
            length, so that little is padded; the bank keeps the order of the texts.
        batch: texts per call of `encode`.
        merge_repeats: embed repeated texts once and keep them as one row with a count (projections
            are the same). False: one row per text.
        keep_texts: False makes a bank without texts.
        drop_zero_rows: leave out texts with an embedding of zero norm, instead of refusing them.
        dtype: precision of the rows in memory.

    Raises:
        TextError: no texts, something that is not a string, or a file that cannot be read.
        MemoryBankError: `encode` gives another number of rows, another width between batches, or
            values that are not finite.

    Example:
        >>> bank = build_bank(["a cat", "a bus"], lambda texts: torch.eye(2)[: len(texts)])
        >>> bank.texts
        ('a cat', 'a bus')
    """
    if batch < 1:
        raise OptionError(f"batch={batch}: at least one text has to go in at a time")
    clean = _clean_texts(texts)
    counts = None
    if merge_repeats:
        repeats = Counter(clean)
        clean, counts = list(repeats), list(repeats.values())
    embeddings = _embed(clean, encode, batch)
    return MemoryBank(
        embeddings,
        clean if keep_texts else None,
        counts,
        drop_zero_rows=drop_zero_rows,
        dtype=dtype,
    )


def _embed(texts: Sequence[str], encode: Callable[[list[str]], Tensor], batch: int) -> Tensor:
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    starts = range(0, len(order), batch)
    embeddings: Tensor | None = None
    for start in progress(starts, description="embedding texts", unit="batch"):
        rows = order[start : start + batch]
        with torch.no_grad():
            encoded = as_matrix(encode([texts[row] for row in rows]), "text embeddings").cpu()
        if embeddings is None:
            embeddings = torch.empty((len(texts), encoded.shape[1]), dtype=torch.float32)
        if encoded.shape != (len(rows), embeddings.shape[1]):
            raise MemoryBankError(
                f"encode returned shape {tuple(encoded.shape)} for {len(rows)} texts, expected "
                f"{(len(rows), embeddings.shape[1])}"
            )
        finite = torch.isfinite(encoded).all(dim=1).tolist()
        if not all(finite):
            text = texts[rows[finite.index(False)]]
            raise MemoryBankError(f"the embedding of {text!r} is not finite; check the encoder")
        embeddings[rows] = encoded.float()
    assert embeddings is not None  # _clean_texts never returns an empty list
    return embeddings


def _clean_texts(texts: Iterable[str] | str | os.PathLike[str]) -> list[str]:
    """Return the texts without surrounding blanks and without blank ones, which are reported."""
    source = "texts"
    if isinstance(texts, str | os.PathLike):
        source = os.fspath(texts)
        texts = _read_lines(Path(texts))
    stripped = []
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TextError(f"{source}: item {row} is {text!r}, not a string")
        stripped.append(text.strip())
    clean = [text for text in stripped if text]
    if not clean:
        raise TextError(f"{source}: no text in it ({len(stripped)} blank lines)")
    if blank := len(stripped) - len(clean):
        first = stripped.index("")
        _log.warning("%s: left out %d blank texts, the first at index %d", source, blank, first)
    return clean


def _read_lines(path: Path) -> list[str]:
    try:
        # Not splitlines(), which also splits at form feeds and other marks inside a sentence.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise TextError(
            f"{path}: cannot be read ({error.strerror}); a text itself goes in as a list"
        ) from error
    except UnicodeDecodeError as error:
        raise TextError(f"{path}: not UTF-8 text ({error}); convert it") from error
    return lines[:-1] if lines[-1] == "" else lines
