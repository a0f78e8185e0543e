"""Reading a tokenizer.json, with one kind of error for all that can be wrong with it.

Knows: the file format, by way of the `tokenizers` library. Does NOT know: what a kind of tokenizer asks of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tokenizers import Tokenizer

from patchioner.base.errors import CheckpointError

T = TypeVar("T")


def read_tokenizer(path: str | Path, make: Callable[[Tokenizer], T]) -> T:
    """What `make` makes of a tokenizer.json.

    Raises:
        CheckpointError: the file is missing or damaged, or `make` refuses it; names the file.

    Example:
        >>> read_tokenizer("decoder/tokenizer.json", CaptionTokenizer)  # doctest: +SKIP
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; a decoder's folder needs its tokenizer.json")
    try:
        return make(Tokenizer.from_file(str(path)))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # the library raises bare Exception for every kind of damage
        raise CheckpointError(f"{path} is not a readable tokenizer: {error}") from error
