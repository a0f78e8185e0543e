"""A whole checkpoint, tiny and random: every part is real, nothing is trained, all of it is made in a blink."""

import json
import os
import string
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from torch.nn import functional as F

from decoders import DecodeOptions, PrefixGPT2Decoder
from memory_bank import MemoryBank
from patchioner.backbones import TimmViT
from patchioner.backbones.clip import OpenClipViT, clip_preprocessing
from patchioner.checkpoints.folder import ModelSettings, Parts
from patchioner.geometry import Fit, Preprocessing
from patchioner.text import BertSettings, BertTower
from tests.support import spread

DIM = 64  # timm's own tiny test model, `test_vit`: six blocks, two heads, patches of 16 pixels
PLACES = {
    "red": "on a table", "blue": "in the snow", "green": "near a river", "yellow": "at night",
    "black": "behind a fence",
}  # fmt: skip
THINGS = ("cat", "dog", "bus", "boat", "kite", "chair")
TEXTS = tuple(f"a {colour} {one} {place}" for colour, place in PLACES.items() for one in THINGS)
WORDS = tuple(dict.fromkeys(word for text in TEXTS for word in text.split()))


def tiny_backbone(seed: int = 0, *, mode: Fit = "aspect", size: int = 64, **how: Any) -> TimmViT:
    """A ViT of width 64 behind a standardising head with statistics that are not neutral."""
    torch.manual_seed(seed)
    settings, head = Preprocessing(mode, size, 16), {"type": "standardise"}
    backbone = TimmViT("test_vit", settings, head=head, **how)
    spread(backbone.vit, 3.0)
    with torch.no_grad():
        for key, tensor in backbone.head.named_buffers():
            tensor.copy_(torch.rand(DIM) + 0.5 if "std" in key else torch.randn(DIM) * 0.1)
    return backbone


SMALL: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3}


def small_vit(name: str, kind: Any = TimmViT, mode: Fit = "aspect", seed: int = 0, **how: Any) -> Any:
    """A backbone around a timm network of two blocks, 48 wide, that sees four patches a side; no weight near zero."""
    torch.manual_seed(seed)
    patch = 14 if "patch14" in name else 16
    return shaken(kind(name, Preprocessing(mode, 4 * patch, patch), overrides=SMALL, **how))


def tiny_tokenizer() -> Tokenizer:
    """A WordPiece tokenizer of BERT's form: the words of `TEXTS`, and letters to spell any other."""
    letters = string.ascii_lowercase + string.digits + "'-,."
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{c}" for c in letters), *WORDS]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def tiny_tower(seed: int = 0, *, dim: int = DIM, max_tokens: int = 32) -> BertTower:
    """A BERT tower of width 32 and two layers."""
    torch.manual_seed(seed + 1)
    tokenizer = tiny_tokenizer()
    sizes: dict[str, Any] = {"width": 32, "layers": 2, "heads": 2, "inner": 64, "projection": 48}
    sizes |= {"vocabulary": tokenizer.get_vocab_size(), "dim": dim, "max_tokens": max_tokens}
    tower = BertTower(BertSettings(**sizes), tokenizer)
    with torch.no_grad():  # centred, as a trained one: a softmax over cosines tells texts apart
        tower.project_out.bias.sub_(tower.encode(TEXTS).mean(0))
    return tower


def tiny_decoder(seed: int = 0, *, dim: int = DIM) -> PrefixGPT2Decoder:
    """A decoder of width 32 whose random weights are large enough to write different captions of different rows."""
    decoder = PrefixGPT2Decoder.create(TEXTS, embedding_dim=dim, layers=2, width=32, heads=2, vocab_size=300, seed=seed)
    spread(decoder.network, 10.0)
    return decoder


def tiny_parts(seed: int = 0) -> Parts:
    """All parts of a checkpoint, random and reproducible, about 0.4 million weights; no setting is neutral."""
    tower, decode = tiny_tower(seed), DecodeOptions(max_tokens=8)
    bank = MemoryBank(F.normalize(tower.encode(TEXTS), dim=1), texts=TEXTS)
    settings = ModelSettings("tiny", licence="none", decode=decode, context=0.5, temperature=0.02)
    return Parts(tiny_backbone(seed), tiny_decoder(seed), bank, tower, settings)


def noise_photo(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """A photo of smooth random colour, RGB."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def shaken(module: M, amount: float = 0.1) -> M:
    """The module with noise on every weight: libraries start some near zero, which hides most of a network."""
    for parameter in module.parameters():
        parameter.add_(torch.randn_like(parameter) * amount)
    return module


def clip_architecture(**vision: Any) -> dict[str, Any]:
    """A config of open_clip's for a ViT of two layers, 32 wide, on photos of 32 pixels; 20 wide outside."""
    base = {"layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 32}
    text = {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}
    return {"embed_dim": 20, "vision_cfg": {**base, **vision}, "text_cfg": text}


def tiny_clip(size: int = 32, mode: Fit = "stretch", **vision: Any) -> OpenClipViT:
    """open_clip's ViT of that architecture, whatever its input size."""
    torch.manual_seed(3)
    settings, config = clip_preprocessing(size, 8, mode), clip_architecture(**vision)
    return shaken(OpenClipViT("tiny", settings, architecture=config), 0.05)


def change_config(folder: Path, **changes: Any) -> None:
    """Change keys of the config.json in a folder."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def oriented(orientation: int) -> Image.Exif:
    """EXIF's data of a photo whose stored pixels lie so, 1 to 8."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


class Trap:
    """Unpickling it makes a folder: proof that something was executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)
