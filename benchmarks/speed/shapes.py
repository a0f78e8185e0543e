"""The sizes that suites are run at, and a whole random model of such a size.

Knows: published and tiny shapes; weights from a seed, made so that tokens tell patches apart, captions tell regions
apart, and captions end nowhere or where COCO's do; a bank written in blocks. Does NOT know clocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from benchmarks.speed.weights import random_decoder, spread_backbone
from decoders import PrefixGPT2Decoder
from memory_bank import MemoryBank, Precision
from patchioner.backbones import Backbone, TimmViT
from patchioner.base.errors import MemoryBankError
from patchioner.checkpoints.config import read_model_config
from patchioner.geometry import Preprocessing

_CONFIGS = Path(__file__).resolve().parents[2] / "configs"
_BLOCK = 65536
RAW_ROWS, BANK = "rows.npy", "bank"
_ROUNDED: tuple[Precision, ...] = ("float16", "int8")


@dataclass(frozen=True)
class Shapes:
    """Sizes of everything.

    Attributes:
        rows: of the bank.
        dim: width of tokens, bank and decoder's input.
        layers, width, heads, vocabulary: of the decoder; a vocabulary of None is that of a tokenizer trained on the
            spot.
        config: file of the backbone in configs/; None is timm's own tiny test model.
        counts: numbers of boxes, the last but one the one whose memory and breakdown are shown.
        decoded: rows of the decoder alone.
        projected: queries of the bank alone, few and many.
    """

    rows: int
    dim: int
    layers: int
    width: int
    heads: int
    vocabulary: int | None
    config: str | None
    counts: tuple[int, ...]
    decoded: int
    projected: tuple[int, int]

    @property
    def breakdown(self) -> int:
        """The number of boxes whose memory and breakdown are shown."""
        return self.counts[-2]


SHAPES = {
    "published": Shapes(
        591_753, 768, 4, 768, 4, 50257, "dinov2-vitb14-reg", (1, 10, 100, 1000), 100, (1, 100)
    ),
    "tiny": Shapes(300, 64, 2, 32, 4, None, None, (1, 5, 9, 13), 9, (1, 9)),
}
"""By the names of `--shapes`. "tiny" is for tests: its timings say nothing."""


def build_random_backbone(shapes: Shapes, *, seed: int = 0) -> TimmViT:
    """The backbone with random weights whose patch tokens differ from one another."""
    backbone: Any
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if shapes.config is None:
            backbone = TimmViT("test_vit", Preprocessing("stretch", 80, 16))
        else:
            read = read_model_config(_CONFIGS / f"{shapes.config}.yaml")
            settings = {**read.backbone, "weights": "random"}
            backbone = replace(read, backbone=settings).make_backbone()
        spread_backbone(backbone.vit)
    return _a_timm_vit(backbone)


def _a_timm_vit(backbone: Backbone) -> TimmViT:
    assert isinstance(backbone, TimmViT), "the published backbone is one of timm's"
    return backbone


def build_random_decoder(shapes: Shapes, *, ends: bool = False, seed: int = 0) -> PrefixGPT2Decoder:
    """The decoder with random weights.

    Args:
        shapes: its sizes.
        ends: captions end after about 12 tokens, as COCO's do; otherwise never.
        seed: of the weights; those of both kinds are the same but for what ends a caption.
    """
    return random_decoder(
        embedding_dim=shapes.dim,
        layers=shapes.layers,
        width=shapes.width,
        heads=shapes.heads,
        vocabulary=shapes.vocabulary,
        ends=ends,
        seed=seed,
    )


def write_bank(shapes: Shapes, folder: Path, *, seed: int = 0) -> None:
    """Write random rows, raw for the published way (`RAW_ROWS`) and as banks of ours (`BANK`), unless they are there.

    Each precision has a bank of its own, so that all are mapped and none is converted where memory is measured.
    Rows are Gaussian, of lengths that differ as those of Talk2DINO do (long rows weigh more in a projection).
    Made in blocks: nothing larger than one block is held, but the bank that is saved.
    """
    there = _holds_bank(folder / BANK) and _rows_of(folder / RAW_ROWS) == shapes.rows
    if not there:
        _write_rows(shapes, folder, seed)
    for precision in _ROUNDED:
        place = bank_folder(folder, precision)
        if not (there and _holds_bank(place)):
            MemoryBank.load(folder / BANK).save(place, dtype=precision)


def bank_folder(folder: Path, precision: str) -> Path:
    """Where the bank with rows of this precision is.

    Example:
        >>> bank_folder(Path("work"), "float16").name
        'bank-float16'
    """
    return folder / (BANK if precision == "float32" else f"{BANK}-{precision}")


def _holds_bank(folder: Path) -> bool:
    return (folder / "bank.json").is_file()


def _write_rows(shapes: Shapes, folder: Path, seed: int) -> None:
    raw = folder / RAW_ROWS
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    held = open_memmap(raw, mode="w+", dtype=np.float32, shape=(shapes.rows, shapes.dim))
    for start in range(0, shapes.rows, _BLOCK):
        rows = torch.randn(min(_BLOCK, shapes.rows - start), shapes.dim, generator=generator)
        lengths = 0.5 + torch.rand(len(rows), 1, generator=generator)
        held[start : start + len(rows)] = (rows * lengths).numpy()
    held.flush()
    MemoryBank(torch.from_numpy(held)).save(folder / BANK, dtype="float32")


def _rows_of(path: Path) -> int:
    return len(np.load(path, mmap_mode="r")) if path.is_file() else 0


def read_raw_rows(folder: Path) -> Tensor:
    """The raw rows (N, dim) float32, read into memory as the published system reads its bank."""
    return torch.from_numpy(np.load(folder / RAW_ROWS))


def read_bank(folder: Path, precision: str = "float32") -> MemoryBank:
    """Our bank of the same rows in this precision, mapped from its file as a checkpoint's is.

    Raises:
        MemoryBankError: it is not there.
    """
    place = bank_folder(folder, precision)
    if not place.is_dir():
        raise MemoryBankError(
            f"{folder} holds no bank of {precision} rows: run the suite without --child, which makes it"
        )
    return MemoryBank.load(place)
