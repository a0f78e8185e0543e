"""CLIP-S and its kin over predictions, with a stand-in for CLIP whose space is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.metrics.clip_space import ClipSpace
from benchmarks.runner import read_predictions
from benchmarks.runner.clip_scores import draw_region, load_space
from patchioner.base.errors import OptionError, PatchionerError


class Space:
    """Images by how red they are, texts by how long."""

    def __init__(self) -> None:
        self.images: list[Image.Image] = []

    def embed_images(self, images: Sequence[Image.Image]) -> Any:
        self.images += images
        return np.array([[1.0, np.asarray(image)[..., 0].mean() / 255] for image in images])

    def embed_text(self, texts: Sequence[str]) -> Any:
        assert all(text.startswith("A photo depicts ") for text in texts)
        return np.array([[1.0, len(text) / 50] for text in texts])


def cosine(left: Any, right: Any) -> float:
    return float(np.dot(left, right) / np.linalg.norm(left) / np.linalg.norm(right))


def test_scores(world: Any, tmp_path: Path, monkeypatch: Any) -> None:
    space = Space()
    monkeypatch.setattr(ClipSpace, "load", lambda *_, **__: space)
    results = world.run(tmp_path, clip_score="B32=w.pt", pac_score="B32=p.pt").results
    scores = {key: values[0] for key, values in results["samples"]["scores"].items()}
    first = read_predictions(tmp_path / "predictions.jsonl")[0]
    image, text = space.embed_images(space.images[:1])[0], f"A photo depicts {first.caption}"
    fit = cosine(image, space.embed_text([text])[0])
    near = max(
        cosine(space.embed_text([text])[0], space.embed_text([f"A photo depicts {other}"])[0])
        for other in first.references
    )
    assert scores["clip_s"] == pytest.approx(250 * fit, abs=1e-5)
    assert scores["pac_s"] == pytest.approx(200 * fit, abs=1e-5)
    assert scores["clip_text_cosine"] == pytest.approx(100 * near, abs=1e-5)
    harmonic = 2 / (1 / (200 * fit) + 1 / (100 * near))
    assert scores["ref_pac_s"] == pytest.approx(harmonic, abs=1e-5)
    assert results["metrics"]["clip_s"]["interval"] is not None
    assert "B32=w.pt" in results["metrics"]["clip_s"]["made"]


def test_regions_are_drawn_in_red() -> None:
    photo = Image.new("RGB", (200, 100))
    red, black = (255, 0, 0), (0, 0, 0)
    boxes = draw_region(photo, {"set": [{"box": [10, 10, 50, 50]}, {"box": [60, 10, 90, 50]}]})
    assert [boxes.getpixel(at) for at in ((10, 30), (60, 30), (30, 30))] == [red, red, black]
    trace = draw_region(photo, {"trace": [[0.1, 0.5], [0.9, 0.5]], "normalized": True})
    assert [trace.getpixel(at) for at in ((100, 50), (100, 20))] == [red, black]
    assert draw_region(photo, {"trace": [[5, 5]]}).getpixel((5, 5)) == red
    assert draw_region(photo, {"whole": True}).tobytes() == photo.tobytes()
    assert photo.getpixel((10, 30)) == black, "the photo itself is not drawn on"


@pytest.mark.parametrize("given", ["ViT-B-32", "=file.pt", "ViT-B-32="])
def test_a_space_needs_architecture_and_file(given: str) -> None:
    with pytest.raises(OptionError, match="ARCHITECTURE=FILE"):
        load_space(given, "cpu")


def test_without_weights_the_error_is_clear(world: Any, tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    with pytest.raises(PatchionerError, match="is missing"):
        world.run(tmp_path, clip_score=f"ViT-B-32-quickgelu={tmp_path / 'none.pt'}")
