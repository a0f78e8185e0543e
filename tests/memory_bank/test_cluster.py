"""Shards embedded by two workers of a local Ray, one of which dies."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from memory_bank.build import Embed, embed_on_ray, embed_texts, shard_path
from patchioner.base.errors import MemoryBankError

ray = pytest.importorskip("ray", reason="Ray is not installed")
TEXTS = [f"caption number {number}" for number in range(10)]


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    here: dict[str, Any] = {"env_vars": {"PYTHONPATH": str(Path(__file__).parents[2])}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=here)
    yield
    ray.shutdown()


def encode(texts: Sequence[str]) -> Tensor:
    return torch.tensor([[len(text), ord(text[-1]), 1.0] for text in texts])


def dying(marker: Path) -> Embed:
    """An encoder whose process dies at the first shard of all."""

    def embed(texts: Sequence[str]) -> Tensor:
        if not marker.exists():
            marker.touch()
            os._exit(1)
        return encode(texts)

    return embed


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_missing_shards_are_those_of_one_process(tmp_path: Path) -> None:
    here, there, marker = tmp_path / "here", tmp_path / "there", tmp_path / "died"
    embed_texts(encode, TEXTS, here, shard=3)
    there.mkdir()
    shard_path(there, 3).write_bytes(shard_path(here, 3).read_bytes())
    embed_on_ray(partial(dying, marker), TEXTS, there, shard=3, workers=2)
    assert marker.exists() and contents(there) == contents(here)


def test_an_encoder_that_fails_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(MemoryBankError, match="one row each"):
        embed_on_ray(lambda: lambda texts: encode(texts)[1:], TEXTS, tmp_path, shard=3, workers=1)
