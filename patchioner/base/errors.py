"""The error tree: everything raised on purpose is a `PatchionerError`.

    PatchionerError
    ├── ValueError:   RegionError  RegionFileError  ImageError  CheckpointError  MemoryBankError
    │                 DecoderError  TextError  OptionError
    ├── RuntimeError: DetailError ── FutileError,  ExportError  ServerError
    ├── MemoryError:  OutOfMemoryError
    ├── OSError:      HubError
    ├── ImportError:  MissingExtraError
    └── LookupError:  UnknownNameError

Each is also the standard error that its line begins with. Each message carries the offending value and the remedy; a
command line need catch only the root.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # half of what writes an emoji in JSON


class PatchionerError(Exception):
    """Root of all errors that these packages raise on purpose."""


class RegionError(PatchionerError, ValueError):
    """A region that cannot be used: empty, off the image, not finite, of the wrong size."""


class RegionFileError(PatchionerError, ValueError):
    """A file of regions that cannot be read, or is in no known format."""


class ImageError(PatchionerError, ValueError):
    """An image that cannot be read or is not an image."""


class CheckpointError(PatchionerError, ValueError):
    """A checkpoint file that is missing, corrupt, foreign, or does not fit its network."""


class MemoryBankError(PatchionerError, ValueError):
    """A memory bank or a query of it that is corrupt, not finite or of another width."""


class DecoderError(PatchionerError, ValueError):
    """An embedding or setting that a decoder cannot decode."""


class TextError(PatchionerError, ValueError):
    """Texts that are missing, empty, or not text."""


class OptionError(PatchionerError, ValueError):
    """An option or setting outside its allowed values."""


class OutOfMemoryError(PatchionerError, MemoryError):
    """Too little memory, of the processor or of a GPU, for one photo or its regions."""


class DetailError(PatchionerError, RuntimeError):
    """A stage of a detailed description that cannot give an answer: a server, a budget, a malformed reply."""


class FutileError(DetailError):
    """A failure that every later call of the run would meet too: a spent budget, a refused key, no such model."""


class ExportError(PatchionerError, RuntimeError):
    """A network that cannot be exported, or an exported file that does not fit or cannot be run."""


class ServerError(PatchionerError, RuntimeError):
    """A `patchioner serve` that cannot be reached, or refuses; `kind` is its word for why, such as "bad_image"."""

    def __init__(self, message: str, kind: str = "failed") -> None:
        super().__init__(message)
        self.kind = kind


class HubError(PatchionerError, OSError):
    """A model hub that cannot be reached, or does not hold what was asked for."""


class MissingExtraError(PatchionerError, ImportError):
    """An optional dependency that is not installed; the message has the line that installs it."""


class UnknownNameError(PatchionerError, LookupError):
    """A name that no registry or catalogue holds; the message offers the close ones."""

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
        """The error for `name`, which is not among the `known` names of this `kind`.

        Example:
            >>> str(UnknownNameError.among("backbone", "tim", ["timm", "mini"]))
            "unknown backbone 'tim': did you mean 'timm'? Known: 'mini', 'timm'"
        """
        names = sorted(known)
        close = " or ".join(map(repr, difflib.get_close_matches(name, names, n=3)))
        hint = f"did you mean {close}? " if close else ""
        listing = f"Known: {', '.join(map(repr, names[:40]))}" if names else "None is registered"
        return cls(f"unknown {kind} {name!r}: {hint}{listing}")


def out_of_memory(error: BaseException) -> OutOfMemoryError | None:
    """The error as ours, if it is of memory: Python's, torch's of a GPU, or of a CPU (a RuntimeError that says so)."""
    told = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    if not (told or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"):
        return None
    if isinstance(error, OutOfMemoryError):
        return error
    reason = first_line(error)
    return OutOfMemoryError(f"out of memory ({reason:.120}): give fewer regions, a smaller photo, or another device")


def first_line(error: BaseException) -> str:
    """Of a library's message; theirs run to paragraphs."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def first_few(values: Iterable[Any]) -> str:
    """Five of them, in order, and how many there are besides: "3, 8, 9, 12, 20 and 2 more"; empty of none."""
    ordered = sorted(values)
    return ", ".join(map(str, ordered[:5])) + (f" and {len(ordered) - 5} more" if len(ordered) > 5 else "")


def check_texts(texts: object, what: str = "text", *, blank: bool = False) -> list[str]:
    """Them; TextError, by index, for no string, half a character (a lone surrogate), or what may not be blank."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise TextError(f"expected a list of texts, got {texts!r:.60}: wrap it in a list")
    found = list(texts)
    for index, text in enumerate(found):
        if not isinstance(text, str) or not (blank or text.strip()):
            raise TextError(f"{what} {index} is {text!r}: give {'' if blank else 'non-blank '}strings")
        if not text.isascii() and LONE_SURROGATE.search(text):
            raise TextError(f"{what} {index} is {text!r}: half a character is in it; decode it anew")
    return found
