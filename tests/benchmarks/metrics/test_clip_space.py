"""The space of an open_clip model: batches, and errors without weights. A tiny one is saved and loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.metrics.clip_space import ClipSpace
from patchioner.base.errors import CheckpointError, UnknownNameError

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


def test_load_and_embed(tiny: Path) -> None:
    space = ClipSpace.load("patchioner-test-tiny", tiny)
    texts = [f"A photo depicts {word}" for word in ("a dog", "a red bus", "two men")]
    images = [Image.new("L", (30, 20), shade) for shade in (0, 100, 250)]
    for found in (space.embed_text(texts), space.embed_images(images)):
        assert found.shape == (3, 8)
        assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    small = ClipSpace(space.model, space.tokenizer, space.preprocess, batch=2)
    assert small.embed_text(texts) == pytest.approx(space.embed_text(texts), abs=1e-5)
    assert small.embed_images(images) == pytest.approx(space.embed_images(images), abs=1e-5)


def test_without_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing is downloaded"):
        ClipSpace.load("ViT-B-32-quickgelu", tmp_path / "missing.pt")


def test_unknown_architecture(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean"):
        ClipSpace.load("ViT-B-32-quickgel", tmp_path)


def test_weights_of_another_network(tiny: Path, tmp_path: Path) -> None:
    torch.save({"logit_scale": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="does not fit patchioner-test-tiny"):
        ClipSpace.load("patchioner-test-tiny", tmp_path / "other.pt")
