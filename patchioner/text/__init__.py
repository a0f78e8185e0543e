"""Text towers: texts in, vectors in the space of the patch tokens out; a small BERT-shaped one, and Talk2DINO's.

BERT: arXiv 1810.04805; mean-pooled sentence encoders: arXiv 1908.10084; Talk2DINO: arXiv 2411.19331.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from decoders.tokenizers import read_tokenizer
from patchioner.base.errors import CheckpointError, OptionError, check_texts
from patchioner.base.files import check
from patchioner.base.optional import Registry
from patchioner.base.weights import Storage, fit_weights
from patchioner.checkpoints import StoredModule, WeightSource, make_part, read_tensors, settings_of

TOKENIZER_FILE = "tokenizer.json"
# Talk2DINO's published names of the two layers; the last is that of older files.
_PUBLISHED = {"linear_layer": "project_in", "hidden_layers.0": "project_out", "linear_layer2": "project_out"}
logger = logging.getLogger(__name__)


class TextTower(StoredModule):
    """A network that puts texts into the space of the patch tokens."""

    tokenizer: Any = None

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, start and end tokens included; longer texts are cut, with one warning."""
        raise NotImplementedError

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], *, batch: int = 256) -> Tensor:
        """Embed n non-blank texts (else TextError), at most `batch` a pass: (n, dim) float32 on the CPU, unnormalised.

        Those of one length share passes, so that a batch holds no padding and no vector depends on the other texts.
        """
        sequences, device = self.token_ids(check_texts(texts)), next(self.parameters()).device
        result = torch.empty(len(sequences), self.dim, dtype=torch.float32)
        for rows, ids in equal_lengths(sequences, batch):
            result[rows] = self(ids.to(device)).to("cpu", torch.float32)
        return result

    def save(self, folder: Path, *, storage: Storage = "fp16") -> None:
        """Write config.json, weights.safetensors and, where it has one of its own, tokenizer.json."""
        super().save(folder, storage=storage)
        if isinstance(self.tokenizer, Tokenizer):
            (folder / TOKENIZER_FILE).write_text(self.tokenizer.to_str(), encoding="utf-8")


class ShapedTower(TextTower):
    """A tower whose network follows from `settings`, a dataclass; `kind` names it in a config."""

    kind: ClassVar[str]

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.settings, self.dim = settings, int(settings.dim)

    @property
    def config(self) -> dict[str, Any]:
        """Type and shape."""
        return {"type": self.kind, **asdict(self.settings)}


def plain_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """A copy without padding and truncation."""
    copied = Tokenizer.from_str(tokenizer.to_str())
    copied.no_padding()
    copied.no_truncation()
    return copied


def check_shape(settings: Any, what: str) -> None:
    """Refuse the settings of a tower whose numbers are none or do not fit together; OptionError."""
    whole = [one.name for one in fields(settings) if one.type == "int" and one.name != "pad_id"]
    check("int [1, inf)", settings, " ".join(whole))
    width, heads, longest = settings.width, settings.heads, settings.max_tokens
    if width % heads:
        raise OptionError(f"width {width} of {what} is no multiple of its {heads} heads")
    if longest < 3:
        raise OptionError(f"max_tokens {longest} of {what} leaves no room for start, end, a word")


def cut_ids(encoded: Sequence[Sequence[int]], limit: int) -> list[list[int]]:
    """Token ids of at most `limit` each, the last one kept; one warning says how many texts were longer."""
    if cut := sum(len(ids) > limit for ids in encoded):
        logger.warning("%d of %d texts are longer than %d tokens and were cut", cut, len(encoded), limit)
    return [[*ids] if len(ids) <= limit else [*ids[: limit - 1], ids[-1]] for ids in encoded]


def equal_lengths(sequences: Sequence[Sequence[int]], batch: int) -> Iterator[tuple[list[int], Tensor]]:
    """Yield (row indices, ids (B, T)) such that every batch holds sequences of one length."""
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for row, ids in enumerate(sequences):
        by_length[len(ids)].append(row)
    for rows in by_length.values():
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            yield part, torch.tensor([sequences[row] for row in part])


TEXT_TOWERS: Registry[type[TextTower]] = Registry(
    "text tower",
    {
        "bert": "patchioner.text:BertTower",
        "talk2dino": "patchioner.text:Talk2DinoTower",
        "open_clip": "patchioner.text.clip:OpenClipText",
        "siglip": "patchioner.text.clip:SiglipText",
        "dinotxt": "patchioner.text.clip:DinoTxtText",
    },
)


def load_tower(folder: Path) -> TextTower:
    """Read what `TextTower.save` wrote; CheckpointError where a file is missing, corrupt or of another shape."""
    return make_part(TEXT_TOWERS, folder, Path(), str(folder))


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
        check_shape(self, "the text tower")


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


