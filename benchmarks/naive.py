"""The published way of the same work, written plainly on our weights: the slow twin that speed is compared with.

Per image one backbone pass, and attention maps whether asked for or not; boxes four at a time, as the published
evaluation sends them; for each four the whole memory bank normalised into a copy, all similarities and their softmax in
memory; for each four 30 decoding steps, whatever has ended, all positions read again at each, logits at all positions,
a softmax over the vocabulary before the argmax; the text is cut at the end token.

Left out, in the baseline's favour: the extra caption of the CLS token that the published `forward` writes by default,
the key-value cache that its GPT-2 fills and never reads, scores, and attention without a fused kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from decoders import PrefixGPT2Decoder
from patchioner.backbones import preprocess
from patchioner.base.errors import OptionError
from patchioner.geometry import ImageGeometry
from patchioner.regions import Box

CHUNK, STEPS, TEMPERATURE = 4, 30, 0.01
_HEADS, _SCALE = 16, 0.125  # assumed for every width but ViT-S's, though ViT-B has 12 heads


@dataclass(frozen=True)
class NaiveFeatures:
    """Tokens (rows, columns, dim) of an image, its geometry, and `attention_extras`."""

    tokens: Tensor
    geometry: ImageGeometry
    extras: tuple[Tensor, Tensor, Tensor]


class NaiveCaptioner:
    """Photo and boxes in, captions out, in the published order of work.

    Args:
        backbone: a `TimmViT` whose preprocessing stretches, as all published numbers do (else OptionError).
        rows: (N, dim) float32, the memory bank as it comes, not normalised.
        decoder: its weights are used, its engine is not.
    """

    def __init__(self, backbone: Any, rows: Tensor, decoder: PrefixGPT2Decoder) -> None:
        if backbone.preprocessing.mode != "stretch":
            raise OptionError(
                f"the backbone fits photos by {backbone.preprocessing.mode!r}: the published boxes are those of a "
                "stretched image, so set its preprocessing's mode to 'stretch'"
            )
        self.backbone, self.rows, self.decoder = backbone, rows, NaiveDecoder(decoder)

    @torch.inference_mode()
    def project(self, pooled: Tensor) -> Tensor:
        """(n, dim) pooled vectors to the decoder's inputs."""
        return project(pooled, self.rows)

    def token_ids(self, image: Image.Image, boxes: Sequence[Box]) -> list[tuple[int, ...]]:
        """Tokens of each box's caption, up to the end token, of an upright RGB image; four boxes at a time."""
        features = encode(self.backbone, image)
        return [
            self.decoder.until_end(ids)
            for part in chunks(boxes)
            for ids in self.decoder.token_ids(self.project(pool_boxes(features, part)))
        ]


