"""A backbone's folder becomes a backbone. Knows config.json's "type" and the registry; no network."""

from __future__ import annotations

from pathlib import Path

from patchioner.backbones.base import BACKBONES, Backbone
from patchioner.base.files import read_json
from patchioner.checkpoints.stored import CONFIG_FILE


def load_backbone(folder: Path) -> Backbone:
    """Read what `Backbone.save` wrote; CheckpointError where a file is missing, corrupt or of another shape."""
    path = folder / CONFIG_FILE
    config = read_json(path)
    return BACKBONES.of_config(config, str(path))(folder, config)