class BertTower(ShapedTower):
    """A tokenizer that adds the start and end tokens (copied without padding, truncation), encoder and projection."""

    kind = "bert"

    def __init__(self, settings: BertSettings, tokenizer: Tokenizer) -> None:
        super().__init__(settings)
        self.tokenizer = plain_tokenizer(tokenizer)
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
        source.refuse(fetched=True, file=True, advice="give a folder of `save`")
        path = (source.folder or folder) / TOKENIZER_FILE
        tokenizer = read_tokenizer(path, plain_tokenizer)
        if (pieces := tokenizer.get_vocab_size()) != settings.vocabulary:
            raise CheckpointError(f"{path} has {pieces} pieces, the weights {settings.vocabulary}")
        return cls(settings, tokenizer).restore(source.folder)

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
        """See `TextTower.token_ids`."""
        return cut_ids([one.ids for one in self.tokenizer.encode_batch(list(texts))], self.settings.max_tokens)


class Talk2DinoTower(TextTower):
    """Any text tower, then Talk2DINO's projection of its vectors t into the visual space: W2 tanh(W1 t + b1) + b2.

    The vectors of `tower` are not normalised before, as published. `dim` is that of the visual tokens; `width`, between
    the two layers, is `dim` as published, or None for the linear projection without them.
    """

    def __init__(self, tower: TextTower, dim: int, *, width: int | None) -> None:
        super().__init__()
        self.tower, self.dim = tower, dim
        self.project_in = nn.Linear(tower.dim, dim if width is None else width)
        self.project_out = None if width is None else nn.Linear(width, dim)
        self.eval()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """See `StoredModule.from_config`; "tower" is a config or folder, the published projection a file."""
        own = settings_of(config, ("tower", "dim", "width"))
        source = WeightSource.of(config, folder)
        source.refuse(fetched=True, advice="Talk2DINO's projection is a file: give its .pth")
        if source.folder is not None and source.folder != folder:
            whole = load_tower(source.folder)
            if not isinstance(whole, cls):
                raise OptionError(f"{source.folder} holds a {type(whole).__name__}")
            return whole
        tower = make_part(TEXT_TOWERS, own.pop("tower", "tower"), folder, "the tower of a talk2dino")
        if source.file is not None:
            return cls.from_file(tower, source.file)
        dim = int(own.get("dim", 768))
        width = own.get("width", dim)
        return cls(tower, dim, width=None if width is None else int(width)).restore(source.folder)

    @classmethod
    def from_file(cls, tower: TextTower, path: Path) -> Self:
        """Join a tower and a published projection; nothing in the file is executed.

        The file, a ``.pth`` or safetensors, holds ``linear_layer.*`` and, unless the projection is linear,
        ``hidden_layers.0.*`` (older: ``linear_layer2.*``); CheckpointError where it holds something else, or shapes
        that do not fit one another or the tower (named).
        """
        state, source = dict[str, Tensor](), f"{path} is no Talk2DINO projection"
        for name, tensor in read_tensors(path).items():
            layer, _, kind = name.rpartition(".")
            ours = f"{_PUBLISHED.get(layer, layer)}.{kind}"
            state[name if ours in state else ours] = tensor
        first = state.get("project_in.weight")
        if first is None or first.dim() != 2:
            shapes = ", ".join(f"{name} is {tuple(tensor.shape)}" for name, tensor in state.items())
            raise CheckpointError(f"{source}: {shapes}")
        width, taken = first.shape
        if taken != tower.dim:
            wrong = f"{path} takes text features {taken} wide, the text tower gives {tower.dim}"
            raise CheckpointError(f"{wrong}: use the tower it was trained with (CLIP ViT-B/16 for the published ones)")
        two = any(name.startswith("project_out.") for name in state)
        joined = cls(tower, len(state.get("project_out.weight", first)), width=width if two else None)
        fit_weights(joined.stored(), state, source=source)
        return joined

    @property
    def config(self) -> dict[str, Any]:
        """Type and shape of the projection; the tower inside has a folder, and a config, of its own."""
        width = None if self.project_out is None else self.project_in.out_features
        return {"type": "talk2dino", "dim": self.dim, "width": width}

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], *, batch: int = 256) -> Tensor:
        """Embed texts into the space of the patch tokens; see `TextTower.encode`."""
        rows: Tensor = self.project_in(self.tower.encode(texts, batch=batch).to(self.project_in.weight))
        if self.project_out is not None:
            rows = self.project_out(torch.tanh(rows))
        return rows.to("cpu", torch.float32)