class NaiveDecoder:
    """The DeCap decoder as published, on another's weights: no cache, always 30 steps, logits at every position."""

    def __init__(self, decoder: PrefixGPT2Decoder) -> None:
        self._config = decoder.network.config
        self._end, self._tokenizer = decoder.tokenizer.end_id, decoder.tokenizer
        self._weights = decoder.network.state_dict()

    @torch.inference_mode()
    def token_ids(self, embeddings: Tensor, steps: int = STEPS) -> list[list[int]]:
        """Exactly `steps` tokens for each of (n, dim) embeddings, whatever stands behind the end token."""
        words = self._weights["transformer.wte.weight"]
        if self._config.normalize_input:
            embeddings = functional.normalize(embeddings, dim=-1)
        inputs = self._linear("prefix", embeddings)[:, None]
        found: list[Tensor] = []
        for _ in range(steps):
            logits = self._states(inputs) @ words.T  # at every position
            probabilities = logits[:, -1].softmax(dim=-1)
            found.append(probabilities.argmax(dim=-1, keepdim=True))
            inputs = torch.cat([inputs, words[found[-1]]], dim=1)
        return torch.cat(found, dim=1).tolist()

    def until_end(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """The tokens up to the first end token, which is kept."""
        ids = tuple(token_ids)
        return ids[: ids.index(self._end) + 1] if self._end in ids else ids

    def text(self, token_ids: Sequence[int]) -> str:
        """What the tokens before the end token write."""
        return self._tokenizer.decode(self.until_end(token_ids))

    def _states(self, inputs: Tensor) -> Tensor:
        """(n, positions, width) inputs to final hidden states of all positions."""
        hidden = inputs + self._weights["transformer.wpe.weight"][: inputs.shape[1]]
        for layer in range(self._config.layers):
            name = f"transformer.h.{layer}."
            hidden = hidden + self._attend(name, self._norm(f"{name}ln_1", hidden))
            inner = self._linear(f"{name}mlp.c_fc", self._norm(f"{name}ln_2", hidden))
            inner = functional.gelu(inner, approximate="tanh")
            hidden = hidden + self._linear(f"{name}mlp.c_proj", inner)
        return self._norm("transformer.ln_f", hidden)

    def _attend(self, name: str, hidden: Tensor) -> Tensor:
        parts = self._linear(f"{name}attn.c_attn", hidden).chunk(3, dim=-1)
        query, keys, values = (
            part.unflatten(-1, (self._config.heads, -1)).transpose(1, 2) for part in parts
        )
        mixed = functional.scaled_dot_product_attention(query, keys, values, is_causal=True)
        return self._linear(f"{name}attn.c_proj", mixed.transpose(1, 2).flatten(2))

    def _linear(self, name: str, inputs: Tensor) -> Tensor:
        weights = self._weights
        return functional.linear(inputs, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def _norm(self, name: str, inputs: Tensor) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        eps = self._config.layer_norm_eps
        return functional.layer_norm(inputs, weight.shape, weight, bias, eps)


@torch.inference_mode()
def encode(backbone: Any, image: Image.Image) -> NaiveFeatures:
    """One backbone pass over an upright RGB image, and the attention extras."""
    pixels, geometry = preprocess(image, backbone.preprocessing)
    prefix = int(backbone.vit.num_prefix_tokens)
    caught: list[Tensor] = []
    hook = backbone.vit.blocks[-1].attn.qkv.register_forward_hook(
        lambda module, inputs, output: caught.append(output)
    )
    try:
        tokens = backbone.vit.forward_features(pixels[None])
    finally:
        hook.remove()  # the published hook stays for ever, which costs nothing
    patches, _ = backbone.head(tokens[0, prefix:], tokens[0, 0])
    extras = attention_extras(caught[0], patches, prefix)
    return NaiveFeatures(patches.unflatten(0, geometry.grid), geometry, extras)


def attention_extras(
    projected: Tensor, patches: Tensor, prefix: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What is derived of the last block's queries, keys and values (1, tokens, 3 * width) on every forward.

    Returns:
        The softmax over patches of the heads' mean logits (patches,); the mean over patches of map x token (dim,);
        the same for each head's own map (16, dim).
    """
    count, width = projected.shape[1], projected.shape[2] // 3
    parts = projected.reshape(1, count, 3, _HEADS, width // _HEADS).permute(2, 0, 3, 1, 4)
    query, keys = parts[0] * _SCALE, parts[1]
    logits = query[:, :, 0:1] @ keys[:, :, prefix:].transpose(-2, -1)  # (1, 16, 1, patches)
    mean_map = logits.mean(dim=1).softmax(dim=-1)[0, 0]
    head_maps = logits[:, :, 0].softmax(dim=-1)  # (1, 16, patches)
    averaged = (mean_map[:, None] * patches).mean(dim=0)
    by_head = (head_maps[..., None] * patches[None, None]).mean(dim=2)[0]
    return mean_map, averaged, by_head


def pool_boxes(features: NaiveFeatures, boxes: Sequence[Box]) -> Tensor:
    """The mean token of each box's patches, (n, dim) float32, of an image that was stretched to the input size.

    With patch side p, origin and size of a box in model pixels are divided by p and floored separately; columns
    x .. x + w and rows y .. y + h count, both ends included.
    """
    across, down = features.geometry.scale
    pooled = []
    for box in boxes:
        size = (box.x2 - box.x1) * across, (box.y2 - box.y1) * down
        scaled = torch.tensor([box.x1 * across, box.y1 * down, *size], dtype=torch.float32)
        x, y, width, height = scaled.div(features.geometry.patch_size).floor().int()
        inside = features.tokens[y : y + height + 1, x : x + width + 1]
        share = torch.full(inside.shape[:2], 1 / (inside.shape[0] * inside.shape[1]))
        pooled.append((inside * share[..., None]).sum(dim=(0, 1)))
    return torch.stack(pooled)


def project(queries: Tensor, rows: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Unit vectors of `softmax(cos(queries, rows) / temperature) @ rows` (Li et al. 2023, DeCap, equation 4).

    The raw rows (longer ones weigh more) are normalised into a second array of their size; the (n, N) similarities and
    their softmax are alive together.
    """
    queries = queries / queries.norm(dim=-1, keepdim=True)
    keys = rows / rows.norm(dim=-1, keepdim=True)
    weights = ((queries @ keys.T) / temperature).softmax(dim=-1)
    return functional.normalize(weights @ rows, dim=-1)


def chunks(items: Any) -> list[Any]:
    """Boxes or vectors in parts of four; the last may be shorter."""
    return [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
