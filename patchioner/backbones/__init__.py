"""Backbones: an image in, text-aligned patch tokens out. They know nothing of regions, text, banks or decoders."""

from patchioner.backbones.base import (
    BACKBONES,
    Backbone,
    Encodable,
    PatchFeatures,
    PreparedPhoto,
    load_backbone,
    preprocess,
)
from patchioner.backbones.vit import TimmViT

__all__ = [
    "BACKBONES",
    "Backbone",
    "Encodable",
    "PatchFeatures",
    "PreparedPhoto",
    "TimmViT",
    "load_backbone",
    "preprocess",
]
