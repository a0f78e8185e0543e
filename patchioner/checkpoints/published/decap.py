"""The published DeCap and CapDec decoders: their state dict becomes our `prefix_gpt2`.

Knows: the names and the transposed layout of GPT-2's weights (spec: `decoder.transformer...`, `clip_project...`).
Does not know: memory banks or backbones.

What differs from the published code, and why: decoding keeps keys and values and stops at the end token instead of
always running 30 steps (the tokens up to there are the same); one token that cannot be written does not void the
batch; files are loaded strictly; a caption's score is the mean log-probability of its own tokens, not the product
over everything written after the end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from decoders import PrefixGPT2Decoder
from decoders.clip_tokenizer import ClipTokenizer
from decoders.network import PrefixGPT2, PrefixGPT2Config
from patchioner.base.errors import CheckpointError, OptionError
from patchioner.base.weights import fit_weights
from patchioner.checkpoints.tensor_files import check_names, read_tensors

HEADS = 4  # not in the tensors; the same in all published decoders
_BODY = "decoder.transformer."
_HEAD = "decoder.lm_head.weight"
_PROJECTION = "clip_project.model.0."
_MASKS = re.compile(r"decoder\.transformer\.h\.\d+\.attn\.(bias|masked_bias)")
_TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def read_decap(
    path: Path,
    *,
    prefix_size: int | None = None,
    heads: int = HEADS,
    tokenizer: ClipTokenizer | None = None,
) -> PrefixGPT2Decoder:
    """Read a published DeCap file (`.pt`, `.pth` or safetensors).

    Args:
        path: the state dict. Prefixes of distributed training, old files' buffers of causal masks and half precision
            are understood.
        prefix_size: width that its embeddings must have; None takes any.
        heads: attention heads, which the tensors do not tell.
        tokenizer: CLIP's; None reads it out of an installed open_clip.

    Returns:
        A decoder that generates the token ids that the published greedy loop generates up to the end token: the start
        token first, embeddings as they come (not normalised), nothing banned.

    Raises:
        CheckpointError: not exactly the tensors of a DeCap decoder, of one shape throughout; an output layer that is
            not the embedding itself; a pickle that would execute something.

    Example:
        >>> decoder = read_decap(Path("decap-009.pt"), prefix_size=768)  # doctest: +SKIP
    """
    state = {
        name: tensor for name, tensor in read_tensors(path).items() if not _MASKS.fullmatch(name)
    }
    config = _config(state, heads, str(path))
    if path.suffix == ".safetensors" and _HEAD not in state:  # the format stores tied tensors once
        state[_HEAD] = state.get(f"{_BODY}wte.weight", torch.empty(0))
    check_names(state, _shapes(config), str(path), "a DeCap decoder")
    if not torch.equal(state[_HEAD], state[f"{_BODY}wte.weight"]):
        raise CheckpointError(
            f"{path}: {_HEAD} differs from {_BODY}wte.weight; in a DeCap decoder they are one tensor"
        )
    if prefix_size not in (None, config.embedding_dim):
        raise CheckpointError(
            f"{path}: takes embeddings of width {config.embedding_dim}, the config says prefix_size {prefix_size}"
        )
    network = PrefixGPT2(config)
    fit_weights(network, _renamed(state), source=str(path))
    try:
        return PrefixGPT2Decoder(network, tokenizer or ClipTokenizer.from_open_clip())
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _config(state: Mapping[str, Tensor], heads: int, source: str) -> PrefixGPT2Config:
    """The shape that the two embeddings, the projection and the number of layers tell."""
    corners = (f"{_BODY}wte.weight", f"{_BODY}wpe.weight", f"{_PROJECTION}weight")
    absent = [name for name in corners if name not in state or state[name].dim() != 2]
    if absent:
        raise CheckpointError(
            f"{source}: not the tensors of a DeCap decoder: missing {', '.join(absent)}"
        )
    words, positions, projection = (state[name] for name in corners)
    layers = {
        int(found[1])
        for name in state
        if (found := re.match(r"decoder\.transformer\.h\.(\d+)\.", name))
    }
    try:
        return PrefixGPT2Config(
            embedding_dim=projection.shape[1],
            vocab_size=words.shape[0],
            layers=len(layers),
            width=words.shape[1],
            heads=heads,
            positions=positions.shape[0],
            normalize_input=False,
            emit_start=True,
        )
    except OptionError as error:
        raise CheckpointError(f"{source}: {error}") from error


def _shapes(config: PrefixGPT2Config) -> dict[str, tuple[int, ...]]:
    """Published names and shapes of a decoder of this form."""
    with torch.device("meta"):
        ours = PrefixGPT2(config).state_dict()
    shapes = {
        _published_name(name): _published_shape(name, tensor) for name, tensor in ours.items()
    }
    return {**shapes, _HEAD: (config.vocab_size, config.width)}


def _published_name(name: str) -> str:
    if name.startswith("prefix."):
        return _PROJECTION + name.removeprefix("prefix.")
    return "decoder." + name


def _published_shape(name: str, tensor: Tensor) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    return shape[::-1] if name.endswith(_TRANSPOSED) else shape


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in state.items():
        if name == _HEAD:
            continue
        own = name.removeprefix("decoder.").replace(_PROJECTION, "prefix.")
        renamed[own] = tensor.T if own.endswith(_TRANSPOSED) else tensor
    return renamed
