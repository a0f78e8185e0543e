"""DINO.txt's text tower (arXiv 2412.16334): sentence -> vector whose second half is the space of the patch tokens.

Inferred, and not checked against the weights: some names, LayerNorm eps 1e-5, that query-key-value maps have no bias
and output maps have one. A file that is otherwise is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patchioner.base.errors import OptionError
from patchioner.base.optional import require
from patchioner.base.weights import fit_weights
from patchioner.checkpoints.stored import WeightSource, part_of, read_tensors, settings_of
from patchioner.text.base import (
    TEXT_TOWERS,
    ShapedTower,
    check_shape,
    check_texts,
    cut_ids,
    encode_by_length,
)

Half = Literal["patch", "both"]


@dataclass(frozen=True)
class DinoTxtTextSettings:
    """Shape of a tower, the published one by default; OptionError where the numbers do not fit together.

    Attributes:
        space: "patch" gives the second half of the columns, the space of the patch tokens; "both" gives all.
        columns: of the published vector, both halves together; even.
        vocabulary: CLIP's.
        width, layers, heads: of the transformer; its MLPs are four times as wide.
        max_tokens: longest text, start and end token included.
        qkv_bias: whether the query-key-value maps have a bias.
    """

    space: Half = "patch"
    columns: int = 2048
    vocabulary: int = 49408
    width: int = 1280
    layers: int = 24
    heads: int = 20
    max_tokens: int = 77
    qkv_bias: bool = False

    def __post_init__(self) -> None:
        if self.space not in get_args(Half):
            raise OptionError(f"space {self.space!r} is unknown: use one of {get_args(Half)}")
        check_shape(self, "the dino.txt text tower")
        if self.columns % 2:
            raise OptionError(f"columns {self.columns} of the dino.txt text tower must be even")

    @property
    def dim(self) -> int:
        """Width of the embedding space."""
        return self.columns // (2 if self.space == "patch" else 1)


class _Layer(nn.Module):
    """Pre-norm layer with causal attention and the exact GELU; names as in the published weights."""

    def __init__(self, settings: DinoTxtTextSettings) -> None:
        super().__init__()
        width, self.heads = settings.width, settings.heads
        self.attention_norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        qkv = nn.Linear(width, 3 * width, bias=settings.qkv_bias)
        self.attention = nn.ModuleDict({"qkv": qkv, "proj": nn.Linear(width, width)})
        inner = {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
        self.feed_forward = nn.ModuleDict(inner)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, width)."""
        parts = self.attention["qkv"](self.attention_norm(x)).unflatten(2, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attention["proj"](mixed.transpose(1, 2).flatten(2))
        inner = F.gelu(self.feed_forward["fc1"](self.ffn_norm(x)))
        return x + self.feed_forward["fc2"](inner)  # type: ignore[no-any-return]


class _Transformer(nn.Module):
    """Tokens and positions in, normalised states out; names as in the published weights."""

    def __init__(self, settings: DinoTxtTextSettings) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(settings.vocabulary, settings.width)
        self.positional_embedding = nn.Parameter(torch.empty(settings.max_tokens, settings.width))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        self.blocks = nn.ModuleList(_Layer(settings) for _ in range(settings.layers))
        self.ln_final = nn.LayerNorm(settings.width)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, width)."""
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.ln_final(x)  # type: ignore[no-any-return]


class DinoTxtText(ShapedTower):
    """CLIP's tokenizer (of open_clip), the transformer and the map into the space of the images.

    Texts are grouped by length in tokens, so no batch holds padding and a text's vector does not depend on the others;
    the causal mask makes that equal to padding, as published.
    """

    kind = "dinotxt"

    def __init__(self, settings: DinoTxtTextSettings) -> None:
        super().__init__()
        self.settings = settings
        self.tokenizer = require("open_clip.tokenizer", "clip").SimpleTokenizer()
        self.backbone = _Transformer(settings)
        projection = nn.Linear(settings.width, settings.columns, bias=False)
        self.head = nn.ModuleDict({"linear_projection": projection})
        self.eval()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """See `StoredModule.from_config`; the published weights are a file."""
        known = [one.name for one in fields(DinoTxtTextSettings)]
        settings, source = settings_of(config, known), WeightSource.of(config, folder)
        source.refuse(fetched=True, advice="dino.txt's text tower is a file: give its .pth")
        tower = cls(DinoTxtTextSettings(**settings)).restore(source.folder)
        if source.file is not None:
            tower.read_published(read_tensors(source.file), source=str(source.file))
        return tower

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """CLIP's ids per text between start and end; longer texts are cut, keeping the end, with a warning."""
        start, end = int(self.tokenizer.sot_token_id), int(self.tokenizer.eot_token_id)
        encoded = [[start, *self.tokenizer.encode(text), end] for text in texts]
        return cut_ids(encoded, self.settings.max_tokens)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], *, batch: int = 256) -> Tensor:
        """Embed texts; see `TextTower.encode`."""
        check_texts(texts)
        project, device = self.head["linear_projection"], self.backbone.positional_embedding.device

        def run(ids: Tensor) -> Tensor:
            vectors: Tensor = project(self.backbone(ids.to(device))[:, -1])
            return vectors[:, -self.dim :]

        return encode_by_length(self.token_ids(texts), batch, run, self.dim)

    def read_published(self, state: Mapping[str, Tensor], *, source: str) -> None:
        """Load DINOv2's file of the text encoder, or DINOv3's of head and text tower, in place and strictly."""
        own = part_of(state, ("text_model.", ""))
        own.pop("logit_scale", None)  # of the contrastive loss
        fit_weights(self, own, source=source)


TEXT_TOWERS.register("dinotxt")(DinoTxtText)
