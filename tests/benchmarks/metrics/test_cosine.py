"""Cosine scores by hand, what is refused, and a tiny open_clip model saved and loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.metrics.cosine import (
    ClipSpace,
    best_reference_cosine,
    image_score,
    unit_rows,
    with_references,
)
from patchioner.base.errors import CheckpointError, OptionError, UnknownNameError

SPACE = {"up": [0.0, 2.0], "right": [5.0, 0.0], "between": [3.0, 4.0], "down": [0.0, -1.0]}


def embed(texts: Sequence[str]) -> list[list[float]]:
    return [SPACE[text.removeprefix("A photo depicts ")] for text in texts]


def test_image_scores_by_hand() -> None:
    """cos 0.6, and an opposite that counts zero."""
    images, captions = [[1.0, 0.0], [1.0, 0.0]], [[3.0, 4.0], [-1.0, 0.0]]
    assert image_score(images, captions)[1] == pytest.approx([150.0, 0.0])
    assert image_score(images, captions, "pac")[1] == pytest.approx([120.0, 0.0])
    assert image_score(images, captions)[0] == pytest.approx(75.0)


def test_tensors_are_taken() -> None:
    images = torch.tensor([[2.0, 0.0]], requires_grad=True)
    assert image_score(images, torch.tensor([[1.0, 0.0]], dtype=torch.float16))[0] == pytest.approx(
        250
    )


def test_column_p_is_the_best_cosine() -> None:
    mean, scores = best_reference_cosine(
        ["up", "up", "up"], [["right", "between"], ["down"], ["up"]], embed
    )
    assert scores == pytest.approx([80.0, -100.0, 100.0])
    assert mean == pytest.approx(80 / 3)


def test_each_text_is_embedded_once_with_the_prompt() -> None:
    asked: list[str] = []

    def watch(texts: Sequence[str]) -> list[list[float]]:
        asked.extend(texts)
        return embed(texts)

    best_reference_cosine(["up", "up"], [["up", "right"], ["right"]], watch)
    assert asked == ["A photo depicts up", "A photo depicts right"]
    asked.clear()
    best_reference_cosine(["up"], [["right"]], watch, prompt="")
    assert asked == ["up", "right"]


def test_harmonic_mean_by_hand() -> None:
    """2 * 150 * 50 / 200 = 75; zero or below on either side: zero."""
    mean, scores = with_references([150.0, 0.0, 80.0, 0.0], [50.0, 50.0, -10.0, 0.0])
    assert scores.tolist() == [75.0, 0.0, 0.0, 0.0]
    assert mean == 18.75


def test_column_p_is_not_refpac_s() -> None:
    """What the published table calls RefPAC-S leaves the image out."""
    images, captions = np.array([[1.0, 0.0]]), np.array(embed(["between"]))
    column, cosines = best_reference_cosine(["between"], [["up"]], embed)
    true_score, _ = with_references(image_score(images, captions, "pac")[1], cosines)
    assert column == pytest.approx(80.0)
    assert true_score == pytest.approx(2 * 120 * 80 / 200)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([1.0], "shape"),
        (np.zeros((0, 3)), "shape"),
        ([[1.0], [0.0]], "vector 1"),
        ([[math.nan]], "vector 0"),
    ],
)
def test_rows_without_direction(rows: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        unit_rows(rows, "vector")


def test_shapes_that_do_not_pair() -> None:
    with pytest.raises(OptionError, match="of one width"):
        image_score([[1.0, 0.0]], [[1.0]])
    with pytest.raises(OptionError, match="one of each per sample"):
        with_references([1.0], [1.0, 2.0])
    with pytest.raises(OptionError, match="not finite"):
        with_references([math.nan], [1.0])
    with pytest.raises(OptionError, match="1 rows for 2 texts"):
        best_reference_cosine(["a"], [["b"]], lambda texts: [[1.0]])


open_clip = pytest.importorskip("open_clip")

TINY = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny CLIP, whose architecture open_clip has been told of."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "patchioner-test-tiny.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    model = open_clip.create_model("patchioner-test-tiny")
    torch.save(model.state_dict(), folder / "weights.pt")
    return folder / "weights.pt"


def test_space_load_and_embed(tiny: Path) -> None:
    space = ClipSpace.load("patchioner-test-tiny", tiny)
    texts = [f"A photo depicts {word}" for word in ("a dog", "a red bus", "two men")]
    images = [Image.new("L", (30, 20), shade) for shade in (0, 100, 250)]
    for found in (space.embed_text(texts), space.embed_images(images)):
        assert found.shape == (3, 8)
        assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    small = ClipSpace(space.model, space.tokenizer, space.preprocess, batch=2)
    assert small.embed_text(texts) == pytest.approx(space.embed_text(texts), abs=1e-5)
    assert small.embed_images(images) == pytest.approx(space.embed_images(images), abs=1e-5)


def test_space_without_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing is downloaded"):
        ClipSpace.load("ViT-B-32-quickgelu", tmp_path / "missing.pt")


def test_space_unknown_architecture(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean"):
        ClipSpace.load("ViT-B-32-quickgel", tmp_path)


def test_space_weights_of_another_network(tiny: Path, tmp_path: Path) -> None:
    torch.save({"logit_scale": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="does not fit patchioner-test-tiny"):
        ClipSpace.load("patchioner-test-tiny", tmp_path / "other.pt")
