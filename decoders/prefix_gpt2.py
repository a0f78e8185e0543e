"""The `prefix_gpt2` decoder: network, tokenizer and folder joined.

Knows: how the prefix GPT-2 is created, trained on, saved, loaded and driven by the engine.
Does NOT know: the layers inside, the decoding strategies, the training loop.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as functional
from torch import Tensor

from decoders.base import DECODERS, Decoder, TextMemory
from decoders.clip_tokenizer import ClipTokenizer
from decoders.engine import generate
from decoders.network import PrefixGPT2, PrefixGPT2Config
from decoders.options import Decoded, DecodeOptions
from decoders.quantized import Precision, quantized
from decoders.tokenizer import CaptionTokenizer, TextTokenizer
from patchioner.base.errors import CheckpointError, DecoderError, OptionError, TextError
from patchioner.base.files import write_json
from patchioner.base.inference import inference_copy
from patchioner.base.weights import Storage, fit_weights, load_weights, save_weights

TYPE = "prefix_gpt2"
CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE = "config.json", "weights.safetensors", "tokenizer.json"
_TOKENIZERS: dict[str, Callable[[Path], TextTokenizer]] = {
    "caption": CaptionTokenizer.load,
    "clip": ClipTokenizer.load,
}


@DECODERS.register(TYPE)
class PrefixGPT2Decoder(Decoder):
    """A small GPT-2 that reads an embedding as its first input (the DeCap form).

    The network may have more tokens than the tokenizer (the published DeCap: GPT-2's 50,257 beside CLIP's 49,408);
    those beyond are never trained, write nothing, and are not kept from being generated.

    Example:
        >>> decoder = PrefixGPT2Decoder.create(
        ...     ["a red bus", "a cat"], embedding_dim=8, layers=1, width=16, heads=2,
        ...     vocab_size=260)
        >>> len(decoder.generate(torch.randn(3, 8), DecodeOptions(max_tokens=5)))
        3
    """

    precision: Precision | None = None  # set by `quantized`

    def __init__(self, network: PrefixGPT2, tokenizer: TextTokenizer) -> None:
        fewer = network.config.vocab_size < tokenizer.vocab_size
        if fewer or (
            tokenizer.kind == "caption" and network.config.vocab_size != tokenizer.vocab_size
        ):
            raise CheckpointError(
                f"the network has {network.config.vocab_size} tokens, the tokenizer "
                f"{tokenizer.vocab_size}; they come from different decoders"
            )
        self.network = network.eval()
        self.tokenizer = tokenizer

    @classmethod
    def create(
        cls,
        texts: Sequence[str],
        *,
        embedding_dim: int,
        layers: int = 4,
        width: int = 320,
        heads: int = 4,
        vocab_size: int = 8000,
        positions: int = 64,
        dropout: float = 0.1,
        normalize_input: bool = True,
        emit_start: bool = False,
        seed: int = 0,
    ) -> Self:
        """Train a tokenizer on `texts` and make a fresh, untrained network for it.

        Args:
            texts: the corpus, one caption each.
            vocab_size: most tokens; a small corpus gives fewer.
            seed: of the initial weights.
            embedding_dim, layers, width, heads, positions, dropout, normalize_input, emit_start:
                see `PrefixGPT2Config`.

        Raises:
            TextError: without any text.
            OptionError: when the numbers do not fit together.
        """
        if not any(text.strip() for text in texts):
            raise TextError("the corpus holds no text; give at least one caption")
        tokenizer = CaptionTokenizer.train(texts, vocab_size=vocab_size)
        config = PrefixGPT2Config(
            embedding_dim=embedding_dim,
            vocab_size=tokenizer.vocab_size,
            layers=layers,
            width=width,
            heads=heads,
            positions=positions,
            dropout=dropout,
            normalize_input=normalize_input,
            emit_start=emit_start,
        )
        return cls(PrefixGPT2(config, seed=seed), tokenizer)

    @property
    def embedding_dim(self) -> int:
        """Width of the embeddings it takes."""
        return self.network.config.embedding_dim

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.network.transformer.wpe.weight.device

    def generate(
        self,
        embeddings: Tensor,
        options: DecodeOptions | None = None,
        memory: TextMemory | None = None,
    ) -> list[Decoded]:
        """Caption (n, embedding_dim) float embeddings; see `Decoder.generate`."""
        if options is None:
            options = DecodeOptions()
            options = replace(options, max_tokens=min(options.max_tokens, self.max_tokens))
        return generate(
            self.network,
            self,
            embeddings,
            options,
            embedding_dim=self.embedding_dim,
            device=self.device,
        )

    def save(self, folder: str | Path, *, storage: Storage = "fp16") -> None:
        """Write config.json, weights.safetensors and tokenizer.json.

        Raises:
            DecoderError: for a decoder made by `quantized`.
        """
        if self.precision is not None:
            raise DecoderError(
                f"a decoder in {self.precision} is not saved: save the one it was made of "
                '(storage="int8" keeps its file small)'
            )
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self.network.state_dict(), folder / WEIGHTS_FILE, storage=storage)
        self.tokenizer.save(folder / TOKENIZER_FILE)
        config = {"type": TYPE, "tokenizer": self.tokenizer.kind, **asdict(self.network.config)}
        write_json(folder / CONFIG_FILE, config)

    @classmethod
    def load(cls, folder: Path, config: dict[str, Any]) -> Self:
        """Read what `save` wrote, strictly.

        Raises:
            CheckpointError: for a missing, damaged or unfitting file.
        """
        settings = dict(config)
        kind = settings.pop("tokenizer", "caption")
        if kind not in _TOKENIZERS:
            known = ", ".join(map(repr, _TOKENIZERS))
            raise CheckpointError(
                f"{folder / CONFIG_FILE}: tokenizer {kind!r} is unknown: use one of {known}"
            )
        try:
            network = PrefixGPT2(PrefixGPT2Config(**settings))
        except (TypeError, OptionError) as error:
            raise CheckpointError(f"{folder / CONFIG_FILE}: {error}") from error
        path = folder / WEIGHTS_FILE
        fit_weights(network, load_weights(path), source=str(path))
        return cls(network, _TOKENIZERS[kind](folder / TOKENIZER_FILE))

    def to(
        self,
        device: str | torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        optimize: bool = True,
    ) -> Self:
        """A copy for inference there; see `Decoder.to`. One made by `quantized` keeps its precision."""
        kept = self.network.transformer.wpe.weight.dtype if self.precision else dtype
        made = copy.copy(self)
        made.network = inference_copy(self.network, device, kept, optimize=optimize)
        return made

    def quantized(self, precision: Precision) -> Self:
        """This decoder in fewer bits, "int8" or "bf16": faster, its captions nearly the same.

        A copy, for decoding alone: it is neither trained nor saved. See `decoders.quantized`.

        Raises:
            OptionError: another precision.

        Example:
            >>> decoder.quantized("int8").generate(rows)  # doctest: +SKIP
        """
        made = type(self)(quantized(self.network, precision), self.tokenizer)
        made.precision = precision
        return made

    # What the engine asks of a vocabulary.

    @property
    def end_id(self) -> int:
        """The token that ends a caption."""
        return self.tokenizer.end_id

    @property
    def unwritable_ids(self) -> Sequence[int]:
        """Tokens that must never be generated."""
        if self.network.config.emit_start:
            return self.tokenizer.unwritable_ids
        return (*self.tokenizer.unwritable_ids, self.tokenizer.start_id)

    def token_texts(self) -> list[str]:
        """What each token writes, by id; "" for special tokens and those beyond the tokenizer."""
        texts = self.tokenizer.token_texts()
        return [*texts, *[""] * (self.network.config.vocab_size - len(texts))]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids."""
        return self.tokenizer.decode(token_ids)

    # What training asks.

    @property
    def module(self) -> PrefixGPT2:
        """The weights to train."""
        return self.network

    @property
    def max_tokens(self) -> int:
        """Most tokens that a training sequence can hold."""
        return self.network.max_tokens

    def sequences(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text as trained: [start] words end."""
        opening = [self.tokenizer.start_id] if self.network.config.emit_start else []
        return [[*opening, *ids, self.end_id] for ids in self.tokenizer.encode(texts)]

    def loss(
        self, embeddings: Tensor, tokens: Tensor, lengths: Tensor, *, label_smoothing: float = 0.0
    ) -> Tensor:
        """Mean cross-entropy of the real tokens; see `TrainableDecoder.loss`.

        Padding stands at the end, where causal attention hides it from every real token, so no
        mask is needed; logits (the costly part) are computed for real positions alone.
        """
        hidden = self.network(embeddings, tokens[:, :-1])
        real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        logits = self.network.logits(hidden[real])
        return functional.cross_entropy(
            logits.float(), tokens[real], label_smoothing=label_smoothing
        )
