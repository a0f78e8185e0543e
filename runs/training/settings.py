"""What the steps read: the YAML of a run, photo-caption pairs and caption corpora."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from patchioner.base.errors import OptionError


@dataclass(frozen=True)
class RunSettings:
    """One run's settings, read from YAML.

    Attributes:
        values: the whole document.
        root: folder that relative paths start from (the current folder).
    """

    values: dict[str, Any]
    root: Path

    @classmethod
    def read(cls, path: str | Path) -> RunSettings:
        """Read a YAML file; paths in it are relative to the current folder."""
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise OptionError(f"{path} holds no settings: expected a mapping of sections")
        return cls(values, Path.cwd())

    def section(self, name: str) -> dict[str, Any]:
        """A required section."""
        found = self.values.get(name)
        if not isinstance(found, dict):
            raise OptionError(f"section {name!r} is missing from the run's settings; there are {sorted(self.values)}")
        return found

    def data(self, name: str) -> Path:
        """A path of the ``data`` section; an absent file is refused here rather than halfway through the run."""
        path = self.root / str(self.section("data")[name])
        if not path.exists():
            raise OptionError(f"data.{name} = {path} does not exist")
        return path

    @property
    def work(self) -> Path:
        """Folder of intermediate results, made on demand."""
        folder = self.root / str(self.values["work"])
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def seed(self) -> int:
        """Seed of everything that depends on chance."""
        return int(self.values.get("seed", 0))


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
