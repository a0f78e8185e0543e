"""Banks made and made smaller: captions embedded in shards, here or on Ray, so that a killed run goes on; compaction.

What a loss of rows costs is to be measured, e.g. by `python -m benchmarks.bank`.
"""

from __future__ import annotations

import hashlib
import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from memory_bank.bank import MemoryBank
from memory_bank.projection import Precision, as_matrix
from patchioner.base.errors import CheckpointError, MemoryBankError, TextError, check_texts
from patchioner.base.files import RunFolder, atomic_path, check
from patchioner.base.optional import on_ray
from patchioner.base.progress import progress
from patchioner.base.weights import load_weights, write_tensors

Embed = Callable[[Sequence[str]], Tensor]
"""Texts -> (len, dim) float tensor, finite; `TextTower.encode` is one."""

RECORD = "building.json"
SHARD = 2048
_BLOCK = 512  # rows per product; with 16k centroids the similarities then take 33 MB
_SMALLEST_NORM = 1e-6  # a mean of unit vectors shorter than this has no direction of its own
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
    check_texts(captions, "caption", blank=True)
    kept = [text for text in (_cleaned(one, lower) for one in captions) if text]
    if blank := len(captions) - len(kept):
        _log.warning("left out %d blank captions of %d", blank, len(captions))
    if not kept:
        raise TextError("no caption is left: give at least one that is not blank")
    if sample is not None and sample < len(kept):
        kept = [kept[index] for index in sorted(random.Random(seed).sample(range(len(kept)), sample))]
    counts = Counter(kept)
    return list(counts), list(counts.values())


def _cleaned(text: str, lower: bool) -> str:
    found = " ".join(text.split())
    found = found.lower().rstrip(". ") if lower else found
    return text if found == text else found  # of many millions, one copy of each


