"""Text towers: sentences in, vectors in the space of the patch tokens out.

Knows: networks for text. Does not know: photos, regions, memory banks, decoders.
"""

from patchioner.text.base import TEXT_TOWERS, TextTower
from patchioner.text.bert import BertSettings, BertTower
from patchioner.text.loading import load_tower

__all__ = ["TEXT_TOWERS", "BertSettings", "BertTower", "TextTower", "load_tower"]
