"""The two sides of the comparison, our engine and the published way, on one set of random weights and one bank.

Weights are made so that tokens tell patches apart, captions tell regions apart, and captions end nowhere or where
COCO's do: what initial weights hide.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from PIL import Image
from torch import Tensor, nn

from benchmarks.naive import CHUNK, STEPS, NaiveCaptioner, NaiveDecoder, chunks, encode, pool_boxes
from decoders import CaptionTokenizer, DecodeOptions, PrefixGPT2Decoder
from memory_bank import MemoryBank, Precision
from patchioner import Patchioner
from patchioner.backbones import TimmViT
from patchioner.base.errors import PatchionerError
from patchioner.checkpoints.folder import Parts, read_model_config
from patchioner.checkpoints.settings import ModelSettings
from patchioner.embedding import project
from patchioner.geometry import Preprocessing
from patchioner.regions import Box, Weighting

OPTIONS = DecodeOptions(max_tokens=STEPS, scores=False)  # nor does the published way give any
PARTS = ("backbone", "pooling", "projection", "decoding")
CAPTION_TOKENS = 12  # where captions of COCO end, on average, the end token included
_RISE = 0.25  # of the end token's logit for each position, in standard deviations of a logit
_CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_BLOCK = 65536


@dataclass(frozen=True)
class Shapes:
    """Sizes of everything.

    `vocabulary` None is that of a tokenizer trained on the spot; `config` is the backbone's file in configs/, None
    timm's own tiny test model; of `counts` of boxes the last but one has its memory and breakdown shown; `decoded` rows
    go through the decoder alone, few and many `projected` queries through the bank alone.
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


