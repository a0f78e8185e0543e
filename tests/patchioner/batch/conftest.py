"""A tiny model, in memory and on disk, and a folder of photos."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from patchioner import Patchioner
from tests.support.tiny import noise_photo, tiny_parts


@pytest.fixture(scope="session")
def model() -> Patchioner:
    return Patchioner(tiny_parts(), device="cpu")


@pytest.fixture(scope="session")
def checkpoint(model: Patchioner, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    model.save_pretrained(folder, storage="fp32")
    return str(folder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six photos of 96 x 64, two of them the same, one below; what is none; COCO annotations beside the folder."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name, seed in (("a", 0), ("b", 1), ("c", 2), ("sub/a", 3), ("sub/d", 1), ("e", 4)):
        noise_photo(seed=seed).save(folder / f"{name}.png")
    (folder / "._a.png").write_bytes(b"macOS")
    (folder / "notes.txt").write_text("no photo")
    names = ("a.png", "b.png", "c.png", "sub/a.png", "sub/d.png", "e.png")
    images = [
        {"id": place, "file_name": name, "width": 96, "height": 64}
        for place, name in enumerate(names)
    ]
    boxes = [
        {"id": 10 * image + n, "image_id": image, "category_id": 1, "bbox": [5 * n, 4, 40, 30],
         "iscrowd": 0, "rater": "née"}
        for image in range(5) for n in range(3)
    ]  # fmt: skip
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    return folder
