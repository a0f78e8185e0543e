"""Random weights that make a speed comparison honest: outputs that differ, and captions that end where they should.

Knows: what initial weights hide (tokens all alike, one word for ever), and how an end token is made to win at a chosen
place. Does NOT know shapes' names, banks or clocks.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.naive import NaiveDecoder
from decoders import CaptionTokenizer, PrefixGPT2Decoder

CAPTION_TOKENS = 12
"""Where captions of COCO end, on average, the end token included."""
_LAYER_SCALE, _SPREAD = 0.3, 3.0
_RISE = 0.25  # of the end token's logit for each position, in standard deviations of a logit
_TEXTS = ("a red bus on a street", "two dogs play in the snow", "a bowl of fruit on a table")
_CLIP_TOKENS = 49408


@torch.no_grad()
def spread_backbone(vit: nn.Module) -> None:
    """Change a fresh transformer in place so that patches, and so regions, get different tokens.

    timm starts DINOv2's layer scales at 1e-5, with which no block would add anything to its input.
    """
    for name, parameter in vit.named_parameters():
        if name.endswith("gamma"):
            parameter.fill_(_LAYER_SCALE)
        elif parameter.dim() >= 2 and "pos_embed" not in name:
            parameter.mul_(_SPREAD)


def random_decoder(
    *,
    embedding_dim: int,
    layers: int,
    width: int,
    heads: int,
    vocabulary: int | None,
    ends: bool,
    seed: int,
) -> PrefixGPT2Decoder:
    """A decoder of the published form with random weights, whose captions end after 12 tokens or so, or never.

    Args:
        embedding_dim, layers, width, heads: of the network.
        vocabulary: tokens of the network, 49,408 or more, beside CLIP's tokenizer (needs the extra "clip"); None is a
            small tokenizer made on the spot.
        ends: whether captions end.
        seed: of the weights.

    Example:
        >>> random_decoder(embedding_dim=8, layers=1, width=16, heads=2, vocabulary=None, ends=False, seed=0)
        PrefixGPT2Decoder(...)  # doctest: +SKIP
    """
    from decoders.gpt2 import PrefixGPT2, PrefixGPT2Config

    tokenizer = _tokenizer(vocabulary)
    shape = PrefixGPT2Config(
        embedding_dim,
        vocabulary or tokenizer.vocab_size,
        layers=layers,
        width=width,
        heads=heads,
        positions=1024 if vocabulary else 40,
        normalize_input=False,
        emit_start=True,
    )
    network = PrefixGPT2(shape, seed=seed).eval()
    _spread_decoder(network, seed=seed)
    _silence(network, tokenizer)
    if ends:
        _end_after(network, tokenizer, seed=seed)
    return PrefixGPT2Decoder(network, tokenizer)


def _tokenizer(vocabulary: int | None) -> Any:
    if vocabulary is None:
        return CaptionTokenizer.train(_TEXTS, vocab_size=300)
    from decoders.tokenizers import ClipTokenizer

    return ClipTokenizer.from_open_clip()


@torch.no_grad()
def _spread_decoder(network: Any, *, seed: int) -> None:
    """Scale initial weights so that each step's state depends on prefix and history, not on the last word alone.

    The output matrix is the input's own: with small layers, every word would be followed by itself.
    """
    width = network.config.width
    generator = torch.Generator().manual_seed(seed + 1)
    network.prefix.weight.normal_(0.0, 1.0, generator=generator)
    for name, parameter in network.named_parameters():
        if ".h." in name and parameter.dim() == 2:
            fan_in = parameter.shape[1]
            parameter.normal_(0.0, 2.0 / math.sqrt(fan_in), generator=generator)
        elif "wte" in name or "wpe" in name:
            parameter.normal_(0.0, 8.0 / math.sqrt(width), generator=generator)


@torch.no_grad()
def _silence(network: Any, tokenizer: Any) -> None:
    """No caption ends, and none holds what cannot be written: these tokens' logits are 0, the others' best far above.

    The published system writes nothing at all where a token is beyond CLIP's vocabulary; ours leaves it out.
    """
    words = network.transformer.wte.weight
    words[[tokenizer.end_id, tokenizer.start_id, *tokenizer.unwritable_ids]] = 0.0
    words[tokenizer.vocab_size :] = 0.0


@torch.no_grad()
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
    scale, best, spread = _sample(network, tokenizer, seed=seed)
    steps = torch.arange(network.config.positions, dtype=torch.float32)
    wanted = best + _RISE * spread * (steps - (CAPTION_TOKENS - 1))
    body.wpe.weight[:, 0] = scale * wanted / best  # about `wanted / best` after the last norm
    body.wte.weight[tokenizer.end_id, 0] = best


def _sample(network: Any, tokenizer: Any, *, seed: int) -> tuple[float, float, float]:
    """Of captions of random vectors: the deviation of states before the last norm; the logits' best and deviation."""
    generator = torch.Generator().manual_seed(seed + 2)
    prefixes = nn.functional.normalize(
        torch.randn(8, network.config.embedding_dim, generator=generator), dim=1
    )
    # Not our engine: it may keep what it derived of weights, and these will change.
    naive = NaiveDecoder(PrefixGPT2Decoder(network, tokenizer))
    words = torch.tensor(naive.token_ids(prefixes, CAPTION_TOKENS))
    inputs: list[Tensor] = []
    hook = network.transformer.ln_f.register_forward_pre_hook(
        lambda module, given: inputs.append(given[0])
    )
    logits: Tensor = network.logits(network(prefixes, words))
    hook.remove()
    deviation = float(inputs[0].std(dim=-1).mean())
    return deviation, float(logits.amax(dim=-1).mean()), float(logits.std())
