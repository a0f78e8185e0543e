"""Text towers: sentences in, vectors in the space of the patch tokens out.

Knows: networks for text. Does not know: photos, regions, memory banks, decoders.
"""

from patchioner.text_towers.bert import BertSettings, BertTower
from patchioner.text_towers.loading import TEXT_TOWERS, TextTower, load_tower, save_tower

__all__ = ["TEXT_TOWERS", "BertSettings", "BertTower", "TextTower", "load_tower", "save_tower"]
