"""Backbones: an image in, text-aligned patch tokens out.

Knows: networks for images and their preprocessing. Does not know: regions, text, memory banks, decoders.
"""

from patchioner.backbones.base import BACKBONES, Backbone
from patchioner.backbones.features import PatchFeatures
from patchioner.backbones.loading import load_backbone
from patchioner.backbones.preprocess import Encodable, PreparedPhoto
from patchioner.backbones.timm_vit import TimmViT

__all__ = [
    "BACKBONES",
    "Backbone",
    "Encodable",
    "PatchFeatures",
    "PreparedPhoto",
    "TimmViT",
    "load_backbone",
]
