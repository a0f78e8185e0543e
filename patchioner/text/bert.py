"""A small BERT-shaped text tower: sentence -> vector in the space of the patch tokens.

BERT: arXiv 1810.04805; mean-pooled sentence encoders: arXiv 1908.10084; the two-layer tanh projection is Talk2DINO's,
arXiv 2411.19331.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from patchioner.base.errors import CheckpointError, OptionError
from patchioner.base.weights import Storage
from patchioner.checkpoints.stored import WeightSource, settings_of
from patchioner.text.base import (
    TEXT_TOWERS,
    TOKENIZER_FILE,
    TextTower,
    check_texts,
    encode_by_length,
    read_tokenizer,
    warn_of_cut,
)


@dataclass(frozen=True)
class BertSettings:
    """Shape of a tower: everything its weights depend on. OptionError where the numbers do not fit together."""

    vocabulary: int
    dim: int
    width: int = 384
    layers: int = 6
    heads: int = 12
    inner: int = 1536
    projection: int = 768
    max_tokens: int = 64

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < 1:
                raise OptionError(
                    f"{name} of the text tower is {value!r}: give a whole number, 1 or more"
                )
        if self.width % self.heads:
            raise OptionError(
                f"width {self.width} of the text tower is no multiple of its {self.heads} heads"
            )
        if self.max_tokens < 2:
            raise OptionError(
                "max_tokens of the text tower must leave room for the start and end tokens"
            )


class BertLayer(nn.Module):
    """Post-norm transformer encoder layer with the exact GELU."""

    def __init__(self, settings: BertSettings) -> None:
        super().__init__()
        self.heads = settings.heads
        self.qkv = nn.Linear(settings.width, 3 * settings.width)
        self.attention_out = nn.Linear(settings.width, settings.width)
        self.attention_norm = nn.LayerNorm(settings.width, eps=1e-12)
        self.inner = nn.Linear(settings.width, settings.inner)
        self.outer = nn.Linear(settings.inner, settings.width)
        self.output_norm = nn.LayerNorm(settings.width, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, width); no padding inside a batch."""
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = self.attention_norm(x + self.attention_out(mixed))
        return self.output_norm(x + self.outer(F.gelu(self.inner(x))))  # type: ignore[no-any-return]


class BertTower(TextTower):
    """Tokenizer, encoder and projection.

    Args:
        settings: the tower's shape.
        tokenizer: a `tokenizers.Tokenizer` that adds the start and end tokens itself; copied, without its padding
            and truncation.

    Texts are grouped by length in tokens, so no batch holds padding and a text's vector does not depend on the others.
    """

    def __init__(self, settings: BertSettings, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.settings = settings
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.tokens = nn.Embedding(settings.vocabulary, settings.width)
        self.positions = nn.Embedding(settings.max_tokens, settings.width)
        self.norm = nn.LayerNorm(settings.width, eps=1e-12)
        self.layers = nn.ModuleList(BertLayer(settings) for _ in range(settings.layers))
        self.project_in = nn.Linear(settings.width, settings.projection)
        self.project_out = nn.Linear(settings.projection, settings.dim)
        self.eval()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """See `StoredModule.from_config`; the tokenizer is in the folder of the weights."""
        settings = BertSettings(**settings_of(config, (one.name for one in fields(BertSettings))))
        source = WeightSource.of(config, folder)
        path = (source.folder or folder) / TOKENIZER_FILE
        tokenizer = read_tokenizer(path)
        if tokenizer.get_vocab_size() != settings.vocabulary:
            raise CheckpointError(
                f"{path} has {tokenizer.get_vocab_size()} pieces, the weights {settings.vocabulary}"
            )
        if source.fetched or source.file is not None:
            raise OptionError(f"weights {config['weights']!r} of a bert: give a folder of `save`")
        tower = cls(settings, tokenizer)
        if source.folder is not None:
            tower.restore(source.folder)
        return tower

    @property
    def dim(self) -> int:
        """Width of the embedding space."""
        return self.settings.dim

    @property
    def config(self) -> dict[str, Any]:
        """Type and shape."""
        return {"type": "bert", **asdict(self.settings)}

    def sentence(self, ids: Tensor) -> Tensor:
        """Token ids (B, T) without padding -> mean-pooled unit sentence vectors (B, width)."""
        x = self.norm(self.tokens(ids) + self.positions.weight[: ids.shape[1]])
        for layer in self.layers:
            x = layer(x)
        return F.normalize(x.mean(dim=1), dim=1)

    def project(self, sentences: Tensor) -> Tensor:
        """Sentence vectors (B, width) -> the visual space (B, dim)."""
        return self.project_out(torch.tanh(self.project_in(sentences)))  # type: ignore[no-any-return]

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids (B, T) without padding -> embeddings (B, dim), not normalised."""
        return self.project(self.sentence(ids))

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids per text; texts beyond `max_tokens` are cut, keeping the end token, with a warning."""
        limit = self.settings.max_tokens
        encoded = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        warn_of_cut(sum(len(ids) > limit for ids in encoded), len(encoded), limit)
        return [ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]] for ids in encoded]

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], *, batch: int = 256) -> Tensor:
        """Embed texts; see `TextTower.encode`."""
        check_texts(texts)
        device = self.positions.weight.device
        return encode_by_length(
            self.token_ids(texts), batch, lambda ids: self(ids.to(device)), self.dim
        )

    def save(self, folder: Path, *, storage: Storage = "fp16") -> None:
        """Write config.json, weights.safetensors and tokenizer.json."""
        super().save(folder, storage=storage)
        (folder / TOKENIZER_FILE).write_text(self.tokenizer.to_str(), encoding="utf-8")


TEXT_TOWERS.register("bert")(BertTower)
