"""The `prefix_gpt2` decoder: network, tokenizer and folder joined; and its copies in fewer bits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from decoders.base import (
    CONFIG_FILE,
    DECODERS,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    Decoded,
    DecodeOptions,
    TextMemory,
    TrainableDecoder,
    reading,
)
from decoders.gpt2 import PrefixGPT2, PrefixGPT2Config
from decoders.guidance import Guide
from decoders.search import generate
from decoders.tokenizers import CaptionTokenizer, ClipTokenizer, TextTokenizer
from patchioner.base.errors import CheckpointError, DecoderError, OptionError, TextError
from patchioner.base.files import write_json
from patchioner.base.weights import (
    Storage,
    fit_weights,
    int8_product,
    load_weights,
    quantize_rows,
    save_weights,
)

Precision = Literal["int8", "bf16"]
_TOKENIZERS: dict[str, Callable[[Path], TextTokenizer]] = {
    "caption": CaptionTokenizer.load,
    "clip": ClipTokenizer.load,
}


@DECODERS.register("prefix_gpt2")
class PrefixGPT2Decoder(TrainableDecoder):
    """A small GPT-2 that reads an embedding as its first input (the DeCap form).

    The network may have more tokens than the tokenizer (the published DeCap: GPT-2's 50,257 beside CLIP's 49,408);
    those beyond are never trained, write nothing, and are not kept from being generated.
    """

    network: PrefixGPT2
    precision: Precision | None = None  # set by `quantized`

    def __init__(self, network: PrefixGPT2, tokenizer: TextTokenizer) -> None:
        size = network.config.vocab_size
        least = tokenizer.vocab_size
        if size < least or (size > least and tokenizer.kind == "caption"):
            raise CheckpointError(
                f"the network has {size} tokens, the tokenizer {tokenizer.vocab_size}; "
                "they come from different decoders"
            )
        self.network, self.tokenizer = network.eval(), tokenizer

    @classmethod
    def create(
        cls,
        texts: Sequence[str],
        *,
        embedding_dim: int,
        vocab_size: int = 8000,
        seed: int = 0,
        **shape: Any,
    ) -> Self:
        """Train a tokenizer of at most `vocab_size` tokens on `texts`, and make an untrained network for it.

        The shape is that of `PrefixGPT2Config`. TextError without any text, OptionError for numbers that do not fit.
        """
        if not any(text.strip() for text in texts):
            raise TextError("the corpus holds no text; give at least one caption")
        tokenizer = CaptionTokenizer.train(texts, vocab_size=vocab_size)
        config = PrefixGPT2Config(embedding_dim, tokenizer.vocab_size, **shape)
        return cls(PrefixGPT2(config, seed=seed), tokenizer)

    @property
    def embedding_dim(self) -> int:
        """Width of the embeddings it takes."""
        return self.network.config.embedding_dim

    @property
    def max_tokens(self) -> int:
        """Most tokens of a caption, the end token included."""
        return self.network.max_tokens

    def _generate(
        self,
        embeddings: Tensor,
        options: DecodeOptions | None,
        memory: TextMemory | None,
        guide: Guide | None,
    ) -> list[Decoded]:
        if options is None:
            options = DecodeOptions(max_tokens=min(DecodeOptions().max_tokens, self.max_tokens))
        return generate(self.network, self, embeddings, options, self.device, guide)

    def save(self, folder: str | Path, *, storage: Storage = "fp16") -> None:
        """Write config.json, weights.safetensors and tokenizer.json; not (DecoderError) of a quantized decoder."""
        if self.precision is not None:
            raise DecoderError(
                f"a decoder in {self.precision} is not saved: save the one it was made of "
                '(storage="int8" keeps its file small)'
            )
        folder = Path(folder)
        save_weights(self.network.state_dict(), folder / WEIGHTS_FILE, storage=storage)
        self.tokenizer.save(folder / TOKENIZER_FILE)
        kind = {"type": "prefix_gpt2", "tokenizer": self.tokenizer.kind}
        write_json(folder / CONFIG_FILE, kind | asdict(self.network.config))

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path) -> Self:
        """Read what `save` wrote; see `Decoder.from_config`."""
        settings = dict(config)
        kind = settings.pop("tokenizer", "caption")
        if not isinstance(kind, str) or kind not in _TOKENIZERS:
            wrong = f"{folder / CONFIG_FILE}: tokenizer {kind!r} is unknown"
            raise CheckpointError(f"{wrong}: use one of {', '.join(_TOKENIZERS)}")
        with reading(folder / CONFIG_FILE):
            network = PrefixGPT2(PrefixGPT2Config(**settings))
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
        """As `Decoder.to`. A decoder made by `quantized` keeps its precision."""
        kept = self.network.transformer.wpe.weight.dtype if self.precision else dtype
        return super().to(device, kept, optimize=optimize)

    def quantized(self, precision: Precision) -> Self:
        """This decoder in fewer bits: "bf16" (half the memory traffic) or "int8" (a quarter), captions nearly the same.

        A copy, for decoding alone. In int8 weights are rounded once, what comes in at each call, each row by itself,
        so that no row minds its batch.
        """
        if precision not in get_args(Precision):
            raise OptionError(f"precision {precision!r} is not one of {get_args(Precision)}")
        if precision == "bf16":
            made = self._over(copy.deepcopy(self.network).to(torch.bfloat16).requires_grad_(False))
        else:
            made = self._over(Int8PrefixGPT2(self.network))
        made.precision = precision
        return made

    # What the loop asks of a vocabulary.

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The token that ends a caption."""
        return self.tokenizer.end_ids

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

    def sequences(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text as trained: [start] words end."""
        opening = [self.tokenizer.start_id] if self.network.config.emit_start else []
        return [[*opening, *ids, self.tokenizer.end_id] for ids in self.tokenizer.encode(texts)]

    def loss(
        self, embeddings: Tensor, tokens: Tensor, lengths: Tensor, *, label_smoothing: float = 0.0
    ) -> Tensor:
        """See `TrainableDecoder.loss`; causality hides the padding from the real tokens."""
        hidden = self.network(embeddings, tokens[:, :-1])
        real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        logits = self.network.logits(hidden[real])
        return functional.cross_entropy(
            logits.float(), tokens[real], label_smoothing=label_smoothing
        )


class Int8Linear(nn.Module):
    """A linear layer with 8-bit weights and, at each call, 8-bit inputs."""

    rows: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        rows, scales = quantize_rows(weight.detach())
        self.register_buffer("rows", rows)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) float to (..., out) float32."""
        flat = inputs.reshape(-1, inputs.shape[-1])
        out = self.product(flat, 0, len(self.rows))
        return out.view(*inputs.shape[:-1], -1)

    def product(self, inputs: Tensor, first: int, last: int) -> Tensor:
        """(n, in) float to float32 (n, last - first), of these rows of the weight."""
        rows, scales = quantize_rows(inputs)
        out = int8_product(rows, self.rows[first:last]).float()
        out.mul_(self.scales[first:last]).mul_(scales[:, None])
        return out if self.bias is None else out.add_(self.bias[first:last])


class Int8Embedding(Int8Linear):
    """Rows of an 8-bit table, read as float32; the same table is the output matrix, an `OutputHead`."""

    whole = False

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight, None)
        self.num_embeddings, self.embedding_dim = weight.shape
        self.vocab_size = len(weight)

    def forward(self, ids: Tensor) -> Tensor:
        """(...,) int64 to (..., width) float32."""
        return self.rows[ids] * self.scales[ids, None]

    def logits(self, states: Tensor, first: int, last: int) -> Tensor:
        """Float32 logits (n, last - first) of (n, width) states."""
        return self.product(states, first, last)


