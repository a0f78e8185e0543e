"""Decoders and backbones at their published shapes, with random weights: size and time do not depend on the values.

Knows: how each variant is built, and what one unit of its work is. Does NOT know: clocks, processes, tables.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.speed import make_photo
from decoders import DecodeOptions
from memory_bank import MemoryBank
from patchioner.assembly import read_model_config
from patchioner.backbones import Backbone
from patchioner.base.packed import weights_of
from patchioner.part_builders import build_backbone

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
DIM, VOCABULARY = 768, 50257
REGIONS, TOKENS = 10, 15
GPT2_SMALL: dict[str, Any] = {
    "model_type": "gpt2",
    "vocab_size": VOCABULARY,
}  # else transformers' defaults
BACKBONES = {
    "DINOv2 ViT-S/14 reg, 518": "dinov2-vits14-reg",
    "DINOv2 ViT-B/14 reg, 518": "dinov2-vitb14-reg",
    "DINOv2 ViT-L/14 reg, 518": "dinov2-vitl14-reg",
    "DINOv3 ViT-B/16, 512": "dinov3-vitb16",
    "CLIP ViT-B/16, 224": "clip-vitb16-cls",
    "CLIP ViT-B/16 patches, 592": "clip-vitb16-patch",
    "CLIP ViT-B/16 value path, 448": "clip-vitb16-value",
    "ProxyCLIP B/16 + DINO B/8, 336": "proxyclip-vitb16-dinob8",
    "SigLIP 2 ViT-B/16, 512": "siglip2-vitb16-512",
    "DINO.txt on DINOv2 ViT-L/14, 518": "dinotxt-dinov2-vitl14-reg",
}
"""Names -> files in configs/. The first three of DINOv2 are of the sizes of the published models."""
COUNTED = {"DINOv2 ViT-g/14 reg, 518": "dinov2-vitg14-reg"}
"""Too large to be built here: parameters are counted, nothing is run."""
REFERENCE = "DINOv2 ViT-B/14 reg, 518"


@dataclass(frozen=True)
class Variant:
    """Something that was built.

    Attributes:
        parameters: weights, without a memory bank's rows.
        work: one pass over a photo, or captions of `REGIONS` vectors of `TOKENS` tokens each.
        save: writes it to a folder in half precision, as `save_pretrained` would.
    """

    parameters: int
    work: Callable[[], object]
    save: Callable[[Path], object]


def build_backbone_variant(name: str, folder: Path) -> Variant:
    """A backbone of `BACKBONES`, and a photo of 640 x 480 to see."""
    backbone = random_backbone(BACKBONES[name])
    with Image.open(make_photo(folder / "photo.jpg")) as opened:
        photo = opened.convert("RGB")
    return Variant(
        count(backbone),
        lambda: backbone.encode([photo]),
        lambda out: backbone.save(out, storage="fp16"),
    )


def random_backbone(config: str) -> Backbone:
    """The backbone of a file in configs/, with random weights."""
    read = read_model_config(CONFIGS / f"{config}.yaml")
    return build_backbone(_with_random_weights(read.backbone), read.place)


def _with_random_weights(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a backbone, and of those inside it, with "weights: random"."""
    changed = {
        key: _with_random_weights(value)
        if isinstance(value, Mapping) and "type" in value
        else value
        for key, value in settings.items()
    }
    return {**changed, "weights": "random"} if "weights" in settings else changed


def count(module: nn.Module) -> int:
    """Number of weights; tied ones count once."""
    return sum(weight.numel() for weight in weights_of(module))


def count_only(name: str) -> int:
    """Weights of a backbone of `COUNTED`, without holding them."""
    with torch.device("meta"):
        return count(random_backbone(COUNTED[name]))


def make_bank(rows: int, folder: Path) -> None:
    """A bank of random unit rows with captions, as `patchioner convert` writes one."""
    generator = torch.Generator().manual_seed(0)
    bank = MemoryBank(torch.randn(rows, DIM, generator=generator), captions(rows), dtype="float16")
    bank.save(folder, dtype="float16")


