"""A text tower's folder becomes a text tower. Knows config.json's "type" and the registry; no network."""

from __future__ import annotations

from pathlib import Path

from patchioner.base.files import read_json
from patchioner.checkpoints.stored import CONFIG_FILE
from patchioner.text.base import TEXT_TOWERS, TextTower


def load_tower(folder: Path) -> TextTower:
    """Read what `TextTower.save` wrote; CheckpointError where a file is missing, corrupt or of another shape."""
    path = folder / CONFIG_FILE
    config = read_json(path)
    return TEXT_TOWERS.of_config(config, str(path))(folder, config)
