"""Text towers through open_clip: CLIP's, SigLIP's and SigLIP 2's, and DINO.txt's."""

from __future__ import annotations

import copy
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from decoders.tokenizers import read_tokenizer
from patchioner.backbones.clip import build_model, fetch_model, model_config, pretrained_of
from patchioner.base.errors import OptionError, TextError
from patchioner.base.files import check
from patchioner.base.optional import require
from patchioner.base.weights import fit_weights
from patchioner.checkpoints import PRETRAINED, WeightSource, existing_path, fetch, part_of, read_tensors, settings_of
from patchioner.text import TOKENIZER_FILE, ShapedTower, TextTower, check_shape, cut_ids, plain_tokenizer

# open_clip builds both halves of a model; the other one is made as small as it will go and dropped.
_NO_VISION = {"layers": 1, "width": 8, "head_width": 8, "patch_size": 8, "image_size": 8}
# The text half of a model that open_clip keeps in one piece with the visual half.
_TEXT_PARTS = ("positional_embedding", "token_embedding.", "transformer.", "ln_final.", "text_proj")


class OpenClipText(TextTower):
    """The text tower of an open_clip model; the visual half is neither kept nor stored.

    Arguments: see `patchioner.backbones.clip.model_config`. A text longer than the tower's context (77 tokens for CLIP)
    is cut and keeps its end token, with one warning.

    OptionError where the model's texts are read otherwise than CLIP's, or by another library's network or tokenizer.
    """

    def __init__(
        self,
        name: str,
        *,
        architecture: Mapping[str, Any] | None = None,
        quick_gelu: bool | None = None,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.architecture = None if architecture is None else copy.deepcopy(dict(architecture))
        settings = model_config(name, architecture, quick_gelu=quick_gelu, pretrained=pretrained)
        self.quick_gelu = bool(settings["quick_gelu"])
        # Before the network is made: a name that leads nowhere should not wait for it.
        whole = pretrained and fetch_model(name, pretrained, quick_gelu=self.quick_gelu)
        self.text: Any = _text(name, settings)
        projected = self.text.text_projection is not None
        self.dim = int(self.text.output_dim if projected else self.text.width)
        self.tokenizer = _tokenizer(name, settings["text_cfg"], self.text)
        if not _is_causal(self.text):
            raise OptionError(f"{name!r} does not read texts up to their end token: use 'ViT-B-16'")
        _try_tower()
        if whole is not None:
            fit_weights(self.text, _text_state(whole), source=f"{name} {pretrained}")
        self.eval()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """See `StoredModule.from_config`; fetched weights go by a tag, ``pretrained:openai``."""
        own = settings_of(config, ("name", "architecture", "quick_gelu"))
        source = WeightSource.of(config, folder)
        return cls(own.pop("name"), pretrained=pretrained_of(source), **own).restore(source.folder)

    @property
    def config(self) -> dict[str, Any]:
        """Type and architecture."""
        return {
            "type": "open_clip",
            "name": self.name,
            "architecture": copy.deepcopy(self.architecture),
            "quick_gelu": self.quick_gelu,
        }

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """See `clip_ids`."""
        return clip_ids(self.tokenizer, texts, int(self.text.context_length))

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids (B, T) int64 that end in the end token -> embeddings (B, dim), not normalised."""
        return read_causally(self.text, ids)


def read_causally(text: Any, ids: Tensor) -> Tensor:
    """(B, dim) of a causal text tower of open_clip's, of token ids (B, T): padding would reach no end token."""
    length = ids.shape[1]
    x = text.token_embedding(ids) + text.positional_embedding[:length]
    x = text.transformer(x, attn_mask=text.attn_mask[:length, :length])
    # The end token has the highest id of all; open_clip reads the first, where a text spells it out.
    rows = torch.arange(len(ids), device=ids.device)
    pooled: Tensor = text.ln_final(x[rows, ids.argmax(dim=1)])
    if (projection := text.text_projection) is None:
        return pooled
    return projection(pooled) if callable(projection) else pooled @ projection  # type: ignore[no-any-return]


def clip_ids(tokenizer: Any, texts: Sequence[str], longest: int) -> list[list[int]]:
    """CLIP's ids, start and end included; longer texts are cut, with a warning. TextError: cleaning leaves nothing."""
    encoded = []
    for index, text in enumerate(texts):
        if not (words := tokenizer.encode(text)):
            raise TextError(f"text {index} is {text!r}: CLIP's cleaning leaves nothing of it")
        encoded.append([int(tokenizer.sot_token_id), *words, int(tokenizer.eot_token_id)])
    return cut_ids(encoded, longest)


def _is_causal(text: Any) -> bool:
    by_end = text.attn_mask is not None and text.cls_emb is None and text.pool_type == "argmax"
    return by_end and not getattr(text, "use_pad_mask", False)


@cache
def _try_tower() -> None:
    """Self-test on a tiny tower: without padding we get what open_clip gets with it."""
    text_cfg = {"context_length": 6, "vocab_size": 9, "width": 16, "heads": 2, "layers": 2}
    config = {"embed_dim": 8, "text_cfg": text_cfg, "quick_gelu": False}
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        ids = torch.tensor([[7, 3, 8, 0, 0, 0]])
        try:
            probe = _text("self-test", config).eval()
            fits = torch.allclose(read_causally(probe, ids[:, :3]), probe(ids), atol=1e-4)
        except (AttributeError, RuntimeError, TypeError):
            fits = False
    if not fits:
        raise OptionError(f"open_clip {require('open_clip', 'clip').__version__} is unknown: see constraints.txt")


def _text(name: str, settings: Mapping[str, Any]) -> Any:
    text = {**settings["text_cfg"], "output_tokens": False}
    if other := text.get("hf_model_name") or text.get("hf_tokenizer_name"):
        raise OptionError(f"texts of {name!r} are read by {other!r} of another library: use 'ViT-B-16'")
    return build_model("CustomTextCLIP", name, settings, dict(_NO_VISION), text).text


def _tokenizer(name: str, settings: Mapping[str, Any], text: Any) -> Any:
    clean = (settings.get("tokenizer_kwargs") or {}).get("clean", "lower")
    tokenizer = require("open_clip", "clip").SimpleTokenizer(clean=clean)
    if (pieces := tokenizer.vocab_size) > text.vocab_size:
        raise OptionError(f"{name!r} has {text.vocab_size} tokens, CLIP's tokenizer {pieces}: set vocab_size to that")
    if text.context_length < 3:
        raise OptionError(f"context_length {text.context_length} of {name!r}: give 3 or more")
    return tokenizer


def _text_state(model: Any) -> dict[str, Tensor]:
    """State dict of a model's text half, whether open_clip keeps it apart or not."""
    if hasattr(model, "text"):
        return dict(model.text.state_dict())
    return {k: v for k, v in model.state_dict().items() if k.startswith(_TEXT_PARTS)}


@dataclass(frozen=True)
class SiglipTextSettings:
    """Shape of a tower, ViT-B/16's of SigLIP 2 by default; OptionError where the numbers do not fit together."""

    vocabulary: int = 256000  # pieces of the tokenizer
    dim: int = 768  # of the embedding space
    width: int = 768  # of the transformer; its MLPs are four times as wide
    layers: int = 12
    heads: int = 12
    max_tokens: int = 64  # that every text is padded or cut to
    pad_id: int = 0  # as for Gemma; SigLIP 1 pads with 1

    def __post_init__(self) -> None:
        check_shape(self, "the SigLIP text tower")
        check(f"int [0, {self.vocabulary})", pad_id=self.pad_id)


class SiglipText(ShapedTower):
    """Tokenizer and text transformer of SigLIP 2 (arXiv 2502.14786) or SigLIP.

    The vector is that of the last position, mostly padding: all texts are padded to one length, and none is masked. The
    tokenizer adds the end token itself (Gemma's, from SigLIP 2's repositories), and is copied without its padding and
    truncation; OptionError where it has more pieces than the vocabulary.
    """

    kind = "siglip"

    def __init__(self, settings: SiglipTextSettings, tokenizer: Tokenizer) -> None:
        super().__init__(settings)
        if (pieces := tokenizer.get_vocab_size()) > settings.vocabulary:
            raise OptionError(f"the tokenizer has {pieces} pieces, the tower only {settings.vocabulary}: use its own")
        self.tokenizer = plain_tokenizer(tokenizer)
        kind = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
        gelu = partial(nn.GELU, approximate="tanh")
        self.network: Any = _network(settings, settings.dim, 1e-6, act_layer=gelu, **kind)
        self.eval()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """See `StoredModule.from_config`; "tokenizer" is a path or ``pretrained:OWNER/NAME``, or beside the weights."""
        known = ["tokenizer", *(one.name for one in fields(SiglipTextSettings))]
        own, source = settings_of(config, known), WeightSource.of(config, folder)
        source.refuse(fetched=source.tag is None, advice="use a repository, pretrained:OWNER/NAME")
        given = str(own.pop("tokenizer", (source.folder or folder).absolute() / TOKENIZER_FILE))
        kind, _, place = given.partition(":")
        if kind == PRETRAINED:
            tokenizer = fetch(place, TOKENIZER_FILE)
        else:
            tokenizer = existing_path(given, folder, "tokenizer of the SigLIP text tower")
        tower = cls(SiglipTextSettings(**own), read_tokenizer(tokenizer, plain_tokenizer)).restore(source.folder)
        file = source.file if source.tag is None else fetch(source.tag, "open_clip_model.safetensors")
        if file is not None:
            tower.read_published(read_tensors(file), source=str(file))
        return tower

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """`max_tokens` for each; longer texts are cut, with a warning. TextError where a text is but punctuation."""
        cleaned = [canonical(text) for text in texts]
        for index, text in enumerate(cleaned):
            if not text:
                raise TextError(f"text {index} is {texts[index]!r}: nothing but punctuation")
        limit, pad = self.settings.max_tokens, self.settings.pad_id
        encoded = cut_ids([one.ids for one in self.tokenizer.encode_batch(cleaned)], limit)
        return [ids + [pad] * (limit - len(ids)) for ids in encoded]

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids (B, max_tokens) -> embeddings (B, dim), not normalised."""
        return self.network(ids)  # type: ignore[no-any-return]

    def read_published(self, state: Mapping[str, Tensor], *, source: str) -> None:
        """Load the text half (names under ``text.``) of an open_clip SigLIP checkpoint, in place and strictly."""
        fit_weights(self.network, part_of(state, ("text.", "text_model.", "")), source=source)


def canonical(text: str) -> str:
    """Lower case without ASCII punctuation, blanks run together, as SigLIP was evaluated.

    Example:
        >>> canonical("A  red_bus, parked.")
        'a red bus parked'
    """
    bare = text.replace("_", " ").translate(str.maketrans("", "", string.punctuation)).lower()
    return " ".join(bare.split())


def _network(settings: Any, dim: int, eps: float, **kind: Any) -> nn.Module:
    transformer = require("open_clip.transformer", "clip")
    shape = {name: getattr(settings, name) for name in ("width", "heads", "layers")}
    shape |= {"context_length": settings.max_tokens, "vocab_size": settings.vocabulary}
    norm = partial(transformer.LayerNorm, eps=eps)
    network: nn.Module = transformer.TextTransformer(output_dim=dim, norm_layer=norm, **shape, **kind)
    return network


Half = Literal["patch", "both"]


@dataclass(frozen=True)
class DinoTxtTextSettings:
    """Shape of a tower, the published one by default; OptionError where the numbers do not fit together."""

    space: Half = "patch"  # gives the second half of the columns, the space of the patch tokens; "both" gives all
    columns: int = 2048  # of the published vector, both halves together; even
    vocabulary: int = 49408
    width: int = 1280  # of the transformer; its MLPs are four times as wide
    layers: int = 24
    heads: int = 20
    max_tokens: int = 77  # start and end included

    def __post_init__(self) -> None:
        check(get_args(Half), space=self.space)
        check_shape(self, "the dino.txt text tower")
        if self.columns % 2:
            raise OptionError(f"columns {self.columns} of the dino.txt text tower must be even")

    @property
    def dim(self) -> int:
        """Width of the embedding space."""
        return self.columns // (2 if self.space == "patch" else 1)


# Published names -> those of open_clip's network, which computes the same.
_DINOTXT_NAMES = {
    "backbone.": "", ".attention_norm.": ".ln_1.", ".ffn_norm.": ".ln_2.", ".attention.qkv.": ".attn.in_proj_",
    ".attention.proj.": ".attn.out_proj.", ".feed_forward.fc1.": ".mlp.c_fc.", ".feed_forward.fc2.": ".mlp.c_proj.",
    "blocks.": "transformer.resblocks.", "head.linear_projection.weight": "text_projection",
}  # fmt: skip


class DinoTxtText(ShapedTower):
    """CLIP's tokenizer (of open_clip), the transformer and the map into the space of the images (arXiv 2412.16334).

    No batch holds padding; the causal mask makes that equal to padding, as published. Inferred, and not checked against
    the weights: some names, LayerNorm eps 1e-5, that query-key-value maps have no bias and output maps have one.
    """

    kind = "dinotxt"

    def __init__(self, settings: DinoTxtTextSettings) -> None:
        super().__init__(settings)
        self.tokenizer = require("open_clip.tokenizer", "clip").SimpleTokenizer()
        self.network: Any = _network(settings, settings.columns, 1e-5, pool_type="argmax")
        _try_tower()
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
        """See `clip_ids`."""
        return clip_ids(self.tokenizer, texts, self.settings.max_tokens)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids (B, T) that end in the end token -> embeddings (B, dim), not normalised."""
        return read_causally(self.network, ids)[:, -self.dim :]

    def read_published(self, state: Mapping[str, Tensor], *, source: str) -> None:
        """Load DINOv2's file of the text encoder, or DINOv3's of head and text tower, in place and strictly."""
        own = part_of(state, ("text_model.", ""))
        own.pop("logit_scale", None)  # of the contrastive loss
        named = {k: torch.zeros_like(t) for k, t in self.network.state_dict().items() if k.endswith("in_proj_bias")}
        for name, tensor in own.items():
            for theirs, ours in _DINOTXT_NAMES.items():
                name = name.replace(theirs, ours)
            named[name] = tensor.T if name == "text_projection" else tensor
        fit_weights(self.network, named, source=source)
