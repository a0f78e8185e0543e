"""Any timm vision transformer as a dense backbone: patch tokens after the final norm, CLS token, CLS attention.

Knows: timm's public interface. Does not know: regions, text. No hook is ever registered (see `attention`), so threads
may share a model.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from patchioner.backbones.attention import cls_attention, cls_query_keys, published_attention
from patchioner.backbones.base import BACKBONES, SingleViT
from patchioner.backbones.features import Dense
from patchioner.backbones.heads import build_head
from patchioner.base.errors import HubError, OptionError, UnknownNameError
from patchioner.checkpoints.stored import settings_of
from patchioner.geometry import Preprocessing

_NEEDED = ("blocks", "embed_dim", "forward_intermediates", "num_prefix_tokens", "patch_embed")
_OURS = ("pretrained", "num_classes", "dynamic_img_size", "img_size", "patch_size")


class TimmViT(SingleViT):
    """A timm ViT with a visual head: DINOv2 and DINOv3 of any size, CLIP with its projection, and their kin.

    Registers and distillation tokens are left out of the patch tokens. Rotary blocks (DINOv3, EVA-02) give no
    attention: their queries and keys are rotated inside the block, and a wrong map would be worse than none.

    Args:
        name: a timm architecture, e.g. ``vit_small_patch14_dinov2`` (unknown names get the close ones), with the tag
            of its weights after a dot where they are to be fetched.
        preprocessing: input size, fit and normalisation; sizes other than the native one interpolate the position
            embedding, and grids need not be square.
        head: config of the visual head (`build_head`). A linear one is applied to every token alike.
        pretrained: fetch timm's weights from the hub (needs a connection); a linear head takes timm's classifier,
            which for CLIP is the visual projection.
        overrides: arguments of the architecture in timm, e.g. ``{"depth": 2}``.

    Raises:
        UnknownNameError: timm has no such architecture.
        OptionError: it is no ViT, an override is unknown, or the patch size differs from the preprocessing's.

    Example:
        >>> backbone = TimmViT("vit_tiny_patch16_224", Preprocessing("stretch", 64, 16))
        >>> features = backbone.encode([Image.new("RGB", (320, 240))])[0]
        >>> tuple(features.tokens.shape)
        (4, 4, 192)
    """

    def __init__(
        self,
        name: str,
        preprocessing: Preprocessing,
        *,
        head: dict[str, Any] | None = None,
        pretrained: bool = False,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.preprocessing = preprocessing
        self.overrides = dict(overrides or {})
        self.head_config: dict[str, Any] = dict(head or {"type": "none"})
        classes = self._linear_width() if pretrained else 0
        self.vit: Any = create_vit(
            name, pretrained=pretrained, classes=classes, overrides=self.overrides
        )
        check_patches(self.vit, name, preprocessing)
        self.head = build_head(self.head_config, int(self.vit.embed_dim))
        if classes:
            self.head.load_state_dict(linear_state(self.vit.head))
            self.vit.reset_classifier(0)
        self.eval()

    def _linear_width(self) -> int:
        return int(self.head_config["dim"]) if self.head_config.get("type") == "linear" else 0

    @property
    def dim(self) -> int:
        """Width of the embedding space, after the head."""
        return self._linear_width() or int(self.vit.embed_dim)

    @property
    def config(self) -> dict[str, Any]:
        """Type, architecture, preprocessing, head and, where there are, overrides."""
        return {
            "type": "timm",
            "name": self.name,
            "preprocessing": preprocessing_config(self.preprocessing),
            "head": dict(self.head_config),
            **({"overrides": dict(self.overrides)} if self.overrides else {}),
        }

    def outputs(self, pixels: Tensor, grid: tuple[int, int]) -> Dense:
        """See `SingleViT.outputs`."""
        found = self.dense(pixels, grid)
        cls = None if found.cls is None else found.cls.float()
        tokens, whole = self.head(found.tokens.float(), cls)
        return found._replace(tokens=tokens, cls=whole)

    def dense(self, pixels: Tensor, grid: tuple[int, int]) -> Dense:
        """Differentiable forward pass without the head.

        Args:
            pixels: (B, 3, H, W) normalised.
            grid: (rows, columns) with rows * columns patch tokens.

        Returns:
            Tokens and CLS token after the network's final norm; the attentions where the last block is a plain one.
        """
        last = len(self.vit.blocks) - 1
        final, inner = self.vit.forward_intermediates(
            pixels, indices=[last - 1], norm=False, output_fmt="NLC", return_prefix_tokens=True
        )
        prefix = int(self.vit.num_prefix_tokens)
        patches = final[:, prefix:].unflatten(1, grid)
        cls = final[:, 0] if getattr(self.vit, "cls_token", None) is not None else None
        before_last = torch.cat([inner[0][1], inner[0][0]], dim=1) if prefix else inner[0][0]
        parts = None if cls is None else cls_query_keys(self.vit.blocks[last], before_last, prefix)
        if parts is None:
            return Dense(patches, cls, None, None)
        maps, published = cls_attention(*parts), published_attention(*parts)
        return Dense(patches, cls, maps.unflatten(2, grid), published.unflatten(1, grid))

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the weights in place; the head stays in float32, since standardising cancels leading digits."""
        self.vit.to(device, dtype)
        self.head.to(device)


