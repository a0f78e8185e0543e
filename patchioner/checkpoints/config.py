"""One readable YAML -> a whole model: which backbone, text tower, memory bank and decoder, and how they are used.

Knows: the keys of such a file. Does not know: families of parts
(`part_builders`), or how parts work together (`model`).

A file names its parts; anything relative starts at its folder::

    name: my-model
    about: a line for people
    backbone: {type: timm, name: vit_base_patch14_reg4_dinov2.lvd142m, weights: pretrained,
               preprocessing: {mode: stretch, size: 518, patch_size: 14}}
    text_tower: {type: open_clip, name: ViT-B-16, weights: "pretrained:openai"}   # or a folder, or null
    memory_bank: bank          # a folder of `patchioner bank build`, or null
    decoder: decoder           # a folder, or {type: retrieval}
    settings: {projection: memory, weighting: {kind: uniform}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from decoders import Decoder, load_decoder
from memory_bank import MemoryBank
from patchioner.base.errors import CheckpointError
from patchioner.checkpoints.part_builders import Place, build_backbone, build_text_tower, check_keys
from patchioner.checkpoints.parts import Parts
from patchioner.checkpoints.settings import FORMAT, VERSION, ModelSettings
from patchioner.checkpoints.yaml_files import read_yaml

MAPPED_FROM = 256 * 2**20  # bytes of a bank from which it is mapped rather than read
_KEYS = ("name", "about", "backbone", "text_tower", "memory_bank", "decoder", "settings")


@dataclass(frozen=True)
class ModelConfig:
    """What a file says, its keys checked; parts are made by `build_model`, or one by one by `part_builders`.

    Attributes:
        name: what the model is called.
        backbone: a folder or settings.
        decoder: a folder or settings; None where it is not said yet.
        text_tower: a folder, settings, or None.
        memory_bank: a folder or None.
        settings: of `ModelSettings`, without the name.
        place: where the file is.
    """

    name: str
    backbone: Any
    place: Place
    decoder: Any = None
    text_tower: Any = None
    memory_bank: Any = None
    settings: Mapping[str, Any] = field(default_factory=dict)


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
        held, place = source, Place(Path(), "the model's config")
    else:
        path = Path(source)
        held, place = read_yaml(path), Place(path.parent, str(path))
    if not isinstance(held, Mapping):
        raise place.fault(f"it holds {type(held).__name__}, not a mapping with {', '.join(_KEYS)}")
    check_keys(held, _KEYS, "a model's config", place)
    if not isinstance(name := held.get("name"), str) or not name.strip():
        raise place.fault(f"name is {name!r}: say what the model is called")
    if held.get("backbone") is None:
        raise place.fault(
            "it has no backbone: give a folder, or a mapping with 'type' and 'weights'"
        )
    settings = held.get("settings") or {}
    if not isinstance(settings, Mapping) or "name" in settings:
        raise place.fault("settings must be a mapping, and the name stands outside of it")
    parts = {key: held.get(key) for key in ("backbone", "decoder", "text_tower", "memory_bank")}
    return ModelConfig(name=name, place=place, settings=dict(settings), **parts)


def build_model(source: str | Path | Mapping[str, Any]) -> Parts:
    """Make all parts of a model from a readable config.

    Args:
        source: a YAML file (see the module) or the same as a mapping.

    Returns:
        The parts, for `Patchioner(parts)`; `Patchioner.from_pretrained` takes such a file too.

    Raises:
        CheckpointError, MemoryBankError: a key is unknown, or a part is missing, corrupt or does not fit.
        HubError, MissingExtraError: weights cannot be fetched; a library is not installed.

    Example:
        >>> parts = build_model("configs/my-model.yaml")  # doctest: +SKIP
    """
    config = read_model_config(source)
    place = config.place
    settings = ModelSettings.from_json(
        {"format": FORMAT, "version": VERSION, **config.settings, "name": config.name}, place.source
    )
    # The small and easily mistaken parts first: an error should not wait for gigabytes of weights.
    bank = None if config.memory_bank is None else _bank(config.memory_bank, place)
    backbone = build_backbone(config.backbone, place)
    decoder = _decoder(config.decoder, backbone.dim, place)
    tower = None if config.text_tower is None else build_text_tower(config.text_tower, place)
    return Parts(backbone, decoder, bank, tower, settings)


def _bank(given: Any, place: Place) -> MemoryBank:
    folder = place.path(given, "memory_bank")
    files = (path for path in folder.iterdir() if path.is_file())
    size = sum(path.stat().st_size for path in files)
    return MemoryBank.load(folder, memory_map=size > MAPPED_FROM)


def _decoder(given: Any, width: int, place: Place) -> Decoder:
    if given is None:
        raise place.fault(
            "it has no decoder: give a folder, or {type: retrieval} with a memory bank"
        )
    if isinstance(given, str):
        return load_decoder(place.path(given, "decoder"))
    if not isinstance(given, Mapping) or given.get("type") != "retrieval":
        raise place.fault(
            f"decoder is {given!r}: give a folder, or {{type: retrieval}}; others have weights, so a folder"
        )
    from decoders.retrieval import RetrievalDecoder

    check_keys(given, ("type",), "the retrieval decoder", place)
    return RetrievalDecoder(width)
