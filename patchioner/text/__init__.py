"""Text towers: sentences in, vectors in the space of the patch tokens out."""

from patchioner.text.base import TEXT_TOWERS, TextTower, load_tower
from patchioner.text.bert import BertSettings, BertTower

__all__ = ["TEXT_TOWERS", "BertSettings", "BertTower", "TextTower", "load_tower"]
