"""A bank from captions and any function that embeds them; on disk in shards, so that a killed run goes on."""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from memory_bank.bank import MemoryBank
from memory_bank.compact import compact
from memory_bank.projection import Precision, as_matrix
from patchioner.base.errors import CheckpointError, MemoryBankError, OptionError, TextError
from patchioner.base.files import RunFolder, atomic_path
from patchioner.base.progress import progress
from patchioner.base.weights import load_weights, write_tensors

Embed = Callable[[Sequence[str]], Tensor]
"""Texts -> (len, dim) float tensor, finite; `TextTower.encode` is one."""

RECORD = "building.json"
SHARD = 2048
_NAME = "embeddings"
_log = logging.getLogger(__name__)


def prepare(
    captions: Sequence[str], *, lower: bool = False, sample: int | None = None, seed: int = 0
) -> tuple[list[str], list[int]]:
    """Distinct captions in order of first appearance, and how often each occurred; what is blank is left out.

    TextError: no caption is left, or one is no string. See `build_bank_folder`.

    Example:
        >>> prepare(["A cat.", "a cat", " "], lower=True)
        (['a cat'], [2])
    """
    wrong: list[object] = [text for text in captions if not isinstance(text, str)]
    if isinstance(captions, str) or wrong:
        found = wrong[0] if wrong else captions
        raise TextError(f"captions must be a list of strings, got {found!r:.60}")
    stripped = [" ".join(text.split()) for text in captions]
    if lower:
        stripped = [text.lower().rstrip(". ") for text in stripped]
    kept = [text for text in stripped if text]
    if blank := len(stripped) - len(kept):
        _log.warning("left out %d blank captions of %d", blank, len(stripped))
    if not kept:
        raise TextError("no caption is left: give at least one that is not blank")
    if sample is not None and sample < len(kept):
        chosen = sorted(random.Random(seed).sample(range(len(kept)), sample))
        kept = [kept[index] for index in chosen]
    counts = Counter(kept)
    return list(counts), list(counts.values())


def build_bank_folder(
    captions: Sequence[str],
    embed: Embed,
    out: Path,
    *,
    encoder: Mapping[str, Any],
    sample: int | None = None,
    rows: int | None = None,
    lower: bool = False,
    unit: bool = True,
    keep_texts: bool = True,
    dtype: Precision = "float16",
    seed: int = 0,
    resume: bool = False,
    spread: Callable[[Sequence[str], Path], object] | None = None,
) -> MemoryBank:
    """Embed captions and write a bank that `MemoryBank.load` and ``--bank`` read; gives it back as written.

    Args:
        captions: any number; repeated ones become one row with a count, which projects the same.
        embed: of the model that the bank is for, e.g. its text tower's `encode`.
        out: an absent or empty folder.
        encoder: JSON values that tell this encoder from others, its settings and the `digest` of its weights: a run
            goes on only with the encoder that it was begun with.
        sample: captions drawn at random; None takes all.
        rows: size to compact to by k-means (`compact`); None keeps every distinct caption.
        lower: lower-case captions and strip a final full stop, as shipped models' banks are.
        unit: store unit vectors. False keeps the lengths that the encoder gives, as the published banks do: longer
            rows then weigh more in a projection.
        keep_texts: keep the captions, for `explain` and for decoders that retrieve.
        dtype: precision of the rows.
        seed: of `sample` and of the k-means.
        resume: go on with a run that was stopped; it ends where an uninterrupted one does.
        spread: writes shards of these texts into that folder ahead of `embed` (`memory_bank.cluster`).

    Raises:
        TextError: no caption.
        MemoryBankError: embeddings of the wrong shape or not finite.
        OptionError: a number below 1; the folder holds something else, or another run.
    """
    for name, value in (("sample", sample), ("rows", rows)):
        if value is not None and value < 1:
            raise OptionError(f"{name} is {value}: give 1 or more, or leave it out")
    texts, counts = prepare(captions, lower=lower, sample=sample, seed=seed)
    options = dict(sample=sample, rows=rows, lower=lower, unit=unit, keep_texts=keep_texts)
    identity = {
        "options": {**options, "dtype": dtype, "seed": seed},
        "captions": hashlib.sha256(
            repr((texts, counts)).encode("utf-8", "surrogatepass")
        ).hexdigest(),
        "text_tower": dict(encoder),
    }
    with RunFolder.claim(out, identity, resume=resume, record=RECORD) as run:
        if run.finished:
            _log.info("%s is finished: nothing left to do", out)
            return MemoryBank.load(out)
        if spread is not None:
            spread(texts, run.work)
        embeddings = embed_texts(embed, texts, run.work, unit=unit)
        stored: Precision = dtype if rows is None else "float32"
        bank = MemoryBank(embeddings, texts if keep_texts else None, counts, dtype=stored)
        if rows is not None:
            bank = compact(bank, rows, seed=seed)
        bank.save(out, dtype=dtype)
        run.finish({"rows": len(bank), "captions": len(captions), "distinct": len(texts)})
    return MemoryBank.load(out)


def embed_texts(
    embed: Embed, texts: Sequence[str], folder: Path, *, shard: int = SHARD, unit: bool = True
) -> Tensor:
    """Embeddings of texts, (N, dim); shards that lie in `folder` are read, the others written.

    `unit` vectors are fp16, others fp32. CheckpointError: a shard is damaged or of other texts.
    """
    rows, kind = torch.empty(0), torch.float16 if unit else torch.float32
    starts = range(0, len(texts), shard)
    for start in progress(starts, description="embedding the corpus", unit="shard"):
        path, batch = shard_path(folder, start), list(texts[start : start + shard])
        if not path.exists():
            write_shard(embed, batch, path, unit=unit)
        part = load_weights(path).get(_NAME)
        if start == 0 and part is not None:
            rows = torch.empty((len(texts), part.shape[-1]), dtype=kind)
        if part is None or part.shape != (len(batch), rows.shape[-1]):
            raise CheckpointError(
                f"{path} does not hold {(len(batch), rows.shape[-1])} embeddings: remove it and go on"
            )
        rows[start : start + shard] = part
    return rows


def shard_path(folder: Path, start: int) -> Path:
    """Where the embeddings of the texts from `start` on are."""
    return folder / f"{start:09d}.safetensors"


def write_shard(embed: Embed, texts: Sequence[str], path: Path, *, unit: bool) -> None:
    """Embed texts and keep that, as `embed_texts` reads it."""
    # Rounded even in a run that is never killed: both kinds of run end with the same numbers.
    found = _embedded(embed, texts, unit)
    with atomic_path(path) as temporary:
        write_tensors({_NAME: found}, temporary, {})


def _embedded(embed: Embed, texts: Sequence[str], unit: bool) -> Tensor:
    with torch.no_grad():
        found = as_matrix(embed(list(texts)), "text embeddings").cpu()
    if len(found) != len(texts):
        raise MemoryBankError(
            f"the encoder gave shape {tuple(found.shape)} for {len(texts)} texts: one row each is needed"
        )
    finite = torch.isfinite(found).all(dim=1).tolist()
    if not all(finite):
        text = texts[finite.index(False)]
        raise MemoryBankError(f"the embedding of {text!r} is not finite; check the encoder")
    return F.normalize(found.float(), dim=1).half() if unit else found.float().contiguous()
