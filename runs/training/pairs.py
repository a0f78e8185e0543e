"""Photo-caption pairs and caption corpora as the training steps use them. Knows files and order; no networks."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """Photos sorted by name, with their captions.

    Attributes:
        names: file names, P of them.
        captions: all captions, N of them, photo by photo.
        owner: (N,) index of each caption's photo.
    """

    names: list[str]
    captions: list[str]
    owner: Tensor

    @property
    def captions_of(self) -> list[Tensor]:
        """Per photo, the indices of its captions."""
        return [torch.nonzero(self.owner == photo)[:, 0] for photo in range(len(self.names))]


def read_pairs(path: Path) -> Pairs:
    """Read ``[{file_name, captions}]``."""
    rows = sorted(json.loads(path.read_text(encoding="utf-8")), key=lambda row: row["file_name"])
    captions = [" ".join(caption.split()) for row in rows for caption in row["captions"]]
    owner = torch.tensor([photo for photo, row in enumerate(rows) for _ in row["captions"]])
    return Pairs([row["file_name"] for row in rows], captions, owner)


def read_lines(path: Path) -> list[str]:
    """Non-blank lines of a text file, gzipped or not, with runs of blanks made one."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    return [line for raw in text.splitlines() if (line := " ".join(raw.split()))]
