"""Published weights of vision transformers -> the parameters of timm's networks.

Knows: the layouts of published state dicts, by way of timm's converters. Does not know: files, nor what a network is
used for. Every tensor must find its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import Tensor

from patchioner.base.errors import CheckpointError
from patchioner.base.weights import fit_weights


def part_of(state: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors under the first of the prefixes that any name has, without it; "" takes all."""
    for prefix in prefixes:
        found = {
            name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)
        }
        if found:
            return found
    return {}


def fit_vit(vit: Any, state: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Load a ViT's weights in their authors' layout, strictly.

    Args:
        vit: of `create_vit`, without a classifier; changed in place only if everything fits.
        state: DINOv2's and DINOv3's own layouts, OpenAI's CLIP, open_clip's with a timm trunk, or timm's.
        source: where they come from, for messages.

    Returns:
        What belongs to a classifier ("weight", "bias"), which for CLIP is the visual projection; empty without one.

    Raises:
        CheckpointError: a tensor is missing, left over or of another shape.
    """
    given = _without_absent_biases(vit, state, source)
    try:
        # Each family of timm has a converter beside it, which gets a copy, because some take tensors out.
        converted = import_module(type(vit).__module__).checkpoint_filter_fn(dict(given), vit)
    except (LookupError, RuntimeError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"{source}: not in a layout that timm knows for {type(vit).__name__} ({error!r})"
        ) from error
    classifier = part_of(converted, ("head.",))
    rest = {name: t for name, t in converted.items() if not name.startswith("head.")}
    fit_weights(vit, rest, source=source)
    return classifier


def _without_absent_biases(vit: Any, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Drop zero query-key-value biases that timm's network has no place for (DINOv3 as distilled)."""
    has_place = {name for name, _ in vit.named_parameters()}
    kept = {}
    for name, tensor in state.items():
        absent = name.endswith("attn.qkv.bias") and not has_place & {
            name,
            name.replace("qkv.bias", "q_bias"),
        }
        if absent and "storage_tokens" in state:
            # The key's third is masked out in DINOv3, whatever is stored there.
            query, _, value = tensor.chunk(3)
            if bool(query.any()) or bool(value.any()):
                raise CheckpointError(
                    f"{source}: {name} is not zero, but the architecture has no such bias: "
                    "use the one whose name ends in '_qkvb'"
                )
            continue
        kept[name] = tensor
    return kept
