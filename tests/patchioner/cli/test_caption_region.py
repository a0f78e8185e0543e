"""The script that people copy: short, and it works."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import patchioner

SCRIPT = Path(__file__).resolve().parents[3] / "caption_region.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with a model that names the region it is given."""

    def caption(features: Any, regions: list[Any]) -> list[SimpleNamespace]:
        for region in regions:
            region.patch_weights(features.geometry)
        return [SimpleNamespace(text=f"a {type(region).__name__}") for region in regions]

    def encode(path: str) -> Any:
        from patchioner.geometry import fit_image
        from patchioner.images import load_image

        size = load_image(path).size
        return SimpleNamespace(geometry=fit_image(size, mode="pad", size=56, patch_size=14))

    model = SimpleNamespace(encode=encode, caption=caption)
    fake = SimpleNamespace(from_pretrained=lambda name: model)
    monkeypatch.setattr(patchioner, "Patchioner", fake, raising=False)
    specification = importlib.util.spec_from_file_location("caption_region", SCRIPT)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: object) -> Any:
    monkeypatch.setattr(sys, "argv", ["caption_region.py", *map(str, words)])
    return script.main()


def test_it_is_short() -> None:
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) < 60


def test_it_captions_each_kind_of_region(
    script: ModuleType,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mask = photo.parent / "mask.png"
    Image.fromarray(np.full((60, 80), 255, dtype=np.uint8)).save(mask)
    for words in ([], ["--box", 1, 2, 30, 40], ["--mask", mask], ["--trace", "1,2", "3,4"]):
        assert _run(script, monkeypatch, photo, *words) == 0
    assert capsys.readouterr().out.split("\n")[:4] == ["a WholeImage", "a Box", "a Mask", "a Trace"]


@pytest.mark.parametrize("words", [["--box", 90, 90, 99, 99], ["--trace", "500,500"]])
def test_bad_regions_are_one_line(
    script: ModuleType, photo: Path, monkeypatch: pytest.MonkeyPatch, words: list[object]
) -> None:
    with pytest.raises(SystemExit, match="error: "):
        _run(script, monkeypatch, photo, *words)
