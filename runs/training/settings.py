"""The YAML of a training run. Knows its keys and paths; not what the steps do with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

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
            raise OptionError(
                f"section {name!r} is missing from the run's settings; there are {sorted(self.values)}"
            )
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