def build_bank_folder(
    captions: Sequence[str],
    embed: Embed,
    out: str | Path,
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
        encoder: JSON values that tell it from others (settings, sha256 of weights): a run goes on only with its own.
        sample: captions drawn at random; None takes all.
        rows: size to compact to by k-means (`compact`); None keeps every distinct caption.
        lower: lower-case captions and strip a final full stop, as shipped models' banks are.
        unit: store unit vectors. False keeps the encoder's lengths, as published banks do: longer rows weigh more.
        keep_texts: keep the captions, for `explain` and for decoders that retrieve.
        dtype: precision of the rows.
        seed: of `sample` and of the k-means.
        resume: go on with a run that was stopped; it ends where an uninterrupted one does.
        spread: writes shards of these texts into that folder ahead of `embed` (such as `embed_on_ray`).

    Raises:
        TextError: no caption.
        MemoryBankError: embeddings of the wrong shape or not finite.
        OptionError: a number below 1; the folder holds something else, or another run.
    """
    check("int [1, inf) or None", sample=sample, rows=rows)
    out = Path(out)
    texts, counts = prepare(captions, lower=lower, sample=sample, seed=seed)
    options = dict(sample=sample, rows=rows, lower=lower, unit=unit, keep_texts=keep_texts, dtype=dtype, seed=seed)
    identity = {"options": options, "captions": _digest(texts, counts), "text_tower": dict(encoder)}
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


def _digest(texts: Sequence[str], counts: Sequence[int]) -> str:
    found = hashlib.sha256()
    for pair in zip(texts, counts, strict=True):
        found.update(repr(pair).encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def embed_texts(embed: Embed, texts: Sequence[str], folder: Path, *, shard: int = SHARD, unit: bool = True) -> Tensor:
    """Embeddings of texts, (N, dim); shards that lie in `folder` are read, the others written.

    `unit` vectors are fp16, others fp32; all lie in a file, not in memory. CheckpointError: a damaged or foreign shard.
    """
    rows, kind = torch.empty(0), torch.float16 if unit else torch.float32
    for start in progress(range(0, len(texts), shard), description="embedding the corpus", unit="shard"):
        path, batch = shard_path(folder, start), list(texts[start : start + shard])
        if not path.exists():
            write_shard(embed, batch, path, unit=unit)
        part = load_weights(path).get(_NAME)
        if start == 0 and part is not None:
            rows = _on_disk(folder / "rows", (len(texts), part.shape[-1]), kind)
        if part is None or part.shape != (len(batch), rows.shape[-1]):
            raise CheckpointError(f"{path} holds no {(len(batch), rows.shape[-1])} embeddings: remove it and go on")
        rows[start : start + shard] = part
    return rows


def _on_disk(path: Path, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """A matrix in a file without a name, which the system writes to as memory runs short."""
    path.unlink(missing_ok=True)
    rows = torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=dtype).view(shape)
    with suppress(OSError):  # where open files keep their names
        path.unlink()
    return rows


def shard_path(folder: Path, start: int) -> Path:
    """Where the embeddings of the texts from `start` on are."""
    return folder / f"{start:09d}.safetensors"


def write_shard(embed: Embed, texts: Sequence[str], path: Path, *, unit: bool) -> None:
    """Embed texts and keep that, as `embed_texts` reads it: rounded even in a run that is never killed."""
    with torch.no_grad():
        found = as_matrix(embed(list(texts)), "text embeddings").cpu()
    if len(found) != len(texts):
        raise MemoryBankError(f"the encoder gave {tuple(found.shape)} for {len(texts)} texts: one row each is needed")
    finite = torch.isfinite(found).all(dim=1).tolist()
    if not all(finite):
        raise MemoryBankError(f"the embedding of {texts[finite.index(False)]!r} is not finite; check the encoder")
    found = functional.normalize(found.float(), dim=1).half() if unit else found.float()
    with atomic_path(path) as temporary:
        write_tensors({_NAME: found.contiguous()}, temporary, {})


def embed_on_ray(
    make_embed: Callable[[], Embed],
    texts: Sequence[str],
    folder: Path,
    *,
    unit: bool = True,
    shard: int = SHARD,
    workers: int = 0,
    device: str | None = "cpu",
) -> None:
    """Write the shards that `embed_texts` would, where they are missing, by Ray.

    `make_embed`, which is pickled, gives each worker its encoder; all machines see the `folder`. The rest: `on_ray`.
    """
    rows = [
        {"path": str(path), "texts": list(texts[start : start + shard])}
        for start in range(0, len(texts), shard)
        if not (path := shard_path(folder, start)).exists()
    ]
    done = on_ray(_Worker, (make_embed, unit), rows, workers, 1, device)
    for _ in progress(done, description="embedding on Ray", total=len(rows), unit="shard"):
        pass


class _Worker:
    """Holds an encoder."""

    def __init__(self, make_embed: Callable[[], Embed], unit: bool) -> None:
        self._embed, self._unit = make_embed(), unit

    def __call__(self, row: Mapping[str, Any]) -> dict[str, str]:
        write_shard(self._embed, list(row["texts"]), Path(row["path"]), unit=self._unit)
        return {"path": row["path"]}


def compact(bank: MemoryBank, rows: int, *, seed: int = 0, iterations: int = 5) -> MemoryBank:
    """Shrink a bank to `rows` rows, in the same precision. Equal rows are merged first.

    By spherical k-means weighted by multiplicity: Lloyd's algorithm on the unit keys (Dhillon and Modha 2001), with
    exact assignment. A cluster becomes one row: the weighted mean of its members' values, the sum of their counts, and
    the text of the member nearest to its centroid.

    Args:
        bank: left untouched; its device does the work (`bank.to("cuda")` for a large one).
        rows: size of the result; a bank with no more distinct rows is only merged.
        seed: of the choice of starting rows.
        iterations: most rounds of assigning and averaging.

    Raises:
        OptionError: `rows` or `iterations` below 1.

    Example:
        >>> bank = MemoryBank(torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]]))
        >>> sorted(compact(bank, 2).counts.tolist())
        [1, 2]
    """
    check("int [1, inf)", rows=rows, iterations=iterations)
    distinct = bank.merge_duplicates()
    if rows >= len(distinct):
        return distinct
    with torch.no_grad():
        return _merge(distinct, *_cluster(distinct, rows, seed, iterations), rows)


def _cluster(bank: MemoryBank, rows: int, seed: int, iterations: int) -> tuple[Tensor, Tensor]:
    """A partition: (N,) cluster of each row, and its cosine with the centroid."""
    start = torch.randperm(len(bank), generator=torch.Generator().manual_seed(seed))[:rows]
    centroids = bank.units(start.to(bank.device))
    label, similarity = _fill_empty(*_assign(bank, centroids, "clustering 1"), rows)
    for iteration in range(2, iterations + 1):
        sums, before = _sums(bank, label, bank.counts, rows), label
        lengths = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
        # Members that cancel out leave no direction: such a cluster keeps its centroid.
        directed = sums / lengths.clamp_min(_SMALLEST_NORM)
        centroids = torch.where(lengths > _SMALLEST_NORM, directed, centroids)
        label, similarity = _fill_empty(*_assign(bank, centroids, f"clustering {iteration}"), rows)
        if torch.equal(label, before):
            break
    return label, similarity


def _assign(bank: MemoryBank, centroids: Tensor, description: str) -> tuple[Tensor, Tensor]:
    """Give every row to the centroid of highest cosine: labels and cosines."""
    found = []
    for start in progress(range(0, len(bank), _BLOCK), description=description, unit="block"):
        found.append(torch.max(bank.units(slice(start, start + _BLOCK)) @ centroids.T, dim=1))
    return torch.cat([best.indices for best in found]), torch.cat([best.values for best in found])


def _fill_empty(labels: Tensor, cosines: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Give each empty cluster the worst-served row of a cluster that keeps others."""
    label, similarity = labels.cpu().numpy().copy(), cosines.cpu().numpy().copy()
    sizes = np.bincount(label, minlength=count)
    empty = np.flatnonzero(sizes == 0).tolist()
    worst = iter(np.argsort(similarity, kind="stable").tolist()) if empty else iter(())
    for cluster in empty:
        row = next(row for row in worst if sizes[label[row]] > 1)
        sizes[label[row]] -= 1
        sizes[cluster] += 1
        label[row], similarity[row] = cluster, 1.0
    return torch.from_numpy(label).to(labels.device), torch.from_numpy(similarity).to(labels.device)