def preprocessing_config(preprocessing: Preprocessing) -> dict[str, Any]:
    """What a checkpoint stores of a `Preprocessing`; `Preprocessing.from_config` reads it."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(preprocessing).items()}


def create_vit(
    name: str,
    *,
    pretrained: bool = False,
    classes: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> Any:
    """A timm ViT that takes any input size.

    Args:
        name: see `TimmViT`.
        pretrained: fetch its weights.
        classes: width of timm's classifier, 0 for none.
        overrides: arguments of the architecture.

    Raises:
        UnknownNameError, OptionError: see `TimmViT`.
        HubError: the weights cannot be fetched.
    """
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3) or [
            "vit_small_patch14_dinov2"
        ]
        raise UnknownNameError(f"timm has no model {name!r}: did you mean {', '.join(close)}?")
    arguments = dict(overrides or {})
    if taken := [key for key in arguments if key in _OURS]:
        raise OptionError(f"{taken[0]!r} of {name} cannot be overridden: the backbone sets it")
    try:
        vit = timm.create_model(
            name, pretrained=pretrained, num_classes=classes, dynamic_img_size=True, **arguments
        )
    except TypeError as error:
        if any(f"'{key}'" in str(error) for key in arguments):
            raise OptionError(f"{name} cannot be overridden so: {error}") from error
        raise _no_vit(name, str(error)) from error
    except (OSError, RuntimeError, ValueError) as error:
        if not pretrained:
            raise _no_vit(name, str(error)) from error
        raise HubError(
            f"timm's weights of {name} cannot be fetched ({str(error).splitlines()[0]}). Check the name's tag and the "
            "connection, or give a file of weights"
        ) from error
    if missing := [part for part in _NEEDED if not hasattr(vit, part)]:
        raise _no_vit(name, f"it lacks {', '.join(missing)}")
    # timm drops arguments that its builders do not know, so a typing error would pass in silence.
    known = inspect.signature(type(vit).__init__).parameters
    if unknown := [key for key in arguments if key not in known]:
        raise OptionError(str(UnknownNameError.among(f"override of {name}", unknown[0], known)))
    return vit


def check_patches(vit: Any, name: str, preprocessing: Preprocessing) -> None:
    """Refuse a preprocessing with another patch size than the network's; OptionError names the right one."""
    # Not `patch_size`: behind a convolutional stem, that counts cells of the stem's output.
    patch = tuple(vit.patch_embed.feat_ratio(as_scalar=False))
    if patch != (preprocessing.patch_size, preprocessing.patch_size):
        raise OptionError(
            f"{name} has patches of {patch} pixels, the preprocessing says {preprocessing.patch_size}: "
            f"set its patch_size to {patch[0]} and its size to a multiple of that"
        )


def linear_state(classifier: Any) -> dict[str, Tensor]:
    """The state of a `LinearHead` from a classifier of timm, whose bias may be absent (CLIP has none)."""
    weight: Tensor = classifier.weight
    bias = weight.new_zeros(len(weight)) if classifier.bias is None else classifier.bias
    return {"linear.weight": weight.detach(), "linear.bias": bias.detach()}


def _no_vit(name: str, reason: str) -> OptionError:
    return OptionError(f"{name!r} is not a vision transformer that takes any input size ({reason})")


@BACKBONES.register("timm")
def _load(folder: Path, config: dict[str, Any]) -> TimmViT:
    with settings_of(folder):
        preprocessing = Preprocessing.from_config(config["preprocessing"])
        backbone = TimmViT(
            config["name"],
            preprocessing,
            head=config.get("head"),
            overrides=config.get("overrides"),
        )
    backbone.restore(folder)
    return backbone
