"""Step 8: put the tuned parts together into a checkpoint, and let its decoder describe the bank's rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from decoders import DecodeOptions, Decoder, load_decoder
from memory_bank import MemoryBank
from patchioner.backbones import TimmViT, preprocess
from patchioner.backbones.vit import StandardiseHead
from patchioner.base.progress import progress
from patchioner.checkpoints.folder import ModelSettings, Parts, write_checkpoint
from patchioner.images import load_image
from patchioner.text import load_tower
from runs.training.alignment import pool_views
from runs.training.settings import RunSettings
from runs.training.teacher import load_teacher
from runs.training.token_cache import CachedPhoto, photo_names


def run(settings: RunSettings) -> None:
    """Write the checkpoint to ``assemble.out``."""
    section = settings.section("assemble")
    backbone = tuned_backbone(settings)
    decoder = load_decoder(settings.work / "decoder")
    bank = MemoryBank.load(settings.work / "memory_bank", memory_map=False)
    parts = Parts(
        backbone=backbone,
        decoder=decoder,
        bank=describe(bank, decoder),
        tower=load_tower(settings.work / "text_tower"),
        settings=ModelSettings.from_json(section["settings"], "assemble.settings"),
    )
    write_checkpoint(parts, settings.root / section["out"], storage=section["storage"])


def tuned_backbone(settings: RunSettings) -> TimmViT:
    """The backbone at the input size it ships with, and a head measured on training photos.

    Its weights lie between those it started from and the tuned ones, at ``assemble.tuned_share`` (WiSE-FT,
    arXiv 2109.01903): the start is better at parts of a photo, the tuned end at whole photos.
    """
    section = settings.section("assemble")
    source = load_teacher(settings, size=int(section["size"]))
    backbone = TimmViT(source.name, source.preprocessing, head={"type": "standardise"})
    tuned = load_file(settings.work / "tune" / "weights.safetensors")
    share = float(section["tuned_share"])
    backbone.vit.load_state_dict(
        {k: torch.lerp(v, tuned[f"module.{k}"], share) for k, v in source.vit.state_dict().items()}
    )
    names = photo_names(settings.data("pairs"))
    chosen = names[:: max(1, len(names) // int(section["statistics_photos"]))]
    head: StandardiseHead = pool_views(_views(backbone, settings.data("photos"), chosen))[1]
    backbone.head.load_state_dict(head.state_dict())
    return backbone


def _views(backbone: TimmViT, folder: Path, names: list[str]) -> Iterator[CachedPhoto]:
    for name in progress(names, description="measuring tokens", unit="photo"):
        pixels, geometry = preprocess(load_image(folder / name), backbone.preprocessing)
        with torch.inference_mode():
            tokens, cls, attention, *_ = backbone.dense(pixels[None], geometry.grid)
        assert cls is not None and attention is not None, "the teacher has a CLS token"
        yield CachedPhoto(name, tokens[0], cls[0], attention[0])


def describe(bank: MemoryBank, decoder: Decoder) -> MemoryBank:
    """The bank with display texts of our own: what the decoder says of each row."""
    texts: list[str] = []
    rows = bank.units().split(256)
    for part in progress(rows, description="describing the bank", unit="batch"):
        texts.extend(answer.text for answer in decoder.generate(part, DecodeOptions()))
    return bank.with_texts(texts)
