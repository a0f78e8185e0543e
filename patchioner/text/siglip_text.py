"""The text tower of SigLIP and SigLIP 2: sentence -> vector in the space of `SiglipViT`'s tokens.

Knows: SigLIP's way of writing text as tokens, open_clip's text transformer. Does not know: photos, regions, banks.

SigLIP 2 (arXiv 2502.14786) reads text in lower case without punctuation, as exactly 64 tokens of Gemma's tokenizer
(end token, then padding), attends in both directions with no mask, and takes the vector of the last position, which
for all but full texts is padding. So the padding is part of the model, and every text is padded to the same length.
"""

from __future__ import annotations

import logging
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from patchioner.backbones.vit_weights import part_of
from patchioner.base.errors import CheckpointError, OptionError, TextError
from patchioner.base.optional import require
from patchioner.base.weights import Storage, fit_weights
from patchioner.text.base import TEXT_TOWERS, TextTower, check_texts

logger = logging.getLogger(__name__)

TOKENIZER_FILE = "tokenizer.json"
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_PREFIXES = ("text.", "text_model.", "")


@dataclass(frozen=True)
class SiglipTextSettings:
    """Shape of a tower: everything its weights depend on; the defaults are ViT-B/16's of SigLIP 2.

    Attributes:
        vocabulary: pieces of the tokenizer.
        dim: width of the embedding space.
        width, layers, heads: of the transformer; its MLPs are four times as wide.
        max_tokens: length that every text is padded or cut to.
        pad_id: the token to pad with (Gemma: 0; SigLIP 1 pads with 1).
        clean: whether texts lose their punctuation and case (SigLIP 2 and 1 alike).

    Raises:
        OptionError: the numbers do not fit together.
    """

    vocabulary: int = 256000
    dim: int = 768
    width: int = 768
    layers: int = 12
    heads: int = 12
    max_tokens: int = 64
    pad_id: int = 0
    clean: bool = True

    def __post_init__(self) -> None:
        for name in ("vocabulary", "dim", "width", "layers", "heads", "max_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise OptionError(
                    f"{name} of the SigLIP text tower is {value!r}: give a whole number, 1 or more"
                )
        if self.width % self.heads:
            raise OptionError(
                f"width {self.width} of the SigLIP text tower is no multiple of its {self.heads} heads"
            )
        if not 0 <= self.pad_id < self.vocabulary:
            raise OptionError(
                f"pad_id {self.pad_id} is outside of the vocabulary of {self.vocabulary} pieces"
            )


class SiglipText(TextTower):
    """Tokenizer and text transformer.

    Args:
        settings: the tower's shape.
        tokenizer: a `tokenizers.Tokenizer` that adds the end token itself (Gemma's, from SigLIP 2's repositories);
            copied, without its padding and truncation.

    Raises:
        MissingExtraError: open_clip is not installed.
        OptionError: the tokenizer has more pieces than the vocabulary.
    """

    def __init__(self, settings: SiglipTextSettings, tokenizer: Tokenizer) -> None:
        super().__init__()
        if tokenizer.get_vocab_size() > settings.vocabulary:
            raise OptionError(
                f"the tokenizer has {tokenizer.get_vocab_size()} pieces, the tower only {settings.vocabulary}: "
                "take the tokenizer that the weights were trained with"
            )
        self.settings = settings
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(settings.max_tokens)  # keeps the end token
        self.network: Any = _network(settings)
        self.eval()

    @property
    def dim(self) -> int:
        """Width of the embedding space."""
        return self.settings.dim

    @property
    def config(self) -> dict[str, Any]:
        """Type and shape."""
        return {"type": "siglip", **asdict(self.settings)}

    def token_ids(self, texts: Sequence[str]) -> Tensor:
        """(n, max_tokens) int64; longer texts are cut, keeping the end token, with a warning.

        Raises:
            TextError: nothing is left of a text without its punctuation.
        """
        cleaned = [canonical(text) if self.settings.clean else text for text in texts]
        for index, text in enumerate(cleaned):
            if not text:
                raise TextError(f"text {index} is {texts[index]!r}: nothing but punctuation")
        encoded = self.tokenizer.encode_batch(cleaned)
        if cut := sum(bool(encoding.overflowing) for encoding in encoded):
            logger.warning(
                "%d of %d texts are longer than %d tokens and were cut",
                cut,
                len(encoded),
                self.settings.max_tokens,
            )
        ids = torch.full((len(encoded), self.settings.max_tokens), self.settings.pad_id)
        for row, encoding in enumerate(encoded):
            ids[row, : len(encoding.ids)] = torch.tensor(encoding.ids)
        return ids

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], *, batch: int = 256) -> Tensor:
        """Embed texts; see `TextTower.encode`."""
        check_texts(texts)
        ids = self.token_ids(texts)
        device = self.network.positional_embedding.device
        parts = [
            self.network(part.to(device)).to("cpu", torch.float32) for part in ids.split(batch)
        ]
        return torch.cat(parts) if len(texts) else torch.empty(0, self.dim)

    def read_published(self, state: Mapping[str, Tensor], *, source: str) -> None:
        """Load the text half of an open_clip SigLIP checkpoint, in place and strictly.

        Args:
            state: names and tensors; those under ``text.`` are taken.
            source: where they come from, for messages.
        """
        fit_weights(self.network, part_of(state, _PREFIXES), source=source)

    def save(self, folder: Path, *, storage: Storage = "fp16") -> None:
        """Write config.json, weights.safetensors and tokenizer.json."""
        super().save(folder, storage=storage)
        (folder / TOKENIZER_FILE).write_text(self.tokenizer.to_str(), encoding="utf-8")

    @classmethod
    def of_file(cls, path: Path, settings: SiglipTextSettings) -> Self:
        """A tower with the tokenizer of a file and fresh weights; CheckpointError where the file is no tokenizer."""
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the tokenizers library raises bare Exception
            raise CheckpointError(
                f"{path} is no tokenizer ({error}): fetch the checkpoint again"
            ) from error
        return cls(settings, tokenizer)


def canonical(text: str) -> str:
    """Lower case without ASCII punctuation, blanks run together, as SigLIP was evaluated.

    Example:
        >>> canonical("A  red_bus, parked.")
        'a red bus parked'
    """
    bare = text.replace("_", " ").translate(_WITHOUT_PUNCTUATION).lower()
    return " ".join(bare.split())


def _network(settings: SiglipTextSettings) -> nn.Module:
    transformer = require("open_clip.transformer", "clip")
    network: nn.Module = transformer.TextTransformer(
        context_length=settings.max_tokens,
        vocab_size=settings.vocabulary,
        width=settings.width,
        heads=settings.heads,
        layers=settings.layers,
        output_dim=settings.dim,
        no_causal_mask=True,
        pool_type="last",
        proj_bias=True,
        norm_layer=partial(transformer.LayerNorm, eps=1e-6),
        act_layer=partial(nn.GELU, approximate="tanh"),
    )
    return network


@TEXT_TOWERS.register("siglip")
def _load(folder: Path, config: dict[str, Any]) -> SiglipText:
    try:
        given = {key: value for key, value in config.items() if key != "type"}
        tower = SiglipText.of_file(folder / TOKENIZER_FILE, SiglipTextSettings(**given))
    except (TypeError, OptionError) as error:
        raise CheckpointError(f"{folder} holds no usable text tower: {error}") from error
    tower.restore(folder)
    return tower
