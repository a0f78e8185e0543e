"""Alignment: the contrast against a plain twin, statistics against numpy, and a projection that learns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from runs.training import alignment
from runs.training.alignment import AlignOptions, PhotoViews, pool_views
from runs.training.steps import read_head, read_projection
from runs.training.teacher import CachedPhoto
from tests.support import randn


def test_info_nce_equals_a_plain_twin() -> None:
    images, texts = randn(4, 6), randn(4, 6, seed=1)

    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(a @ b / (a.norm() * b.norm()))

    total = 0.0
    for i in range(4):
        forward = [math.exp(cosine(images[i], texts[j]) / 0.1) for j in range(4)]
        backward = [math.exp(cosine(images[j], texts[i]) / 0.1) for j in range(4)]
        total -= math.log(forward[i] / sum(forward)) + math.log(backward[i] / sum(backward))
    assert float(alignment.info_nce(images, texts, 0.1)) == pytest.approx(total / 8, rel=1e-4)


def photos(count: int = 5) -> list[CachedPhoto]:
    torch.manual_seed(1)
    made = []
    for index in range(count):
        rows = 2 + index % 2
        attention = torch.rand(2, rows, 3)
        tokens = torch.randn(rows, 3, 8) * 2 + 1
        made.append(CachedPhoto(str(index), tokens.half(), torch.randn(8).half(), attention.half()))
    return made


def test_views_are_the_mean_and_one_pooling_per_head() -> None:
    views, head = pool_views(iter(photos()))
    assert views.patches.shape == (5, 3, 8)
    for view, photo in zip(views.patches.numpy(), photos(), strict=True):
        tokens = photo.tokens.float().numpy().reshape(-1, 8)
        np.testing.assert_allclose(view[0], tokens.mean(0), rtol=1e-4, atol=1e-5)
        for pooled, weights in zip(view[1:], photo.attention.float().numpy(), strict=True):
            expected = np.average(tokens, axis=0, weights=weights.ravel())
            np.testing.assert_allclose(pooled, expected, rtol=1e-4, atol=1e-5)
    every = np.concatenate([p.tokens.float().numpy().reshape(-1, 8) for p in photos()])
    cls = np.stack([p.cls.float().numpy() for p in photos()])
    for found, expected in (
        (head.patch_mean, every.mean(0)), (head.patch_inverse_std, 1 / every.std(0)),
        (head.cls_mean, cls.mean(0)), (head.cls_inverse_std, 1 / cls.std(0, ddof=1)),
    ):  # fmt: skip
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_context_is_added_to_the_unit_embedding() -> None:
    patches, cls = torch.tensor([[0.0, 2.0]]), torch.tensor([[3.0, 0.0]])
    for context, weight, due in ((cls, 0.5, 0.5), (None, 0.5, 0.0), (cls, 0.0, 0.0)):
        assert alignment.mix_context(patches, context, weight).tolist() == [[due, 1.0]]


def test_the_projection_learns_a_linear_map_and_survives_its_file() -> None:
    torch.manual_seed(0)
    sentences = F.normalize(torch.randn(128, 12), dim=1)
    images = sentences[::2] @ torch.randn(12, 8)
    views = PhotoViews(images[:, None].repeat(1, 2, 1), torch.randn(64, 8))
    head = pool_views(photos())[1]
    captions_of = [torch.tensor([2 * row, 2 * row]) for row in range(64)]
    how: Any = {"epochs": 30, "batch": 32, "learning_rate": 1e-2, "hidden": 32}
    options = AlignOptions(**how, dropout=0.0, context=0.0, noise=0.0)
    data = views, head, sentences, captions_of
    projection = alignment.train_projection(*data, options)
    with torch.no_grad():
        texts = F.normalize(projection(sentences[::2]), dim=1)
        found = (texts @ F.normalize(head(images, None)[0], dim=1).T).argmax(1)
    assert (found == torch.arange(64)).float().mean() > 0.9
    again = alignment.train_projection(*data, options)
    assert torch.equal(again.project_in.weight, projection.project_in.weight)

    tensors = {f"head.{k}": v for k, v in head.state_dict().items()}
    tensors |= {f"projection.{k}": v for k, v in projection.state_dict().items()}
    assert torch.equal(read_head(tensors).patch_mean, head.patch_mean)
    with torch.no_grad():
        torch.testing.assert_close(read_projection(tensors)(sentences), projection(sentences))
