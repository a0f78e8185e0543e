import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from patchioner.batch import Reading, read_rows
from tests.support.tiny import noise_photo

BOX = [5, 4, 45, 34]
NAMES = ("a.png", "b.png", "c.png", "sub/a.png", "sub/d.png", "e.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six photos of 96 x 64, two of them the same; what is none; COCO annotations of five beside the folder."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name, seed in zip(NAMES, (0, 1, 2, 3, 1, 4), strict=True):
        noise_photo(seed=seed).save(folder / name)
    (folder / "._a.png").write_bytes(b"macOS")
    (folder / "notes.txt").write_text("no photo")
    shutil.copy(Path(__file__).with_name("cases") / "sources" / "coco.json", tmp_path)
    return folder


@pytest.fixture
def given(photos: Path) -> dict[str, Any]:
    return {"reading": Reading(str(photos.parent / "coco.json")), "shards": 3}


def lines(out: Path) -> list[str]:
    return sorted(json.dumps(row.to_dict()) for row in read_rows(out))
