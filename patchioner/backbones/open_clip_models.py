"""open_clip's models by name: their configs, and whole models with their weights.

Knows: open_clip's public interface. Does not know: what is done with either half of a model (`open_clip_vit`,
`patchioner.text.open_clip_text`).
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from patchioner.base.errors import CheckpointError, HubError, OptionError, UnknownNameError
from patchioner.base.optional import require
from patchioner.checkpoints.tensor_files import read_object


def model_config(
    name: str,
    architecture: Mapping[str, Any] | None = None,
    *,
    quick_gelu: bool | None = None,
    pretrained: str | None = None,
) -> dict[str, Any]:
    """open_clip's config of a model, as a copy: embed_dim, vision_cfg, text_cfg, quick_gelu (always given).

    Args:
        name: one of open_clip's models, or a label if `architecture` is given.
        architecture: a config in open_clip's form.
        quick_gelu: overrides the config; None is what the pretrained weights or else the config say.
        pretrained: a tag or file of weights for `name`.
    """
    open_clip = require("open_clip", "clip")
    if architecture is not None:
        if pretrained is not None:
            raise OptionError(
                f"pretrained={pretrained!r} goes with a name of open_clip's, not with an architecture: give one of them"
            )
        settings = copy.deepcopy(dict(architecture))
    else:
        _check_name(open_clip, name)
        settings = open_clip.get_model_config(name)
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        if key not in settings:
            raise OptionError(
                f"the architecture of {name!r} lacks {key!r}: give open_clip's config"
            )
    tag = (open_clip.get_pretrained_cfg(name, pretrained) or {}) if pretrained else {}
    if quick_gelu is None:
        quick_gelu = bool(tag.get("quick_gelu", settings.get("quick_gelu", False)))
    return {**settings, "quick_gelu": quick_gelu}


def fetch_model(name: str, pretrained: str, *, quick_gelu: bool) -> Any:
    """A whole open_clip model with its weights, by tag (downloaded once, then cached) or from a file.

    Raises:
        UnknownNameError: neither a tag of this model nor a file.
        HubError: a tag's weights cannot be fetched.
        CheckpointError: a file does not hold weights of this model. Nothing is unpickled.
    """
    open_clip = require("open_clip", "clip")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in tags:
        _check_file(name, Path(pretrained), tags)
    try:
        return open_clip.create_model(
            name, pretrained, force_quick_gelu=quick_gelu, quick_gelu=quick_gelu
        )
    except Exception as error:  # of several libraries, which share no class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if pretrained in tags:
            raise HubError(
                f"the weights {pretrained!r} of {name} cannot be fetched: {reason}. Connect once, or name a file"
            ) from error
        raise CheckpointError(
            f"{pretrained} does not hold weights of open_clip's {name}: {reason}. Fetch it again, or name its model"
        ) from error


def _check_name(open_clip: Any, name: str) -> None:
    known = open_clip.list_models()
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=3) or ["ViT-B-16", "ViT-B-32"]
        raise UnknownNameError(f"open_clip has no model {name!r}: did you mean {', '.join(close)}?")


def _check_file(name: str, path: Path, tags: Iterable[str]) -> None:
    """Refuse what is no file, and a pickle of more than tensors, which open_clip might fall back to executing."""
    if not path.is_file():
        raise UnknownNameError.among(f"file or tag of weights of {name}", str(path), tags)
    if path.suffix != ".safetensors":
        read_object(path)
