"""A stand-in for a captioner with a memory, and a way to run a command with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.runner import Run, RunSettings, execute
from patchioner.base.errors import ImageError, RegionError

WORDS = ("red", "green", "blue", "dark", "bright", "grey")


@dataclass(frozen=True)
class Said:
    """Stands for `patchioner.Caption`."""

    text: str
    score: float


@dataclass
class Talker:
    """Says the name of a photo and of a region; counts what it is asked. `fail_after` photos it dies."""

    encoded: list[str] = field(default_factory=list)
    captioned: int = 0
    fail_after: int | None = None

    def encode(self, images: Any, *, keep_image: bool = False) -> str:
        """The file's stem; a photo named "bad..." cannot be decoded."""
        if self.fail_after is not None and len(self.encoded) >= self.fail_after:
            raise KeyboardInterrupt
        name = Path(images).stem
        if name.startswith("bad"):
            raise ImageError(f"{name} is truncated")
        self.encoded.append(name)
        return name + "!" * keep_image

    def embed_regions(self, features: Any, regions: Any, weighting: Any = None) -> torch.Tensor:
        """Not used by the model itself."""
        raise NotImplementedError

    def embed_text(self, texts: Any) -> torch.Tensor:
        """Not used."""
        raise NotImplementedError

    def caption_many(
        self, items: Any, *, weighting: Any = None, options: Any = None, crop: bool = False
    ) -> list[list[Said]]:
        """One caption per region; a region at (13, 13) is one of which the model sees nothing."""
        answers = []
        for features, regions in items:
            answers.append([self._say(features, region, weighting, crop) for region in regions])
        return answers

    def _say(self, features: Any, region: Any, weighting: Any, crop: bool) -> Said:
        if getattr(region, "x1", None) == 13:
            raise RegionError(f"{region!r} is off the view")
        self.captioned += 1
        number = sum(map(ord, f"{features}{region!r}"))
        kind = "" if weighting is None else f" {weighting.kind}"
        word = WORDS[number % len(WORDS)]
        prefix = "crop of " if crop else ""
        return Said(f"{prefix}a {word} thing{kind} in {features}", -number / 7)


@dataclass
class World:
    """A folder of photos with region sets, and a way to run on it."""

    root: Path
    talker: Talker

    def settings(self, task: str = "region_set", **changes: Any) -> RunSettings:
        values = {
            "data": str(self.root / f"{task}.json"), "images": str(self.root / "photos"),
            "java": "no", "rounds": 20, "batch": 3, **changes,
        }  # fmt: skip
        return RunSettings(task, **values)

    def run(
        self,
        folder: Path,
        *,
        resume: bool = False,
        load: Callable[[str, str], Any] | None = None,
        **changes: Any,
    ) -> Any:
        """Run one task into `folder`; returns its outcome."""
        run = Run("talker", self.settings(**changes), folder)
        (outcome,) = execute([run], load_model=load or (lambda *_: self.talker), resume=resume)
        return outcome


def write_world(root: Path, names: Sequence[str]) -> None:
    """Photos of 40 x 20 pixels and the rows of two tasks: two or three regions for each photo."""
    (root / "photos").mkdir(parents=True)
    sets, annotations, images = {}, [], []
    for index, name in enumerate(names):
        Image.new("RGB", (40, 20), (index * 9 % 255, 30, 60)).save(root / "photos" / f"{name}.jpg")
        boxes = [[1, 2, 10, 12], [20, 2, 30, 12], [5, 5, 35, 15]][: 2 + index % 2]
        sets[name] = {
            f"a {WORDS[(index + i) % 6]} thing\nthing {i} of {name}": [box, [0, 0, 9, 9]]
            for i, box in enumerate(boxes)
        }
        images.append({"id": index, "file_name": f"{name}.jpg"})
        annotations += [
            {"image_id": index, "bbox": box, "caption": f"a {WORDS[(index + i) % 6]} thing"}
            for i, box in enumerate(boxes)
        ]
    (root / "region_set.json").write_text(json.dumps(sets))
    dense = {"images": images, "annotations": annotations}
    (root / "dense.json").write_text(json.dumps(dense))
    (root / "image.json").write_text(json.dumps(dense))


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Eleven photos, 27 region sets; the file names them in another order than the alphabet's."""
    root = tmp_path / "world"
    write_world(root, [f"photo_{(7 * index) % 11:02d}" for index in range(11)])
    return World(root, Talker())