def captions(rows: int) -> list[str]:
    """As many captions with nouns, none twice."""
    colours = ("red", "blue", "green", "small", "old", "wooden")
    things = ("cat", "dog", "bus", "boat", "kite", "chair", "horse", "clock", "pizza", "train")
    return [
        f"a {colours[row % 6]} {things[row // 6 % 10]} near a {things[row // 60 % 10]} number {row}"
        for row in range(rows)
    ]


def build_decoder_variant(kind: str, bank_folder: Path) -> Variant:
    """A published kind of decoder: "decap", "capdec", "viecap" or "meacap", the first and last with the bank."""
    bank = None
    if kind in ("decap", "meacap"):
        size = sum(path.stat().st_size for path in bank_folder.iterdir())
        # As a checkpoint's bank is read: a large one is mapped.
        bank = MemoryBank.load(bank_folder, memory_map=size > 256 * 2**20)
    decoder: Any = _decap() if kind in ("decap", "capdec") else _viecap(kind)
    if bank is not None:
        decoder.remember(bank)
    vectors = torch.randn(REGIONS, DIM, generator=torch.Generator().manual_seed(1))

    def bridged() -> Tensor:
        if kind == "decap" and bank is not None:
            return bank.project(vectors)
        return nn.functional.normalize(vectors, dim=1)

    def save(out: Path) -> None:
        decoder.save(out / "decoder", storage="fp16")
        if bank is not None:
            bank.save(out / "memory_bank", dtype="float16")

    options = DecodeOptions(max_tokens=TOKENS, min_tokens=TOKENS)
    return Variant(count(decoder.module), lambda: decoder.generate(bridged(), options), save)


def _decap() -> Any:
    from decoders import PrefixGPT2Decoder
    from decoders.clip_tokenizer import ClipTokenizer
    from decoders.network import PrefixGPT2, PrefixGPT2Config

    shape = PrefixGPT2Config(
        DIM,
        VOCABULARY,
        layers=4,
        width=768,
        heads=4,
        positions=1024,
        normalize_input=False,
        emit_start=True,
    )
    return PrefixGPT2Decoder(PrefixGPT2(shape), ClipTokenizer.from_open_clip())


def _viecap(kind: str) -> Any:
    from decoders.entities import COCO_ENTITIES
    from decoders.hard_prompts import EntityPrompter
    from decoders.meacap import MeacapDecoder
    from decoders.viecap import ViecapDecoder

    config = GPT2_SMALL | {"bos_token_id": 0, "eos_token_id": 0}
    if kind == "meacap":
        return MeacapDecoder.create(DIM, config, tokenizer())
    rows = torch.randn(len(COCO_ENTITIES), DIM, generator=torch.Generator().manual_seed(2))
    prompter = EntityPrompter(COCO_ENTITIES, rows, threshold=0.4)
    return ViecapDecoder.create(DIM, config, tokenizer(), prompter=prompter)


def tokenizer() -> Any:
    """A stand-in for GPT-2's tokenizer, of as many tokens: bytes, and words that never occur."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from decoders.language_tokenizer import LanguageTokenizer

    end = "<|endoftext|>"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [end, *letters, *(f"word{number}" for number in range(VOCABULARY))][:VOCABULARY]
    made = Tokenizer(models.BPE({word: place for place, word in enumerate(words)}, []))
    made.add_special_tokens([end])
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return LanguageTokenizer(made, end_ids=[0], vocab_size=VOCABULARY)


DECODERS = {
    "DeCap, memory bank": "decap",
    "CapDec, no bank": "capdec",
    "ViECap, GPT-2 small": "viecap",
    "MeaCap, GPT-2 small, memory bank": "meacap",
}


def builder(name: str, folder: Path) -> Callable[[], Variant]:
    """How to build a variant by its name; `folder` holds the bank of `make_bank` and takes a photo."""
    if name in DECODERS:
        return functools.partial(build_decoder_variant, DECODERS[name], folder / "bank")
    return functools.partial(build_backbone_variant, name, folder)