class Ours:
    """Our engine at its defaults, but for the published rounding of boxes.

    Backbone and decoder are shared with another side, or made here; `precision` is of the bank's rows in `work`.
    """

    def __init__(
        self, shapes: Shapes, work: Path, *, backbone: Any = None, decoder: PrefixGPT2Decoder | None = None,
        precision: Precision = "float32", device: str = "cpu", dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        settings = ModelSettings(weighting=Weighting(rounding="reference"), decode=OPTIONS)
        self.backbone = backbone or build_random_backbone(shapes)
        decoder = decoder or build_random_decoder(shapes)
        self.bank = MemoryBank.load(bank_folder(work, precision))
        parts = Parts(self.backbone, decoder, self.bank, None, settings)
        self.model = Patchioner(parts, device=device, dtype=dtype)

    def by_part(
        self, image: Image.Image, boxes: Sequence[Box]
    ) -> tuple[dict[str, float], list[Any]]:
        """Seconds of each of `PARTS`, each called by itself, and the captions."""
        model, laps = self.model, [time.perf_counter()]
        features = model.encode(image)
        laps.append(time.perf_counter())
        pooled = model.embed_regions(features, boxes)
        laps.append(time.perf_counter())
        bank = model.parts.bank
        projected = project(pooled, model.settings, bank)
        laps.append(time.perf_counter())
        found = model.parts.decoder.generate(projected, OPTIONS)
        laps.append(time.perf_counter())
        return dict(zip(PARTS, np.diff(laps).tolist(), strict=True)), found

    def token_ids(self, image: Image.Image, boxes: Sequence[Box]) -> list[tuple[int, ...]]:
        """Tokens of each box's caption, up to the end token."""
        return [one.token_ids for one in self.by_part(image, boxes)[1]]


class Published:
    """The published way; of more than `most_chunks` chunks of four, the time is scaled from so many."""

    def __init__(
        self, shapes: Shapes, work: Path, *, backbone: Any = None, decoder: PrefixGPT2Decoder | None = None,
        most_chunks: int,
    ) -> None:  # fmt: skip
        # Read into memory, as the published system reads its bank.
        rows = torch.from_numpy(np.load(work / "rows.npy"))
        backbone = backbone or build_random_backbone(shapes)
        self.most_chunks = most_chunks
        self.captioner = NaiveCaptioner(backbone, rows, decoder or build_random_decoder(shapes))

    def with_decoder(self, decoder: PrefixGPT2Decoder) -> Published:
        """The same backbone and bank, which is not read again, with another decoder."""
        other, own = copy.copy(self), self.captioner
        other.captioner = NaiveCaptioner(own.backbone, own.rows, decoder)
        return other

    def run(self, boxes: int) -> int:
        """How many of so many boxes are really captioned."""
        return min(boxes, self.most_chunks * CHUNK)

    def token_ids(self, image: Image.Image, boxes: Sequence[Box]) -> list[tuple[int, ...]]:
        """Tokens of each box's caption, of no more boxes than `run` says."""
        return self.captioner.token_ids(image, boxes[: self.run(len(boxes))])

    def by_part(self, image: Image.Image, boxes: Sequence[Box]) -> dict[str, float]:
        """Seconds of each of `PARTS`, scaled by the number of chunks; the attention extras are the backbone's."""
        started = time.perf_counter()
        features = encode(self.captioner.backbone, image)
        first = time.perf_counter() - started
        every = chunks(boxes)
        parts = every[: self.most_chunks]
        spent = np.zeros(3)
        for part in parts:
            laps = [time.perf_counter()]
            pooled = pool_boxes(features, part)
            laps.append(time.perf_counter())
            projected = self.captioner.project(pooled)
            laps.append(time.perf_counter())
            for ids in self.captioner.decoder.token_ids(projected):
                self.captioner.decoder.text(ids)
            laps.append(time.perf_counter())
            spent += np.diff(laps)
        spent *= len(every) / len(parts)
        return dict(zip(PARTS, [first, *spent.tolist()], strict=True))

    def in_chunks(self, vectors: Tensor, work: Callable[[Tensor], object]) -> Callable[[], float]:
        """A clock of working on (n, dim) vectors four at a time, scaled as `by_part` is."""
        every = chunks(vectors)
        parts = every[: self.most_chunks]

        def timed() -> float:
            started = time.perf_counter()
            for part in parts:
                work(part)
            return len(every) / len(parts) * (time.perf_counter() - started)

        return timed


def check_equal(
    ours: Sequence[tuple[int, ...]], published: Sequence[tuple[int, ...]], what: str
) -> int:
    """How many captions were compared, of tokens up to the end token; the other side may have run fewer.

    PatchionerError: they differ; the message says where.
    """
    for box, (one, other) in enumerate(zip(ours, published, strict=False)):
        if one != other:
            place = next(
                (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
                min(len(one), len(other)),
            )
            raise PatchionerError(
                f"{what}: caption {box} differs from the published way's at token {place} "
                f"({one[place : place + 3]} against {other[place : place + 3]}), so their times cannot be compared: "
                "a fast path is wrong, or two tokens are equally likely up to rounding"
            )
    return min(len(ours), len(published))


def bank_folder(folder: Path, precision: Precision) -> Path:
    """Where `write_bank` puts the bank with rows of this precision."""
    return folder / f"bank-{precision}"


def write_bank(shapes: Shapes, folder: Path, *, seed: int = 0) -> None:
    """Write random rows, raw for the published way and as banks of ours in each precision, unless they are there.

    Rows are Gaussian, of lengths that differ as those of Talk2DINO do (long rows weigh more in a projection).
    """
    raw = folder / "rows.npy"
    if not raw.is_file() or len(np.load(raw, mmap_mode="r")) != shapes.rows:
        folder.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(seed)
        held = open_memmap(raw, mode="w+", dtype=np.float32, shape=(shapes.rows, shapes.dim))
        for start in range(0, shapes.rows, _BLOCK):  # nothing larger is held
            rows = torch.randn(min(_BLOCK, shapes.rows - start), shapes.dim, generator=generator)
            lengths = 0.5 + torch.rand(len(rows), 1, generator=generator)
            held[start : start + len(rows)] = (rows * lengths).numpy()
        held.flush()
        MemoryBank(torch.from_numpy(held)).save(bank_folder(folder, "float32"), dtype="float32")
    rounded: tuple[Precision, ...] = ("float16", "int8")
    for precision in rounded:
        place = bank_folder(folder, precision)
        if not place.is_dir() or len(MemoryBank.load(place)) != shapes.rows:
            MemoryBank.load(bank_folder(folder, "float32")).save(place, dtype=precision)


def build_random_backbone(shapes: Shapes, *, seed: int = 0) -> TimmViT:
    """The backbone with random weights whose patch tokens differ from one another."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if shapes.config is None:
            backbone: Any = TimmViT("test_vit", Preprocessing("stretch", 80, 16))
        else:
            read = read_model_config(_CONFIGS / f"{shapes.config}.yaml")
            backbone = replace(
                read, backbone={**read.backbone, "weights": "random"}
            ).make_backbone()
    assert isinstance(backbone, TimmViT), "the published backbone is one of timm's"
    with torch.no_grad():
        for name, parameter in backbone.vit.named_parameters():
            if name.endswith(
                "gamma"
            ):  # timm starts DINOv2's at 1e-5, with which no block would add anything
                parameter.fill_(0.3)
            elif parameter.dim() >= 2 and "pos_embed" not in name:
                parameter.mul_(3.0)
    return backbone


@torch.no_grad()
def build_random_decoder(shapes: Shapes, *, ends: bool = False, seed: int = 0) -> PrefixGPT2Decoder:
    """A decoder of the published form; with `ends`, captions end after about 12 tokens, as COCO's do, else never."""
    from decoders.gpt2 import PrefixGPT2, PrefixGPT2Config

    tokenizer: Any
    if shapes.vocabulary is None:
        texts = "a red bus on a street", "two dogs play in the snow", "a bowl of fruit on a table"
        tokenizer = CaptionTokenizer.train(texts, vocab_size=300)
    else:
        from decoders.tokenizers import ClipTokenizer

        tokenizer = ClipTokenizer.from_open_clip()
    config = PrefixGPT2Config(
        shapes.dim,
        shapes.vocabulary or tokenizer.vocab_size,
        layers=shapes.layers,
        width=shapes.width,
        heads=shapes.heads,
        positions=1024 if shapes.vocabulary else 40,
        normalize_input=False,
        emit_start=True,
    )
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
    if ends:
        _end_after(network, tokenizer, seed=seed)
    return PrefixGPT2Decoder(network, tokenizer)


def _end_after(network: Any, tokenizer: Any, *, seed: int) -> None:
    """Make the end token's logit rise from step to step, past the others' best at about `CAPTION_TOKENS`.

    One coordinate of the hidden state is given to the position alone: nothing else writes it, and only the end token
    reads it.
    """
    body = network.transformer
    for name, parameter in network.named_parameters():
        if name.endswith(("c_proj.weight", "c_proj.bias", "prefix.weight", "prefix.bias")):
            parameter[0] = 0.0
    body.wte.weight[:, 0] = body.wpe.weight[:, 0] = 0.0
    # Of captions of random vectors: the deviation of states before the last norm; the logits' best and deviation.
    generator = torch.Generator().manual_seed(seed + 2)
    prefixes = nn.functional.normalize(
        torch.randn(8, network.config.embedding_dim, generator=generator), dim=1
    )
    naive = NaiveDecoder(PrefixGPT2Decoder(network, tokenizer))  # ours may keep what it derives
    inputs: list[Tensor] = []
    hook = body.ln_f.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    words = torch.tensor(naive.token_ids(prefixes, CAPTION_TOKENS))
    logits: Tensor = network.logits(network(prefixes, words))
    hook.remove()
    best = float(logits.amax(dim=-1).mean())
    steps = torch.arange(network.config.positions, dtype=torch.float32)
    wanted = best + _RISE * float(logits.std()) * (steps - (CAPTION_TOKENS - 1))
    scale = float(inputs[0].std(dim=-1).mean())
    body.wpe.weight[:, 0] = scale * wanted / best  # about `wanted / best` after the last norm
    body.wte.weight[tokenizer.end_id, 0] = best
