"""The `retrieval` decoder: the caption is the nearest text of a memory. No network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from decoders.base import (
    CONFIG_FILE,
    DECODERS,
    Decoded,
    DecodeOptions,
    Decoder,
    TextMemory,
    check_whole,
    nearest_rows,
    reading,
)
from decoders.guidance import Guide
from decoders.search import draw, row_uniforms
from patchioner.base.errors import DecoderError, OptionError
from patchioner.base.files import write_json
from patchioner.base.weights import Storage

_WIDEN = 8  # how many times more sentences are looked at when none of the nearest will do


@DECODERS.register("retrieval")
class RetrievalDecoder(Decoder):
    """Captions are sentences of the memory, word for word.

    Greedy and beam give the nearest sentence by cosine. Sampling draws among the `candidates` nearest by
    softmax(cosine / temperature), sharpened by the options' own temperature and `top_p`. The limits of `DecodeOptions`
    pass over whole sentences, counted in words. A `Decoded` holds one "token": the row of the memory, and the logarithm
    of its softmax probability among the nearest that were looked at.

    Example:
        >>> from memory_bank import MemoryBank
        >>> decoder = RetrievalDecoder(2)
        >>> memory = MemoryBank(torch.eye(2), ["a cat", "a dog"])
        >>> decoder.generate(torch.tensor([[0.1, 1.0]]), memory=memory)[0].text
        'a dog'
    """

    needs_memory, can_be_guided = True, False
    USUAL_TOKENS = max_tokens = 10_000  # whole sentences, however long
    device = torch.device("cpu")  # there are no weights

    def __init__(
        self, embedding_dim: int, *, candidates: int = 32, temperature: float = 0.01
    ) -> None:
        check_whole(embedding_dim=embedding_dim, candidates=candidates)
        if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
            raise OptionError(f"temperature is {temperature!r}; it must be a positive number")
        self.candidates, self.temperature = candidates, float(temperature)
        self.embedding_dim = embedding_dim

    def _generate(
        self,
        embeddings: Tensor,
        options: DecodeOptions,
        memory: TextMemory | None,
        guide: Guide | None,
    ) -> list[Decoded]:
        """A sentence of the memory for each row; DecoderError where none meets the options."""
        assert memory is not None  # `generate` has seen to it
        captions: dict[int, Decoded] = {}
        waiting, wide = list(range(len(embeddings))), self.candidates
        allowed = _allowed(options)
        while waiting:
            wide = min(wide, len(memory))
            part = embeddings[waiting].detach().float()
            chosen = self._choose(memory, part, wide, options, allowed)
            captions |= {row: one for row, one in zip(waiting, chosen, strict=True) if one}
            waiting = [row for row in waiting if row not in captions]
            if waiting and wide == len(memory):
                raise DecoderError(
                    f"none of the {wide} sentences of the memory meets the options (max_tokens "
                    f"{options.max_tokens}, min_tokens {options.min_tokens}, banned_words "
                    f"{options.banned_words}, no_repeat_ngram {options.no_repeat_ngram}); loosen them"
                )
            wide *= _WIDEN
        return [captions[row] for row in range(len(embeddings))]

    def save(self, folder: str | Path, *, storage: Storage = "fp16") -> None:
        """Write config.json; there are no weights, and the memory is kept by whoever gave it."""
        names = ("embedding_dim", "candidates", "temperature")
        config = {"type": "retrieval"} | {name: getattr(self, name) for name in names}
        write_json(Path(folder) / CONFIG_FILE, config)

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path) -> Self:
        """Read what `save` wrote; CheckpointError where a setting is missing, unknown or makes no sense."""
        with reading(folder / CONFIG_FILE):
            return cls(**config)

    def _choose(
        self,
        memory: TextMemory,
        rows: Tensor,
        wide: int,
        options: DecodeOptions,
        allowed: Callable[[str], bool],
    ) -> Iterator[Decoded | None]:
        """For each of (n, dim) rows an allowed sentence among its `wide` nearest; None without one."""
        texts = memory.texts
        assert texts is not None
        uniforms = row_uniforms(rows, 1, seed=options.seed)[:, 0]
        for near, uniform in zip(nearest_rows(memory, rows, wide), uniforms, strict=True):
            logits = torch.tensor([cosine for _, cosine in near]).double() / self.temperature
            fit = [place for place, (row, _) in enumerate(near) if allowed(texts[row])]
            if not fit:
                yield None
                continue
            pick = fit[0]
            if options.strategy == "sample":
                sharpened = (logits[fit] / options.temperature)[None]
                pick = fit[int(draw(sharpened, torch.tensor([uniform]), options.top_p))]
            row, log_prob = near[pick][0], float(logits.log_softmax(dim=0)[pick])
            yield Decoded(texts[row], (row,), (log_prob,))


def _allowed(options: DecodeOptions) -> Callable[[str], bool]:
    """Whether a sentence meets the options; each sentence is looked at once."""
    words = "|".join(r"\s+".join(map(re.escape, word.split())) for word in options.banned_words)
    banned = re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE) if words else None
    size = options.no_repeat_ngram

    @cache
    def meets(text: str) -> bool:
        words = text.lower().split()
        if not options.min_tokens <= len(words) <= options.max_tokens:
            return False
        ngrams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)] if size else []
        return len(set(ngrams)) == len(ngrams) and not (banned and banned.search(text))

    return meets