class Int8PrefixGPT2(PrefixGPT2):
    """A copy of a prefix GPT-2 whose linear layers and word table are 8-bit; the rest stays float32."""

    def __init__(self, network: PrefixGPT2) -> None:
        nn.Module.__init__(self)
        self.config = network.config
        self._reset_derived()
        self.prefix = copy.deepcopy(network.prefix).float()
        self.transformer = copy.deepcopy(network.transformer)
        # The position table is short and stays as it is; the word table is most of the weights.
        self.transformer.wte = Int8Embedding(network.transformer.wte.weight)  # type: ignore[assignment]
        for path, layer in list(self.transformer.named_modules()):
            if isinstance(layer, nn.Linear):
                parent, _, name = path.rpartition(".")
                made = Int8Linear(layer.weight, layer.bias)
                self.transformer.get_submodule(parent).register_module(name, made)
        self.transformer.float().requires_grad_(False)
        self.requires_grad_(False).eval()

    @property
    def head(self) -> Any:
        """Makes logits of states, any stretch of the vocabulary at a time."""
        return self.transformer.wte

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) hidden states to (..., vocab_size) logits."""
        flat = self.head.logits(hidden.reshape(-1, hidden.shape[-1]), 0, self.config.vocab_size)
        out: Tensor = flat.view(*hidden.shape[:-1], -1)
        return out
