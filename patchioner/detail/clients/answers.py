"""A question to a model, what identifies it, and the cleaned answer.

Knows: every value that an answer depends on, and what no answer may hold. Does NOT know: who answers, or where answers
are kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import OptionError

LONGEST_ANSWER = 50_000
"""Characters of an answer that are kept; a paragraph has a thousand."""

# Control characters but for tab and line feed, and the marks that reverse or hide the text around them.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_REASONING = re.compile(
    r"\A\s*<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE
)


@dataclass(frozen=True)
class Question:
    """All that decides an answer. Two equal questions are asked once; keys and other secrets are no part of it.

    Attributes:
        stage: who asks: "describe", "fuse".
        model: the model's id, with revision or contents where they are known.
        user: the instruction, word for word.
        system: what it was told beforehand.
        prompt: id and version of the instruction, e.g. "detail/1".
        sampling: temperature, length and the like; names and numbers.
        seed: of the run.
        sample: which of several answers to the same words.
        photo: sha256 of the photo's pixels, if one is shown.
        box: XYXY pixels of the region that is shown.
        mask: `mask_digest` of its mask.
        view: how the region is shown; names and numbers.

    Example:
        >>> Question("fuse", "tiny", "Join these.").key[:8]
        '99b3bc57'
    """

    stage: str
    model: str
    user: str
    system: str = ""
    prompt: str = ""
    sampling: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0
    sample: int = 0
    photo: str | None = None
    box: tuple[float, float, float, float] | None = None
    mask: str | None = None
    view: Mapping[str, object] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """JSON values; numbers of numpy become plain ones, so that 1 and 1.0 in a box are one."""
        return {
            "stage": self.stage,
            "model": self.model,
            "prompt": self.prompt,
            "system": self.system,
            "user": self.user,
            "sampling": dict(self.sampling),
            "seed": int(self.seed),
            "sample": int(self.sample),
            "photo": self.photo,
            "box": None if self.box is None else [float(value) for value in self.box],
            "mask": self.mask,
            "view": dict(self.view),
        }

    @property
    def key(self) -> str:
        """Sha256 (hex) of the canonical JSON.

        Raises:
            OptionError: a value that JSON cannot express.
        """
        try:
            text = json.dumps(
                self.as_json(), sort_keys=True, separators=(",", ":"), allow_nan=False
            )
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"a question has a value that JSON cannot express: {error}"
            ) from error
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def own_seed(self) -> int:
        """A seed (31 bits) for this question alone, so that an answer does not depend on what is asked beside it."""
        return int(self.key[:8], 16) >> 1


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        text: cleaned by `clean_answer`.
        log_prob: mean log-probability per token, where it is known.
    """

    text: str
    log_prob: float | None = None

    def __post_init__(self) -> None:
        if self.log_prob is not None and not math.isfinite(self.log_prob):
            object.__setattr__(self, "log_prob", None)


def mask_digest(mask: npt.NDArray[np.bool_] | None) -> str | None:
    """Sha256 (hex) of shape and pixels of an (height, width) bool mask; None of None."""
    if mask is None:
        return None
    shape = "x".join(map(str, mask.shape)).encode()
    return hashlib.sha256(shape + b":" + np.packbits(mask).tobytes()).hexdigest()


def clean_answer(text: str, *, limit: int = LONGEST_ANSWER) -> str:
    """A model's text without what could harm a file, a page or a terminal; its words stay as they are.

    Removed: control characters, invisible marks that reorder text, lone surrogates, reasoning in <think> tags ahead of
    the answer (or instead of it, where the tag is never closed), white space at both ends, and whatever comes after
    `limit` characters.

    Example:
        >>> clean_answer("<think>hm</think> A red\\x00 bus. ")
        'A red bus.'
    """
    text = _REASONING.sub("", text[: 4 * limit].replace("\r\n", "\n"))
    text = _LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", _UNFIT.sub("", text))
    return text.strip()[:limit].rstrip()
