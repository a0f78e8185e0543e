"""CLIP's text tower through open_clip: sentence -> vector in CLIP's joint space.

Knows: open_clip's public interface, its tokenizer, the text half of a model. Does not know: photos, regions, banks.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchioner.backbones.open_clip_models import fetch_model, model_config
from patchioner.base.errors import OptionError, TextError
from patchioner.base.optional import require
from patchioner.base.weights import fit_weights
from patchioner.checkpoints.stored import settings_of
from patchioner.text.base import TEXT_TOWERS, TextTower, check_texts
from patchioner.text.bert import equal_lengths

logger = logging.getLogger(__name__)

# open_clip builds both halves of a model; the other one is made as small as it will go and dropped.
_NO_VISION = {"layers": 1, "width": 8, "head_width": 8, "patch_size": 8, "image_size": 8}
# The text half of a model that open_clip keeps in one piece with the visual half.
_TEXT_PARTS = (
    "positional_embedding",
    "token_embedding.",
    "transformer.",
    "ln_final.",
    "text_projection",
)


class OpenClipText(TextTower):
    """The text tower of an open_clip model; the visual half is neither kept nor stored.

    Args:
        name: an open_clip model, e.g. ``ViT-B-16`` (unknown names get the close ones).
        architecture, quick_gelu, pretrained: as for `patchioner.backbones.open_clip_vit.OpenClipViT`.

    A text longer than the tower's context (77 tokens for CLIP) is cut and keeps its end token, as open_clip cuts it;
    one warning says how many were. (The published code raises for such a text.)

    Raises:
        OptionError: the model's texts are read by another library's network or tokenizer.

    Example:
        >>> tower = OpenClipText("ViT-B-16", quick_gelu=True)  # doctest: +SKIP
        >>> tuple(tower.encode(["a red bus", "two dogs"]).shape)  # doctest: +SKIP
        (2, 512)
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
        self.text: Any = _text(name, settings)
        self.tokenizer: Any = _tokenizer(name, settings["text_cfg"], self.text)
        if pretrained is not None:
            model = fetch_model(name, pretrained, quick_gelu=self.quick_gelu)
            fit_weights(self.text, _text_state(model), source=f"{name} {pretrained}")
        # What follows the end token reaches nothing before it, so padding need not be computed.
        self._causal = (
            self.text.attn_mask is not None
            and self.text.cls_emb is None
            and not getattr(self.text, "use_pad_mask", False)
            and self.text.pool_type == "argmax"
        )
        self.eval()

    @property
    def dim(self) -> int:
        """Width of CLIP's joint space."""
        projected = self.text.text_projection is not None
        return int(self.text.output_dim if projected else self.text.width)

    @property
    def context_length(self) -> int:
        """Most tokens of a text, start and end tokens included."""
        return int(self.text.context_length)

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
        """Ids of each text with start and end tokens; those beyond `context_length` are cut, with one warning.

        Raises:
            TextError: cleaning leaves nothing of a text.
        """
        start, end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        limit, cut, result = self.context_length, 0, []
        for index, text in enumerate(texts):
            words = self.tokenizer.encode(text)
            if not words:
                raise TextError(f"text {index} is {text!r}: CLIP's cleaning leaves nothing of it")
            cut += len(words) > limit - 2
            result.append([start, *words[: limit - 2], end])
        if cut:
            logger.warning(
                "%d of %d texts are longer than %d tokens and were cut", cut, len(result), limit
            )
        return result

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids -> embeddings (B, dim), not normalised.

        Args:
            ids: (B, T) int64 that end in the end token (a causal tower), or are padded with 0 to the full context.
        """
        if not self._causal:
            whole: Tensor = self.text(ids)
            return whole
        text, length = self.text, ids.shape[1]
        x = text.token_embedding(ids) + text.positional_embedding[:length]
        x = text.transformer(x, attn_mask=text.attn_mask[:length, :length])
        # The end token has the highest id of all; open_clip reads the first, where a text spells it out.
        rows = torch.arange(len(ids), device=ids.device)
        pooled: Tensor = text.ln_final(x[rows, ids.argmax(dim=1)])
        projection = text.text_projection
        if isinstance(projection, torch.nn.Linear):
            pooled = projection(pooled)
        elif projection is not None:
            pooled = pooled @ projection
        return pooled

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], *, batch: int = 256) -> Tensor:
        """Embed texts; see `TextTower.encode`. Texts of one length share passes, so no padding is computed."""
        check_texts(texts)
        sequences = self.token_ids(texts)
        if not self._causal:
            sequences = [ids + [0] * (self.context_length - len(ids)) for ids in sequences]
        device = self.text.positional_embedding.device
        result = torch.empty(len(texts), self.dim)
        for rows, ids in equal_lengths(sequences, batch):
            result[rows] = self(ids.to(device)).to("cpu", torch.float32)
        return result


def _text(name: str, settings: Mapping[str, Any]) -> Any:
    text = {**settings["text_cfg"], "output_tokens": False}
    for key in ("hf_model_name", "hf_tokenizer_name"):
        if text.get(key):
            raise OptionError(
                f"texts of {name!r} are read by {text[key]!r} of another library, which is not supported here: "
                "choose a model with CLIP's own text tower, such as 'ViT-B-16'"
            )
    open_clip = require("open_clip", "clip")
    try:
        model = open_clip.CustomTextCLIP(
            settings["embed_dim"], dict(_NO_VISION), text, quick_gelu=settings["quick_gelu"]
        )
    except (TypeError, ValueError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        raise OptionError(f"open_clip cannot build the text tower of {name!r}: {error}") from error
    return model.text


def _tokenizer(name: str, settings: Mapping[str, Any], text: Any) -> Any:
    clean = (settings.get("tokenizer_kwargs") or {}).get("clean", "lower")
    tokenizer = require("open_clip", "clip").SimpleTokenizer(clean=clean)
    if tokenizer.vocab_size > text.vocab_size:
        raise OptionError(
            f"the text tower of {name!r} has {text.vocab_size} tokens, CLIP's tokenizer {tokenizer.vocab_size}: "
            f"set vocab_size to {tokenizer.vocab_size}"
        )
    if text.context_length < 3:
        raise OptionError(
            f"context_length {text.context_length} of {name!r} leaves no room for a word between the start and end "
            "tokens: use 3 or more"
        )
    return tokenizer


def _text_state(model: Any) -> dict[str, Tensor]:
    """State dict of a model's text half, whether open_clip keeps it apart or not."""
    if hasattr(model, "text"):
        return dict(model.text.state_dict())
    return {k: v for k, v in model.state_dict().items() if k.startswith(_TEXT_PARTS)}


@TEXT_TOWERS.register("open_clip")
def _load(folder: Path, config: dict[str, Any]) -> OpenClipText:
    with settings_of(folder):
        tower = OpenClipText(
            config["name"],
            architecture=config.get("architecture"),
            quick_gelu=config.get("quick_gelu"),
        )
    tower.restore(folder)
    return tower
