"""`load_decoder`: a folder becomes a decoder, whatever its type.

Knows: config.json's "type" and the registry of decoders.
Does NOT know: what any decoder keeps in its folder.
"""

from __future__ import annotations

from pathlib import Path

import torch

from decoders.base import DECODERS, Decoder
from patchioner.base.errors import CheckpointError, UnknownNameError
from patchioner.base.files import read_json


def load_decoder(folder: str | Path, device: str | torch.device = "cpu") -> Decoder:
    """Load the decoder that `Decoder.save` wrote.

    Args:
        folder: holds config.json, weights.safetensors and tokenizer.json.
        device: where the weights go.

    Raises:
        CheckpointError: for a missing, damaged, foreign or unfitting file.

    Example:
        >>> decoder = load_decoder("checkpoint/decoder")  # doctest: +SKIP
    """
    folder = Path(folder)
    path = folder / "config.json"
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("type"), str):
        raise CheckpointError(f'{path} has no "type"; a decoder\'s config.json names its type')
    try:
        decoder_class = DECODERS.get(config["type"])
    except UnknownNameError as error:
        raise CheckpointError(f"{path}: {error}") from error
    settings = {key: value for key, value in config.items() if key != "type"}
    decoder = decoder_class.load(folder, settings)
    return decoder if torch.device(device).type == "cpu" else decoder.to(device)
