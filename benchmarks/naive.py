"""The two sides of a comparison of speed: the published way, written plainly, and ours, on the same random weights.

The published way: boxes four at a time; for each four the whole bank normalised into a copy, all similarities and their
softmax in memory; 30 decoding steps, all positions read again at each, logits at all positions, a softmax before the
argmax; the text is cut at the end token. Its attention maps, extra CLS caption and unread cache are left out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from PIL import Image
from torch import Tensor
from torch.nn import functional

from decoders import CaptionTokenizer, DecodeOptions, PrefixGPT2Decoder
from decoders.gpt2 import PrefixGPT2, PrefixGPT2Config
from decoders.tokenizers import ClipTokenizer
from memory_bank import MemoryBank, Precision
from patchioner import Patchioner
from patchioner.backbones import PatchFeatures, TimmViT
from patchioner.base.errors import PatchionerError
from patchioner.checkpoints.folder import ModelSettings, Parts, read_model_config
from patchioner.embedding import project as project_ours
from patchioner.geometry import Preprocessing
from patchioner.regions import Box, Weighting, pool_regions

CHUNK, STEPS, TEMPERATURE = 4, 30, 0.01
PUBLISHED = Weighting(rounding="reference")  # of boxes: both ends of their floored patches included
OPTIONS = DecodeOptions(max_tokens=STEPS)
_CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_BLOCK = 65536
Tokens = tuple[int, ...]


class NaiveDecoder:
    """The DeCap decoder as published, on another's weights: no cache, always 30 steps, logits at every position."""

    def __init__(self, decoder: PrefixGPT2Decoder) -> None:
        self._network, self._end = decoder.network, decoder.tokenizer.end_id

    @torch.inference_mode()
    def token_ids(self, embeddings: Tensor, steps: int = STEPS) -> list[list[int]]:
        """Exactly `steps` tokens for each of (n, dim) embeddings, whatever stands behind the end token."""
        found = torch.zeros(len(embeddings), 0, dtype=torch.long)
        for _ in range(steps):
            logits = self._network.logits(self._network(embeddings, found))  # at every position
            probabilities = logits[:, -1].softmax(dim=-1)
            found = torch.cat([found, probabilities.argmax(dim=-1, keepdim=True)], dim=1)
        return found.tolist()

    def until_end(self, token_ids: Sequence[int]) -> Tokens:
        """The tokens up to the first end token, which is kept."""
        ids = tuple(token_ids)
        return ids[: ids.index(self._end) + 1] if self._end in ids else ids


