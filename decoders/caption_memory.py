"""A decoder's own memory of captions: texts and embeddings, searched exactly.

Knows: vectors and their texts, and the two files they are kept in. Does NOT know: `memory_bank`
(which does more: projection, counts, memory mapping), parsers, networks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from patchioner.base.errors import CheckpointError, DecoderError
from patchioner.base.files import atomic_path
from patchioner.base.weights import Storage, load_weights, save_weights

TEXTS_FILE, EMBEDDINGS_FILE = "captions.jsonl", "captions.safetensors"
_ROWS_AT_A_TIME = 65_536


@dataclass(frozen=True)
class Found:
    """Nearest captions of each query, best first: (n, k) rows, (n, k) cosines, n x k texts."""

    indices: Tensor
    similarities: Tensor
    texts: tuple[tuple[str, ...], ...]


class CaptionMemory:
    """Captions and their embeddings; a `decoders.base.TextMemory`. Immutable.

    Args:
        embeddings: (N, dim) float, scaled to unit length here; copied.
        texts: N captions.

    Raises:
        DecoderError: no rows, rows of length 0 or not finite, or another number of texts.

    Example:
        >>> memory = CaptionMemory(torch.eye(2), ["a cat", "a dog"])
        >>> memory.nearest(torch.tensor([[0.1, 2.0]]), 1).texts
        (('a dog',),)
    """

    def __init__(self, embeddings: Tensor, texts: Sequence[str]) -> None:
        rows = embeddings.detach().to("cpu", torch.float32)
        if rows.dim() != 2 or not len(rows) or len(rows) != len(texts):
            raise DecoderError(
                f"embeddings of shape {tuple(rows.shape)} and {len(texts)} captions make no memory; "
                "give one row for each caption"
            )
        norms = rows.norm(dim=1, keepdim=True)
        bad = (~(torch.isfinite(norms) & (norms > 0))).flatten().nonzero().flatten().tolist()
        if bad:
            raise DecoderError(
                f"the embedding of caption {bad[0]} is zero or not finite ({len(bad)} in all); embed it again"
            )
        self._units = rows / norms
        self._texts = tuple(texts)

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return int(self._units.shape[1])

    @property
    def texts(self) -> Sequence[str]:
        """The N captions."""
        return self._texts

    def embeddings(self) -> Tensor:
        """(N, dim) float32 unit rows, in a new tensor."""
        values: Tensor = self._units.clone()
        return values

    @torch.inference_mode()
    def nearest(self, queries: Tensor, k: int) -> Found:
        """The k captions of highest cosine for each of (n, dim) queries, k in 1 .. N.

        Raises:
            DecoderError: queries of another width, or k out of range.
        """
        if queries.dim() != 2 or queries.shape[1] != self.dim:
            raise DecoderError(
                f"queries of shape {tuple(queries.shape)} do not fit a memory of width {self.dim}; "
                "use the memory of the same model"
            )
        if not 1 <= k <= len(self):
            raise DecoderError(f"k is {k}: this memory can give 1 to {len(self)} captions")
        units = torch.nn.functional.normalize(queries.detach().to("cpu", torch.float32), dim=1)
        best = torch.full((len(units), 0), 0.0)
        rows = torch.zeros((len(units), 0), dtype=torch.int64)
        for first in range(0, len(self), _ROWS_AT_A_TIME):
            cosines = units @ self._units[first : first + _ROWS_AT_A_TIME].T
            values, places = cosines.topk(min(k, cosines.shape[1]), dim=1)
            best, rows = torch.cat([best, values], 1), torch.cat([rows, places + first], 1)
            best, order = best.sort(dim=1, descending=True, stable=True)
            best, rows = best[:, :k], rows.gather(1, order)[:, :k]
        texts = tuple(tuple(self._texts[row] for row in line) for line in rows.tolist())
        return Found(rows, best, texts)

    def save(self, folder: str | Path, *, storage: Storage = "fp16") -> None:
        """Write captions.jsonl (one JSON string a line) and captions.safetensors."""
        folder = Path(folder)
        save_weights({"embeddings": self._units}, folder / EMBEDDINGS_FILE, storage=storage)
        with atomic_path(folder / TEXTS_FILE) as temporary:
            lines = (json.dumps(text, ensure_ascii=False) + "\n" for text in self._texts)
            temporary.write_text("".join(lines), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> CaptionMemory:
        """Read what `save` wrote.

        Raises:
            CheckpointError: a file is missing or damaged, or the two do not belong together.
        """
        folder = Path(folder)
        path = folder / TEXTS_FILE
        state = load_weights(folder / EMBEDDINGS_FILE)
        try:
            # Split at \n alone: JSON leaves other line separators as they are.
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
            texts = [json.loads(line) for line in lines]
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        if set(state) != {"embeddings"} or not all(isinstance(text, str) for text in texts):
            raise CheckpointError(f"{folder}: {TEXTS_FILE} and {EMBEDDINGS_FILE} hold no captions")
        try:
            return cls(state["embeddings"], texts)
        except DecoderError as error:
            raise CheckpointError(f"{folder}: {error}") from error
