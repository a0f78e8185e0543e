import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.metrics import cosine
from benchmarks.metrics.cosine import ClipSpace, best_reference_cosine, image_score, unit_rows
from patchioner.base.errors import CheckpointError, OptionError, UnknownNameError
from tests.support.tiny import clip_architecture


def test_what_is_opposite_counts_zero() -> None:
    """cos 0.6, and an opposite; the harmonic mean of 150 and 50 is 75, and zero with zero or less on either side."""
    images, captions = [[1.0, 0.0], [1.0, 0.0]], [[3.0, 4.0], [-1.0, 0.0]]
    assert image_score(images, captions)[1] == pytest.approx([150.0, 0.0])
    assert image_score(images, captions, "pac")[1] == pytest.approx([120.0, 0.0])
    left, right = np.array([150.0, 0.0, 80.0, 0.0]), np.array([50.0, 50.0, -10.0, 0.0])
    mean, scores = cosine.with_references(left, right)
    assert scores.tolist() == [75.0, 0.0, 0.0, 0.0] and mean == 18.75
    space = {"up": [0.0, 2.0], "right": [5.0, 0.0], "between": [3.0, 4.0], "down": [0.0, -1.0]}
    embed = lambda texts: [space[text.removeprefix(cosine.PROMPT)] for text in texts]  # noqa: E731
    due = [["right", "between"], ["down"], ["up"]]
    assert best_reference_cosine(["up"] * 3, due, embed)[1] == pytest.approx([80.0, -100.0, 100.0])
    for rows, message in (
        ([1.0], "shape"), (np.zeros((0, 3)), "shape"), ([[1.0], [0.0]], "vector 1"), ([[math.nan]], "vector 0"),
    ):  # fmt: skip
        with pytest.raises(OptionError, match=message):
            unit_rows(rows, "vector")


def test_a_space_from_a_file(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    shape = clip_architecture()
    shape["text_cfg"] |= {"context_length": 77, "vocab_size": 49408}  # of its own tokenizer
    (tmp_path / "patchioner-test-tiny.json").write_text(json.dumps(shape))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(0)
    weights = tmp_path / "weights.pt"
    torch.save(open_clip.create_model("patchioner-test-tiny").state_dict(), weights)
    space = ClipSpace.load("patchioner-test-tiny", weights)
    small = ClipSpace(space.model, space.tokenizer, space.preprocess, batch=2)
    texts = [f"A photo depicts {word}" for word in ("a dog", "a red bus", "two men")]
    images = [Image.new("L", (30, 20), shade) for shade in (0, 100, 250)]
    for found, again in (
        (space.embed_text(texts), small.embed_text(texts)),
        (space.embed_images(images), small.embed_images(images)),
    ):
        assert found.shape == (3, 20) and found == pytest.approx(again, abs=1e-5)
        assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    torch.save({"logit_scale": torch.zeros(3)}, tmp_path / "other.pt")
    tiny = "patchioner-test-tiny"
    for name, file, message in (
        (tiny, "other.pt", f"does not fit {tiny}"), (tiny, "missing.pt", r"missing\.pt"),
        ("ViT-B-32-quickgel", "", "did you mean"),
    ):  # fmt: skip
        with pytest.raises((CheckpointError, UnknownNameError), match=message):
            ClipSpace.load(name, tmp_path / file)
