"""Features of photos, kept on disk so that no photo is encoded twice.

Knows: what identifies a backbone, files of features. Does NOT know: samples, settings, scores.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from PIL import Image

from benchmarks.captioner import Captioner, parts_of
from benchmarks.runner.provenance import weights_sha256
from patchioner.backbones import PatchFeatures
from patchioner.base.errors import OptionError
from patchioner.base.weights import load_weights, save_weights


class FeatureCache:
    """Encodes photos once: tokens, CLS and attention go to a file per photo, float32 as the backbone gave them.

    Args:
        folder: where the files go; each backbone and input size has a folder of its own in it.
        model: encodes. Its backbone's config and weights name that folder, so another backbone never reads it.

    Raises:
        OptionError: the model is a stand-in without parts.

    Example:
        >>> FeatureCache(Path("cache"), model).of(load_image("photo.jpg"))  # doctest: +SKIP
    """

    def __init__(self, folder: Path, model: Captioner) -> None:
        parts = parts_of(model)
        if parts is None:
            raise OptionError(f"a {type(model).__name__} has no backbone to keep the features of")
        self._model, self._backbone = model, parts.backbone
        config = json.dumps(self._backbone.config, sort_keys=True)
        name = hashlib.sha256(f"{config} {weights_sha256(self._backbone)}".encode()).hexdigest()
        self.folder = folder / name[:16]
        self.encoded = 0

    def of(self, image: Image.Image) -> PatchFeatures:
        """Features of an upright RGB image, read or made."""
        content = hashlib.sha256(f"{image.size} ".encode() + image.tobytes()).hexdigest()
        path = self.folder / f"{content[:24]}.safetensors"
        if path.is_file():
            found = load_weights(path)
            geometry = self._backbone.geometry(image.size)
            return PatchFeatures(
                found["tokens"], found.get("cls"), found.get("attention"), geometry
            )
        features: PatchFeatures = self._model.encode(image)
        kept = {key: getattr(features, key) for key in ("tokens", "cls", "attention")}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights({k: v for k, v in kept.items() if v is not None}, path, storage="fp32")
        self.encoded += 1
        return features
