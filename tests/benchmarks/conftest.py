"""A tiny data folder and a model of a few lines, in place of photos and networks.

The "photos" are small single-colour pictures whose left and right halves differ; the model sees the
mean colour of a region and says its name, so every right answer is known beforehand.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

COLOURS = {
    "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0),
    "cyan": (0, 255, 255), "white": (255, 255, 255),
}  # fmt: skip
HALVES = {1: ("red", "green"), 2: ("blue", "yellow"), 3: ("cyan", "green")}
SIZE = (40, 20)


@dataclass(frozen=True)
class Said:
    """Stands for `patchioner.Caption`."""

    text: str


class ColourModel:
    """Embeds a region as its mean colour and captions it "a <nearest colour> thing here"."""

    def __init__(self) -> None:
        """Nothing asked yet."""
        self.encoded: list[str] = []
        self.settings: list[tuple[Any, Any]] = []

    def encode(self, images: Any) -> torch.Tensor:
        """Colours of the left and the right half, (2, 3)."""
        self.encoded.append(Path(images).name)
        with Image.open(images) as image:
            small = image.convert("RGB").resize((2, 1), Image.Resampling.BOX)
        left, right = small.getpixel((0, 0)), small.getpixel((1, 0))
        return torch.tensor([left, right], dtype=torch.float32)

    def embed_regions(
        self, features: torch.Tensor, regions: Any, weighting: Any = None
    ) -> torch.Tensor:
        """Mean colour of the halves that a region lies in."""
        return torch.stack([_share(region) @ features for region in regions])

    def embed_text(self, texts: Any) -> torch.Tensor:
        """Mean of the colours that a text names."""
        rows = []
        for text in texts:
            named = [COLOURS[word] for word in text.split() if word in COLOURS]
            rows.append(torch.tensor(named, dtype=torch.float32).mean(dim=0))
        return torch.stack(rows)

    def caption_many(self, items: Any, *, weighting: Any = None, options: Any = None) -> Any:
        """One caption per region of each (features, regions) item."""
        self.settings.append((weighting, options))
        names = list(COLOURS)
        table = torch.nn.functional.normalize(self.embed_text(names), dim=1)
        return [
            [
                Said(f"a {names[int(index)]} thing here")
                for index in (self.embed_regions(features, regions) @ table.T).argmax(dim=1)
            ]
            for features, regions in items
        ]


def _share(region: Any) -> torch.Tensor:
    kind = type(region).__name__
    if kind == "WholeImage":
        return torch.tensor([0.5, 0.5])
    if kind == "RegionSet":
        return torch.stack([_share(member) for member in region.members]).mean(dim=0)
    if kind == "Trace":
        centre = sum(x for x, _ in region.points) / len(region.points) * SIZE[0]
    else:
        centre = (region.x1 + region.x2) / 2
    return torch.tensor([1.0, 0.0] if centre < SIZE[0] / 2 else [0.0, 1.0])


@pytest.fixture
def colour_model() -> ColourModel:
    """The stand-in for a captioner."""
    return ColourModel()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with three photos in the documented layout."""
    root = tmp_path / "data"
    (root / "annotations").mkdir(parents=True)
    (root / "photos").mkdir()
    for key, halves in HALVES.items():
        picture = Image.new("RGB", SIZE, COLOURS[halves[0]])
        picture.paste(COLOURS[halves[1]], (SIZE[0] // 2, 0, *SIZE))
        picture.save(root / "photos" / f"{key:012d}.jpg", quality=100, subsampling=0)
    for name, content in _annotations().items():
        (root / "annotations" / name).write_text(json.dumps(content))
    return root


def _annotations() -> dict[str, Any]:
    left, right = [2, 2, 18, 18], [22.0, 2.0, 38.0, 18.0]
    images = [{"id": key, "file_name": f"{key:012d}.jpg"} for key in HALVES]
    sides = (left, right)
    tiny, person = {"xyxy": [0, 0, 2, 2], "name": "red"}, {"xyxy": left, "name": "person"}
    return {
        "image_captions_dev.json": {
            "images": images,
            "annotations": [
                {"image_id": key, "caption": f"{start} {' '.join(halves)} thing here"}
                for key, halves in HALVES.items()
                for start in ("a", "the")
            ],
        },
        "region_sets_dev.json": {
            str(key): {
                f"a {halves[0]} thing here\nsome {halves[0]} thing": [left],
                f"a {halves[1]} thing here": [right, [24, 4, 36, 16]],
            }
            for key, halves in HALVES.items()
        },
        "traces_dev.json": {
            str(key): {
                "captions": [f"a {halves[0]} thing here", f"a {halves[1]} thing here"],
                "traces": [
                    [{"x": 0.1, "y": 0.2, "t": 0.0}, {"x": 0.3, "y": 0.2, "t": 0.1}],
                    [{"x": 0.7, "y": 0.9, "t": 0.0}],
                ],
            }
            for key, halves in HALVES.items()
        },
        "class_boxes_dev.json": [
            {
                "file_name": f"{key:012d}.jpg",
                "image_id": key,
                "boxes": [
                    *(
                        {"xyxy": side, "name": name}
                        for side, name in zip(sides, halves, strict=True)
                    ),
                    tiny,
                    person,
                ],
            }
            for key, halves in HALVES.items()
        ],  # fmt: skip
        "instances_dev.json": {
            "categories": [{"id": i, "name": name} for i, name in enumerate(COLOURS)][::-1]
        },
        "dense_refcocos_dev.json": {
            "images": images,
            "annotations": [
                {"image_id": 1, "bbox": left, "caption": "the red half"},
                {"image_id": 1, "bbox": left, "caption": "red side"},
                {"image_id": 2, "bbox": right, "caption": "yellow"},
            ],
        },
    }
