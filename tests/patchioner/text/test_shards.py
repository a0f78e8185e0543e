"""Shards: the same numbers as in one go, read again instead of computed again, refused when damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from patchioner.base.errors import CheckpointError
from patchioner.text.shards import embed_texts
from tests.support.tiny import TEXTS, tiny_tower


class Counting:
    """A tower that counts the texts it embeds, and may be killed."""

    def __init__(self, most: int = 1000) -> None:
        self.tower, self.seen, self.most = tiny_tower(), 0, most

    @property
    def dim(self) -> int:
        return self.tower.dim

    def encode(self, texts: list[str], *, batch: int = 256) -> Tensor:
        self.seen += len(texts)
        if self.seen > self.most:
            raise KeyboardInterrupt
        return self.tower.encode(texts, batch=batch)


def test_shards_are_the_unit_embeddings_in_half_precision(tmp_path: Path) -> None:
    plain = F.normalize(tiny_tower().encode(TEXTS), dim=1)
    found = embed_texts(tiny_tower(), TEXTS, tmp_path, shard=7)
    assert torch.equal(found, found.half().float())
    # Half a unit in the last place of float16, and the last bits that vary with the batch.
    torch.testing.assert_close(found, plain, rtol=2**-11 + 1e-5, atol=1e-6)


def test_a_killed_run_embeds_only_the_rest(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        embed_texts(Counting(most=20), TEXTS, tmp_path, shard=8)
    rest = Counting()
    found = embed_texts(rest, TEXTS, tmp_path, shard=8)
    assert rest.seen == len(TEXTS) - 16
    assert torch.equal(found, embed_texts(tiny_tower(), TEXTS, tmp_path / "whole", shard=8))


def test_damaged_and_foreign_shards_are_refused_by_name(tmp_path: Path) -> None:
    embed_texts(tiny_tower(), TEXTS, tmp_path, shard=8)
    with pytest.raises(CheckpointError, match="000000000.safetensors"):
        embed_texts(tiny_tower(), TEXTS, tmp_path, shard=9)
    path = tmp_path / "000000008.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="000000008.safetensors"):
        embed_texts(tiny_tower(), TEXTS, tmp_path, shard=8)
