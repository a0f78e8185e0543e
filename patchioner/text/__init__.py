"""Text towers: sentences in, vectors in the space of the patch tokens out."""

from patchioner.text.base import TEXT_TOWERS, BertSettings, BertTower, TextTower, load_tower

__all__ = ["TEXT_TOWERS", "BertSettings", "BertTower", "TextTower", "load_tower"]