def project(queries: Tensor, rows: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Unit vectors of `softmax(cos(queries, rows) / temperature) @ rows` (Li et al. 2023, DeCap, equation 4)."""
    queries = queries / queries.norm(dim=-1, keepdim=True)
    keys = rows / rows.norm(dim=-1, keepdim=True)
    weights = ((queries @ keys.T) / temperature).softmax(dim=-1)
    return functional.normalize(weights @ rows, dim=-1)


@dataclass(frozen=True)
class Shapes:
    """Sizes of everything; `decoded` rows go through the decoder alone, `projected` ones through the bank alone."""

    rows: int
    dim: int
    layers: int
    width: int
    heads: int
    vocabulary: int | None  # None: a tokenizer trained on the spot
    config: str | None  # the backbone's file in configs/, None: a tiny one
    counts: tuple[int, ...]
    decoded: int
    projected: tuple[int, int]


SHAPES = {
    "published": Shapes(591_753, 768, 4, 768, 4, 50257, "dinov2-vitb14-reg", (1, 10, 100, 1000), 100, (1, 100)),
    "tiny": Shapes(300, 64, 2, 32, 4, None, None, (1, 5, 9, 13), 9, (1, 9)),
}
"""By the names of `--shapes`. "tiny" is for tests: its timings say nothing."""


class Ours:
    """Our engine at its defaults, but for the published rounding of boxes, on the bank in `work`."""

    def __init__(
        self, work: Path, backbone: Any, decoder: PrefixGPT2Decoder, *,
        precision: Precision = "float32", device: str = "cpu", dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        settings = ModelSettings(weighting=PUBLISHED, decode=OPTIONS)
        self.bank = MemoryBank.load(work / "bank").to(dtype=precision)
        parts = Parts(backbone, decoder, self.bank, None, settings)
        self.model = Patchioner(parts, device=device, dtype=dtype)

    def token_ids(self, image: Image.Image, boxes: Sequence[Box]) -> list[Tokens]:
        """Tokens of each box's caption, up to the end token."""
        model = self.model
        pooled = model.embed_regions(model.encode(image), boxes)
        projected = project_ours(pooled, model.settings, model.parts.bank)
        return [one.token_ids for one in model.parts.decoder.generate(projected, OPTIONS)]


class Published:
    """The published way, with the weights of `decoder`; of more than `most_chunks` chunks of four, time is scaled."""

    def __init__(self, work: Path, backbone: Any, decoder: PrefixGPT2Decoder, most_chunks: int):
        # Read into memory, as the published system reads its bank; the rows are not normalised.
        self.rows = torch.from_numpy(np.load(work / "rows.npy"))
        self.backbone, self.decoder = backbone, NaiveDecoder(decoder)
        self.most_chunks = most_chunks

    def run(self, boxes: int) -> int:
        """How many of so many boxes are really captioned."""
        return min(boxes, self.most_chunks * CHUNK)

    @torch.inference_mode()
    def project(self, pooled: Tensor) -> Tensor:
        """(n, dim) pooled vectors to the decoder's inputs."""
        return project(pooled, self.rows)

    def token_ids(self, image: Image.Image, boxes: Sequence[Box]) -> list[Tokens]:
        """Tokens of each box's caption, up to the end token, of no more boxes than `run` says."""
        (features,) = self.backbone.encode([image])
        return [ids for part in self._parts(boxes) for ids in self._caption(features, part)]

    def seconds(self, image: Image.Image, boxes: Sequence[Box]) -> float:
        """How long captioning takes, scaled by the number of chunks."""
        started = time.perf_counter()
        (features,) = self.backbone.encode([image])
        first = time.perf_counter() - started
        return first + self.in_chunks(boxes, lambda part: self._caption(features, part))()

    def in_chunks(self, items: Any, work: Callable[[Any], object]) -> Callable[[], float]:
        """A clock of working on boxes or (n, dim) vectors four at a time, scaled by the number of chunks."""
        parts = self._parts(items)

        def timed() -> float:
            started = time.perf_counter()
            for part in parts:
                work(part)
            return -(-len(items) // CHUNK) / len(parts) * (time.perf_counter() - started)

        return timed

    def _parts(self, items: Any) -> list[Any]:
        starts = range(0, len(items), CHUNK)[: self.most_chunks]
        return [items[start : start + CHUNK] for start in starts]

    def _caption(self, features: PatchFeatures, boxes: Sequence[Box]) -> list[Tokens]:
        written = self.decoder.token_ids(self.project(pool_regions(features, boxes, PUBLISHED)))
        return [self.decoder.until_end(ids) for ids in written]


def check_equal(ours: Sequence[Tokens], published: Sequence[Tokens], what: str) -> int:
    """How many captions were compared, the other side may have run fewer; PatchionerError: they differ, and where."""
    for box, (one, other) in enumerate(zip(ours, published, strict=False)):
        if one != other:
            pairs = enumerate(zip_longest(one, other))
            place = next(at for at, (mine, theirs) in pairs if mine != theirs)
            told = f"{what}: caption {box} differs from the published way's at token {place}"
            both = f"{one[place : place + 3]} against {other[place : place + 3]}"
            why = "a fast path is wrong, or two tokens are equally likely up to rounding"
            raise PatchionerError(f"{told} ({both}), so times cannot be compared: {why}")
    return min(len(ours), len(published))


def write_bank(shapes: Shapes, folder: Path, *, seed: int = 0) -> None:
    """Write Gaussian rows of differing lengths, raw for the published way and as a bank, unless they are there."""
    raw = folder / "rows.npy"
    if raw.is_file() and len(np.load(raw, mmap_mode="r")) == shapes.rows:
        return
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    held = open_memmap(raw, mode="w+", dtype=np.float32, shape=(shapes.rows, shapes.dim))
    for start in range(0, shapes.rows, _BLOCK):  # nothing larger is held
        rows = torch.randn(min(_BLOCK, shapes.rows - start), shapes.dim, generator=generator)
        lengths = 0.5 + torch.rand(len(rows), 1, generator=generator)
        held[start : start + len(rows)] = (rows * lengths).numpy()
    held.flush()
    MemoryBank(torch.from_numpy(held)).save(folder / "bank", dtype="float32")


def build_random_backbone(shapes: Shapes, *, seed: int = 0) -> TimmViT:
    """The backbone with random weights whose patch tokens differ from one another."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if shapes.config is None:
            backbone: Any = TimmViT("test_vit", Preprocessing("stretch", 80, 16))
        else:
            read = read_model_config(_CONFIGS / f"{shapes.config}.yaml")
            settings = {**read.backbone, "weights": "random"}
            backbone = replace(read, backbone=settings).make_backbone()
    assert isinstance(backbone, TimmViT), "the published backbone is one of timm's"
    with torch.no_grad():
        for name, parameter in backbone.vit.named_parameters():
            if name.endswith("gamma"):  # timm's 1e-5 lets no block of DINOv2 add anything
                parameter.fill_(0.3)
            elif parameter.dim() >= 2 and "pos_embed" not in name:
                parameter.mul_(3.0)
    return backbone


@torch.no_grad()
def build_random_decoder(shapes: Shapes, *, seed: int = 0) -> PrefixGPT2Decoder:
    """A decoder of the published form, whose captions never end."""
    tokenizer: Any
    if shapes.vocabulary is None:
        texts = "a red bus on a street", "two dogs play in the snow", "a bowl of fruit on a table"
        tokenizer = CaptionTokenizer.train(texts, vocab_size=300)
    else:
        tokenizer = ClipTokenizer.from_open_clip()
    config = PrefixGPT2Config(
        shapes.dim, shapes.vocabulary or tokenizer.vocab_size, layers=shapes.layers, width=shapes.width,
        heads=shapes.heads, positions=1024 if shapes.vocabulary else 40, normalize_input=False,
    )  # fmt: skip
    network = PrefixGPT2(config, seed=seed).eval()
    # Each step's state is to depend on prefix and history: with small layers every word would be followed by itself.
    generator = torch.Generator().manual_seed(seed + 1)
    network.prefix.weight.normal_(0.0, 1.0, generator=generator)
    for name, parameter in network.named_parameters():
        if ".h." in name and parameter.dim() == 2:
            parameter.normal_(0.0, 2.0 / math.sqrt(parameter.shape[1]), generator=generator)
        elif "wte" in name or "wpe" in name:
            parameter.normal_(0.0, 8.0 / math.sqrt(shapes.width), generator=generator)
    # No caption ends, and none holds what cannot be written: those logits are 0, the others' best far above.
    words = network.transformer.wte.weight
    words[[tokenizer.end_id, tokenizer.start_id, *tokenizer.unwritable_ids]] = 0.0
    words[tokenizer.vocab_size :] = 0.0
    return PrefixGPT2Decoder(network, tokenizer)
