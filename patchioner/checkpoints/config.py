"""One readable YAML -> a whole model: which backbone, text tower, memory bank and decoder, and how they are used.

A file names its parts; anything relative starts at its folder::

    name: my-model
    about: a line for people
    backbone: {type: timm, name: vit_base_patch14_reg4_dinov2.lvd142m, weights: pretrained,
               preprocessing: {mode: stretch, size: 518, patch_size: 14}}
    text_tower: {type: open_clip, name: ViT-B-16, weights: "pretrained:openai"}   # or a folder, or null
    memory_bank: bank          # a folder of `patchioner bank build`, or null
    decoder: decoder           # a folder, or {type: retrieval}
    settings: {projection: memory, weighting: {kind: uniform}}

What "weights" may be stands in `patchioner.checkpoints.stored`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from decoders import Decoder, load_decoder
from patchioner.backbones import BACKBONES, Backbone
from patchioner.base.errors import CheckpointError, OptionError, UnknownNameError
from patchioner.checkpoints.files import read_yaml
from patchioner.checkpoints.folder import read_own_bank
from patchioner.checkpoints.parts import Parts
from patchioner.checkpoints.settings import FORMAT, VERSION, ModelSettings
from patchioner.checkpoints.stored import existing_path, make_part
from patchioner.text import TEXT_TOWERS, TextTower

_KEYS = ("name", "about", "backbone", "text_tower", "memory_bank", "decoder", "settings")


@dataclass(frozen=True)
class ModelConfig:
    """What a file says, its keys checked; `build_model` makes all parts, its methods one by one.

    Attributes:
        name: what the model is called.
        backbone: a folder or settings.
        decoder: a folder or settings; None where it is not said yet.
        text_tower: a folder, settings, or None.
        memory_bank: a folder or None.
        settings: of `ModelSettings`, without the name.
        folder: where the file is: relative paths start there.
        source: what messages call it.
    """

    name: str
    backbone: Any
    folder: Path
    source: str
    decoder: Any = None
    text_tower: Any = None
    memory_bank: Any = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def make_backbone(self) -> Backbone:
        """The backbone with its weights; errors as `patchioner.checkpoints.stored.make_part`."""
        return make_part(BACKBONES, self.backbone, self.folder, self.source)

    def make_text_tower(self) -> TextTower | None:
        """The text tower with its weights, or None; errors as `patchioner.checkpoints.stored.make_part`."""
        if self.text_tower is None:
            return None
        return make_part(TEXT_TOWERS, self.text_tower, self.folder, self.source)

    def make_decoder(self, width: int) -> Decoder:
        """The decoder of a folder, or the retrieval decoder for embeddings of a width."""
        if isinstance(self.decoder, str):
            return load_decoder(self.path(self.decoder, "decoder"))
        if self.decoder != {"type": "retrieval"}:
            raise CheckpointError(
                f"{self.source}: decoder is {self.decoder!r}: give a folder, or {{type: retrieval}} with a memory bank"
            )
        from decoders.retrieval import RetrievalDecoder

        return RetrievalDecoder(width)

    def path(self, given: Any, what: str) -> Path:
        """A file or folder that the config names; CheckpointError where nothing is there."""
        try:
            return existing_path(given, self.folder, what)
        except OptionError as error:
            raise CheckpointError(f"{self.source}: {error}") from error


def names_parts(path: Path) -> bool:
    """Whether a YAML file is of this kind: it has a "name" and a "backbone". False for what is no YAML at all."""
    try:
        held = read_yaml(path)
    except CheckpointError:
        return False
    return isinstance(held, Mapping) and {"name", "backbone"} <= held.keys()


def read_model_config(source: str | Path | Mapping[str, Any]) -> ModelConfig:
    """Read a file, or take the same as a mapping (relative paths then start at the working folder).

    Raises:
        CheckpointError: no such file, not YAML, an unknown key (the close ones are offered) or a missing one.
    """
    if isinstance(source, Mapping):
        held, folder, where = source, Path(), "the model's config"
    else:
        held, folder, where = read_yaml(Path(source)), Path(source).parent, str(source)
    if not isinstance(held, Mapping):
        raise CheckpointError(
            f"{where}: it holds {type(held).__name__}, not a mapping with {', '.join(_KEYS)}"
        )
    for key in held:
        if key not in _KEYS:
            unknown = UnknownNameError.among("key of a model's config", str(key), _KEYS)
            raise CheckpointError(f"{where}: {unknown}")
    if not isinstance(name := held.get("name"), str) or not name.strip():
        raise CheckpointError(f"{where}: name is {name!r}: say what the model is called")
    if held.get("backbone") is None:
        raise CheckpointError(
            f"{where}: it has no backbone: give a folder, or a mapping with 'type' and 'weights'"
        )
    settings = held.get("settings") or {}
    if not isinstance(settings, Mapping) or "name" in settings:
        raise CheckpointError(
            f"{where}: settings must be a mapping, and the name stands outside of it"
        )
    parts = {key: held.get(key) for key in ("backbone", "decoder", "text_tower", "memory_bank")}
    return ModelConfig(name=name, folder=folder, source=where, settings=dict(settings), **parts)


def build_model(source: str | Path | Mapping[str, Any]) -> Parts:
    """Make all parts of a model from a readable config.

    Args:
        source: a YAML file (see the module) or the same as a mapping.

    Returns:
        The parts, for `Patchioner(parts)`; `Patchioner.from_pretrained` takes such a file too.

    Raises:
        CheckpointError, MemoryBankError: a key is unknown, or a part is missing, corrupt or does not fit.
        HubError, MissingExtraError: weights cannot be fetched; a library is not installed.
    """
    config = read_model_config(source)
    head = {"format": FORMAT, "version": VERSION, "name": config.name}
    settings = ModelSettings.from_json({**config.settings, **head}, config.source)
    # The small and easily mistaken parts first: an error should not wait for gigabytes of weights.
    bank = None
    if config.memory_bank is not None:
        bank = read_own_bank(config.path(config.memory_bank, "memory_bank"))
    if config.decoder is None:
        raise CheckpointError(
            f"{config.source}: it has no decoder: give a folder, or {{type: retrieval}} with a memory bank"
        )
    if isinstance(config.decoder, str):
        config.path(config.decoder, "decoder")
    backbone = config.make_backbone()
    return Parts(
        backbone, config.make_decoder(backbone.dim), bank, config.make_text_tower(), settings
    )
