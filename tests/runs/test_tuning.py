"""Tuning the backbone: resumed runs end where uninterrupted ones do, and the loss does go down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from patchioner.backbones import TimmViT
from patchioner.backbones.vit import StandardiseHead
from runs.training import tuning
from runs.training.tuning import TuneData, TuneOptions, tune
from tests.support.tiny import DIM, noise_photo, tiny_backbone

OPTIONS = TuneOptions(
    epochs=2.0, batch=2, sizes=(32, 48), learning_rate=1e-3, warmup=1, checkpoint_every=1, seed=3
)


@pytest.fixture(scope="module")
def data() -> TuneData:
    photos = [noise_photo(64, 48, seed) for seed in range(3)] + [noise_photo(48, 64, 9)]
    backbone = tiny_backbone(7)
    teacher = [features.tokens.half() for features in backbone.encode(photos)]
    captions = F.normalize(torch.randn(7, DIM, generator=torch.Generator().manual_seed(0)), dim=1)
    return TuneData(photos, teacher, captions, torch.tensor([0, 0, 1, 1, 2, 3, 3]))


def run(data: TuneData, options: TuneOptions, folder: Path) -> dict[str, Tensor]:
    backbone, head = tiny_backbone(), StandardiseHead(DIM)
    tune(backbone, head, data, options, folder)
    return {name: tensor.clone() for name, tensor in backbone.vit.state_dict().items()}


def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(
    data: TuneData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(data, OPTIONS, tmp_path / "whole")
    module: Any = tuning
    save, saved = module.save_training, list[str]()

    def save_then_die(*arguments: Any, **more: Any) -> None:
        save(*arguments, **more)
        saved.append("a step")
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tuning, "save_training", save_then_die)
        run(data, OPTIONS, tmp_path / "cut")
    for _ in range(2):  # what is finished is not run again
        found = run(data, OPTIONS, tmp_path / "cut")
        assert all(torch.equal(whole[name], found[name]) for name in whole)
    fresh = tiny_backbone().vit.state_dict()
    assert any(not torch.equal(whole[name], fresh[name]) for name in whole)


def contrast_of(backbone: TimmViT, data: TuneData) -> float:
    """Mean cosine of each photo with its own captions, less that with the others'."""
    photos = torch.stack([f.tokens.mean((0, 1)) for f in backbone.encode(data.photos)])
    cosines = F.normalize(photos, dim=1) @ data.captions.T
    own = data.owner[None] == torch.arange(len(photos))[:, None]
    return float(cosines[own].mean() - cosines[~own].mean())


def test_tuning_pulls_photos_towards_their_captions(data: TuneData, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    backbone.head = StandardiseHead(DIM)
    before = contrast_of(backbone, data)
    options = replace(OPTIONS, epochs=8, contrast=1.0, context=0.0, sizes=(64,))
    tune(backbone, backbone.head, data, options, tmp_path)
    assert contrast_of(backbone, data) > before + 0.1
    assert not backbone.vit.training
