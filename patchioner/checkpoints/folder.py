"""The parts of a captioner; a checkpoint folder or a readable YAML file <-> its parts.

A folder holds config.json, backbone/, text_tower/, decoder/, memory_bank/ and nouns/. A YAML file names parts; anything
relative starts at its folder::

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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from decoders import Decoder, load_decoder
from memory_bank import MemoryBank, Precision
from patchioner.backbones import BACKBONES, Backbone, load_backbone
from patchioner.base.errors import CheckpointError, OptionError, UnknownNameError
from patchioner.base.files import read_json, recover_folder, replace_folder, write_json
from patchioner.base.weights import Storage
from patchioner.checkpoints.settings import FORMAT, VERSION, ModelSettings
from patchioner.checkpoints.stored import CONFIG_FILE, existing_path, make_part, read_yaml
from patchioner.nouns import NounTable
from patchioner.text import TEXT_TOWERS, TextTower, load_tower

FOREIGN_CONFIG_FILE = "config.yaml"
MAPPED_FROM = 256 * 2**20  # bytes of a bank from which it is mapped rather than read
_PARTS = ("backbone", "decoder", "text_tower", "memory_bank")
_KEYS = ("name", "about", *_PARTS, "settings")


@dataclass(frozen=True)
class Parts:
    """Everything a captioner consists of; `bank` and `text_tower` may be absent. Nothing here is ever changed.

    Raises:
        CheckpointError: parts of different widths, or one that needs a memory bank where there is none.
    """

    backbone: Backbone
    decoder: Decoder
    bank: MemoryBank | None
    text_tower: TextTower | None
    settings: ModelSettings
    nouns: NounTable | None = None

    def __post_init__(self) -> None:
        widths = {"backbone": self.backbone.dim, "decoder": self.decoder.embedding_dim}
        widths |= {} if self.bank is None else {"memory bank": self.bank.dim}
        widths |= {} if self.text_tower is None else {"text tower": self.text_tower.dim}
        widths |= {} if self.nouns is None else {"nouns": self.nouns.embeddings.shape[1]}
        if len(set(widths.values())) > 1:
            raise CheckpointError(
                f"the parts have different widths and cannot work together: {widths}"
            )
        if self.settings.guides and self.nouns is None:
            raise CheckpointError("the settings keep captions to their regions, which needs nouns/")
        if self.settings.guides and not self.decoder.can_be_guided:
            raise CheckpointError(f"a {type(self.decoder).__name__} cannot be guided")
        if self.bank is None and self.settings.projection == "memory":
            raise CheckpointError(
                "the settings ask for the memory projection, but there is no memory bank"
            )
        if self.bank is None and self.decoder.needs_memory:
            raise CheckpointError(
                f"a {type(self.decoder).__name__} draws on a memory bank, but there is none: add one with texts"
            )

    def with_bank(self, bank: MemoryBank) -> Parts:
        """The same parts with another bank (of the same width); a first one also becomes the projection."""
        if self.bank is not None:  # it may serve the decoder alone, as for retrieval
            return replace(self, bank=bank)
        return replace(self, bank=bank, settings=replace(self.settings, projection="memory"))

    def to(self, device: torch.device | str, dtype: torch.dtype, *, optimize: bool = True) -> Parts:
        """Copies for inference on a device, in a precision (`patchioner.base.inference.inference_copy`).

        Beside networks in half precision on a GPU, a float32 bank becomes float16: half the memory there, and rounded
        less than the queries are. Sums stay float32. On a CPU its rows may lie in a mapped file and stay as they are.

        Args:
            optimize: also pack what a CPU multiplies faster packed.
        """
        device, bank, tower = torch.device(device), self.bank, self.text_tower
        if bank is not None:
            bank = bank.to(device, resident_precision(bank.dtype, device, dtype))
        return replace(
            self,
            backbone=self.backbone.to(device, dtype, optimize=optimize),
            decoder=self.decoder.to(device, dtype, optimize=optimize),
            bank=bank,
            text_tower=None if tower is None else tower.to(device, dtype, optimize=optimize),
            nouns=None if self.nouns is None else self.nouns.to(device),
        )


def resident_precision(stored: Precision, device: torch.device, dtype: torch.dtype) -> Precision:
    """What a bank stored in one precision is kept in beside networks of a dtype; see `Parts.to`."""
    halved = stored == "float32" and device.type != "cpu" and dtype.itemsize == 2
    return "float16" if halved else stored


def read_checkpoint(path: Path) -> Parts:
    """Read all parts.

    Args:
        path: a folder of ours; a folder of the published system (config.yaml); or a YAML file, either one of the
            published system or one that names the parts of a model (see the module).

    Raises:
        CheckpointError, MemoryBankError: something is missing, corrupt or does not fit.
    """
    recover_folder(path)
    ours = (path / CONFIG_FILE).exists() or not (path / FOREIGN_CONFIG_FILE).exists()
    if path.is_dir() and ours:
        return _read_own(path)
    if path.is_file() and names_parts(path):
        return build_model(path)
    from patchioner.checkpoints.published import read_published

    return read_published(path)


def _read_own(folder: Path) -> Parts:
    config = folder / CONFIG_FILE
    settings = ModelSettings.from_json(read_json(config), str(config))
    bank, tower, nouns = (folder / name for name in ("memory_bank", "text_tower", "nouns"))
    return Parts(
        backbone=load_backbone(folder / "backbone"),
        decoder=load_decoder(folder / "decoder"),
        bank=read_own_bank(bank) if bank.is_dir() else None,
        text_tower=load_tower(tower) if tower.is_dir() else None,
        settings=settings,
        nouns=NounTable.load(nouns) if nouns.is_dir() else None,
    )


def read_own_bank(folder: Path) -> MemoryBank:
    """A small bank is read whole and checked against its checksum; a large one is mapped, so that it opens at once."""
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return MemoryBank.load(folder, memory_map=size > MAPPED_FROM)


def write_checkpoint(
    parts: Parts,
    folder: Path,
    *,
    storage: Storage = "fp16",
    bank_storage: Precision = "float16",
) -> None:
    """Write all parts beside the folder and swap them in: after a kill it is whole, or as it was.

    Over an older checkpoint, parts that this one lacks are removed; what is no part of one stays.

    Raises:
        CheckpointError: the folder holds a checkpoint of the published system, which would be mixed up with ours.
    """
    if (folder / FOREIGN_CONFIG_FILE).exists():
        raise CheckpointError(
            f"{folder} holds a published checkpoint ({FOREIGN_CONFIG_FILE}): choose another folder"
        )
    held = {
        "backbone": parts.backbone,
        "decoder": parts.decoder,
        "text_tower": parts.text_tower,
        "memory_bank": parts.bank,
        "nouns": parts.nouns,
    }
    written = {name: part for name, part in held.items() if part is not None}
    owned = {CONFIG_FILE, *(held if (folder / CONFIG_FILE).is_file() else written)}
    with replace_folder(folder, owned=owned) as fresh:
        for name, part in written.items():
            if isinstance(part, MemoryBank):
                part.save(fresh / name, dtype=bank_storage)
            elif isinstance(part, NounTable):
                part.save(fresh / name)
            else:
                part.save(fresh / name, storage=storage)
        write_json(fresh / CONFIG_FILE, parts.settings.to_json())


@dataclass(frozen=True)
class ModelConfig:
    """What a YAML file says, its keys checked; `build_model` makes all parts, its methods one by one.

    Attributes:
        name, settings: what the model is called; values of `ModelSettings`, without the name.
        backbone, decoder, text_tower, memory_bank: a folder or settings; None where there is none.
        folder, source: where relative paths start; what messages call the file.
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
            return load_decoder(self.path("decoder"))
        from decoders.retrieval import RetrievalDecoder

        return RetrievalDecoder(width)

    def path(self, part: str) -> Path:
        """A folder that the config names; CheckpointError where nothing is there."""
        try:
            return existing_path(getattr(self, part), self.folder, part)
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
    name, settings = held.get("name"), held.get("settings") or {}
    if not isinstance(name, str) or not name.strip():
        raise CheckpointError(f"{where}: name is {name!r}: say what the model is called")
    if held.get("backbone") is None:
        raise CheckpointError(
            f"{where}: it has no backbone: give a folder, or a mapping with 'type' and 'weights'"
        )
    if not isinstance(settings, Mapping) or "name" in settings:
        raise CheckpointError(
            f"{where}: settings must be a mapping, and the name stands outside of it"
        )
    parts = {key: held.get(key) for key in _PARTS}
    return ModelConfig(name=name, folder=folder, source=where, settings=dict(settings), **parts)


def build_model(source: str | Path | Mapping[str, Any]) -> Parts:
    """Make all parts of a model from a YAML file (see the module) or the same as a mapping, for `Patchioner(parts)`.

    Raises:
        CheckpointError, MemoryBankError: a key is unknown, or a part is missing, corrupt or does not fit.
        HubError, MissingExtraError: weights cannot be fetched; a library is not installed.
    """
    config = read_model_config(source)
    head = {"format": FORMAT, "version": VERSION, "name": config.name}
    settings = ModelSettings.from_json({**config.settings, **head}, config.source)
    # The small and easily mistaken parts first: an error should not wait for gigabytes of weights.
    bank = None if config.memory_bank is None else read_own_bank(config.path("memory_bank"))
    if isinstance(config.decoder, str):
        config.path("decoder")
    elif config.decoder != {"type": "retrieval"}:
        raise CheckpointError(
            f"{config.source}: decoder is {config.decoder!r}: give a folder, or {{type: retrieval}} with a memory bank"
        )
    backbone = config.make_backbone()
    return Parts(
        backbone, config.make_decoder(backbone.dim), bank, config.make_text_tower(), settings
    )