def _sums(bank: MemoryBank, label: Tensor, factors: Tensor, rows: int) -> Tensor:
    """The sum of each cluster's unit rows times their factors, (rows, dim) float32."""
    sums = torch.zeros((rows, bank.dim), dtype=torch.float32, device=bank.device)
    for start in range(0, len(bank), _BLOCK):
        block = slice(start, start + _BLOCK)
        sums.index_add_(0, label[block], bank.units(block) * factors[block, None])
    return sums


def _merge(bank: MemoryBank, label: Tensor, similarity: Tensor, rows: int) -> MemoryBank:
    """One row for each cluster."""
    counts = torch.zeros(rows, dtype=torch.int64, device=bank.device)
    counts.index_add_(0, label, bank.counts)
    values = _sums(bank, label, bank.counts * bank.norms, rows) / counts[:, None]
    # The row nearest to each centroid: later assignments win, and the best rows come last.
    order = np.argsort(similarity.cpu().numpy(), kind="stable")
    best = np.empty(rows, dtype=np.int64)
    best[label.cpu().numpy()[order]] = order
    nearest = bank.take(torch.from_numpy(best).to(bank.device))
    cancelled = torch.linalg.vector_norm(values, dim=1) <= _SMALLEST_NORM * nearest.norms
    values = torch.where(cancelled[:, None], nearest.embeddings(), values)
    return MemoryBank(values, nearest.texts, counts, dtype=bank.dtype)
