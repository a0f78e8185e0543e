"""The text tower of a published model: CLIP's text half, and Talk2DINO's projection where there is one.

Knows: which text tower goes with which backbone, and where its weights may lie. Does not know: the networks inside.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from patchioner.base.errors import CheckpointError, HubError, MissingExtraError, OptionError
from patchioner.checkpoints.published.config import PublishedConfig
from patchioner.checkpoints.published.files import PublishedFiles, as_pattern, fetch
from patchioner.text import TextTower

_log = logging.getLogger(__name__)

# The published files of this form, by the start of their sha256. Decoder and bank go with the one they were made with.
_KNOWN = {
    "5db3e85d8745a621": "Patch-ioner's own Talk2DINO weights",
    "5f6efcc520f22916": "Talk2DINO's vitb_mlp_infonce.pth",
    "6fc5ce7a05d8f1c8": "Talk2DINO's dinov3_vitb_mlp_infonce.pth",
}
_PATTERNS = ("talk2dino*.pth", "talk2dino*.safetensors", "*infonce*.pth", "*infonce*.safetensors")
_CLIP_FILES = ("ViT-*.pt", "clip*.pt", "open_clip*.safetensors", "clip*.safetensors")


def read_text_tower(files: PublishedFiles, config: PublishedConfig, dim: int) -> TextTower | None:
    """The text tower whose vectors live in the backbone's space; None where its weights are not to be had.

    A model captions without it; only `embed_text`, labelling and building banks need it. What is missing is logged as
    one warning.

    Args:
        files: around the config; a Talk2DINO projection and a file of CLIP beside it are preferred to a download.
        config: `use_talk2dino_project`, `clip_model_name`.
        dim: width of the backbone's space.

    Raises:
        CheckpointError: a projection that is there, but damaged or of another width.
    """
    projection = find_projection(files, config) if config.use_talk2dino_project else None
    if config.use_talk2dino_project and not config.clip_like and projection is None:
        _log.warning(
            "no text tower: there is no Talk2DINO projection beside %s (%s). Captions need none; to embed texts, put "
            "the projection that the model was made with there",
            files.config,
            ", ".join(_PATTERNS[:1] + _PATTERNS[2:3]),
        )
        return None
    clip = _clip_text(files, config)
    if clip is None or projection is None:
        return clip if clip is not None and clip.dim == dim else None
    return join(clip, projection, dim)


def find_projection(files: PublishedFiles, config: PublishedConfig) -> Path | None:
    """The file of the Talk2DINO projection, or None.

    Where `use_talk2dino_project` is a string, that is a path (also relative to the config), a name beside it, or a
    file of a hub repository, ``owner/name/file.pth``; otherwise, and where that leads nowhere, the one file beside
    the config that is called like a projection.
    """
    named = config.use_talk2dino_project
    if not isinstance(named, str):
        return files.any_of(_PATTERNS)
    if (files.root / named).is_file():
        return files.root / named
    if named.count("/") >= 2 and not named.startswith((".", "/")):
        owner, name, rest = named.split("/", 2)
        try:
            return fetch(f"{owner}/{name}", rest)
        except HubError as error:
            _log.warning("the Talk2DINO projection %s", error)
    return files.any_of((f"{as_pattern(named)}.*", *_PATTERNS))


def join(clip: TextTower, path: Path, dim: int) -> TextTower:
    """A CLIP text tower and a file of Talk2DINO's projection (either style of names), checked against the backbone."""
    from patchioner.text.talk2dino import Talk2DinoTower, load_talk2dino_weights

    tower = Talk2DinoTower.from_weights(clip, load_talk2dino_weights(path))
    if tower.dim != dim:
        raise CheckpointError(
            f"{path}: projects into width {tower.dim}, the backbone has {dim}; it belongs to another backbone"
        )
    with path.open("rb") as file:
        start = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    _log.info(
        "text tower: %s (%s)", _KNOWN.get(start, "an unknown Talk2DINO projection"), path.name
    )
    return tower


def _clip_text(files: PublishedFiles, config: PublishedConfig) -> TextTower | None:
    name = (config.clip_model_name or "ViT-B/16").replace("/", "-")
    beside = files.any_of(_CLIP_FILES)
    try:
        from patchioner.text.open_clip_text import OpenClipText

        source = "openai" if beside is None else str(beside)
        return OpenClipText(name, quick_gelu=True, pretrained=source)
    except (HubError, MissingExtraError, OptionError) as error:
        _log.warning(
            "no text tower: CLIP %s cannot be had (%s). Captions need none; to embed texts, connect once, or put one "
            "of %s beside %s",
            name,
            str(error).splitlines()[0],
            ", ".join(_CLIP_FILES),
            files.config,
        )
        return None
