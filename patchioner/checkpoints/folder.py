"""The parts of a captioner and how they are used; a checkpoint folder, or a readable YAML file, <-> its parts.

A folder holds config.json, backbone/, text_tower/, decoder/, memory_bank/ and nouns/; of YAML files see `ModelConfig`.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import huggingface_hub
import torch
from torch.nn import functional as F

from decoders import DecodeOptions, Decoder, TrainableDecoder, load_decoder
from memory_bank import MemoryBank, Precision
from patchioner.backbones import BACKBONES, Backbone, load_backbone
from patchioner.base.errors import CheckpointError, HubError, MissingExtraError, OptionError, UnknownNameError
from patchioner.base.files import check, read_json, recover_folder, replace_folder, write_json
from patchioner.base.weights import Storage
from patchioner.checkpoints import CONFIG_FILE, at_hub, existing_path, folder_bytes, make_part, read_settings, read_yaml
from patchioner.nouns import NounTable
from patchioner.regions import Region, Weighting, region_kinds
from patchioner.text import TEXT_TOWERS, TextTower, load_tower

FORMAT, VERSION = "patchioner", 1
SHIPPED = "patchioner-mini"
_PACKAGE = Path(__file__).parent
PROJECTIONS = ("memory", "none", "raw")
KINDS, CROPS = tuple(region_kinds()), (True, False, "add")
FOREIGN_CONFIG_FILE = "config.yaml"
_TRIED = 64  # texts of a bank, to see whether it is of the model; those of its own are nearer than
_NEAR, _NEARER = 0.5, 0.1  # the first to their own rows, by the second than to any
MAPPED_FROM = 256 * 2**20  # bytes of a bank from which it is mapped rather than read
Style: TypeAlias = Literal["auto", "sentence", "phrase"]
"""Of captions; "auto" is what the checkpoint's settings say of the kind of region."""
Crop: TypeAlias = 'bool | Literal["add"]'
"""Whether a region is cut out and encoded alone; "add" adds that to what is pooled."""


@dataclass(frozen=True)
class Guidance:
    """How the captions of a region are kept to what it shows and its surroundings do not (`decoders.guidance`)."""

    contrast: float = 0.4  # weight of the log-probability given the region less that given the whole photo
    nouns: float = 1.5  # weight of a noun's z-score with the region, less 1.5 and within 3 of it, for its first mention
    beam_width: int = 2  # of such captions, where no options of decoding are given
    neutral: bool = False  # people are persons and children, whatever their sex, where no options of decoding say else
    several: float = 0.0  # taken off the log-probability of words for more than one, such as "group"

    def __post_init__(self) -> None:
        check("[0, inf)", self, "contrast nouns several")
        check("int [1, inf)", beam_width=self.beam_width)


@dataclass(frozen=True)
class Candidates:
    """Samples of a caption, of which, and of itself, the region's is the one of the highest

        likelihood * mean log p + cos(text, region) - photo * cos(text, photo) + nouns * mean z-score of its nouns

    (pragmatic reranking: Vedantam et al. 2017, arXiv 1701.02870). It needs a text tower, and a table of nouns if these
    count.
    """

    samples: int = 16
    temperature: float = 0.7
    likelihood: float = 0.3
    photo: float = 0.5
    nouns: float = 0.0

    def __post_init__(self) -> None:
        check("[0, inf)", self, "likelihood photo nouns")
        check("(0, inf)", temperature=self.temperature)
        check("int [1, inf)", samples=self.samples)


@dataclass(frozen=True)
class KindSettings:
    """What differs for one kind of region; None leaves what the model does with all."""

    weighting: Weighting | None = None  # of patches inside such a region
    context: float | None = None  # see `ModelSettings.context`
    guidance: Guidance | None = None  # how captions are kept to it while they are decoded; needs a table of nouns
    candidates: Candidates | None = None  # among which its caption is chosen, where no options of decoding are given
    style: Literal["sentence", "phrase"] = "sentence"  # of its caption; of phrases see `patchioner.nouns.cut_to_shown`

    def __post_init__(self) -> None:
        check("[0, inf) or None", context=self.context)
        check(("sentence", "phrase"), style=self.style)


@dataclass(frozen=True)
class ModelSettings:
    """How a checkpoint is used by default: the root config.json. OptionError: a value outside of these.

    Attributes:
        projection: "memory" sends embeddings through the memory bank, "none" as unit vectors straight to the decoder,
            "raw" straight to it at the length they have, as the published CapDec model was run.
        top_k: project onto so many nearest rows of the memory bank alone: approximate, by the bank's index where it has
            one (`patchioner bank index`). None is exact.
        crop: each region is cut out of the photo by its bounding box, encoded alone, and captioned as a whole image,
            for CLIP and others whose patches say little. "add" adds that to what is pooled.
        calibration: what cosines between texts and regions mean with these weights, by the name of what measured them
            ("detail", "label", "captions"); empty where nobody has.
    """

    name: str = "custom"
    weighting: Weighting = field(default_factory=Weighting)  # of patches inside a region
    context: float = 0.0  # share of the photo's unit CLS token added to a region's unit embedding; 0: its tokens alone
    kinds: Mapping[str, KindSettings] = field(default_factory=dict, hash=False)  # what differs for one of `KINDS`
    projection: str = "memory"
    temperature: float = 0.01  # of the memory projection's softmax
    normalize: bool = True  # whether the memory projection gives unit vectors
    top_k: int | None = None
    crop: Crop = False
    crop_candidates: Candidates | None = None  # of regions whose crops are added, in place of their kind's
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    calibration: Mapping[str, Any] = field(default_factory=dict, hash=False)
    licence: str = "unknown"  # of the weights

    def __post_init__(self) -> None:
        check(PROJECTIONS, projection=self.projection)
        check("(0, inf)", temperature=self.temperature)
        check("[0, inf)", context=self.context)
        check(CROPS, crop=self.crop)
        check("int [1, inf) or None", top_k=self.top_k)
        for kind in self.kinds:
            check(KINDS, **{"kind of region": kind})
        object.__setattr__(self, "kinds", dict(self.kinds))  # the caller's own may change
        object.__setattr__(self, "calibration", copy.deepcopy(dict(self.calibration)))

    def for_region(self, region: Region) -> tuple[Weighting, float]:
        """Weighting and context of a region, by its kind."""
        kind = self.kinds.get(region.kind, KindSettings())
        return kind.weighting or self.weighting, self.context if kind.context is None else kind.context

    @property
    def guides(self) -> bool:
        """Whether captions of some kind of region are guided."""
        return any(kind.guidance for kind in self.kinds.values())

    @property
    def phrases(self) -> bool:
        """Whether captions of some kind of region are phrases."""
        return any(kind.style == "phrase" for kind in self.kinds.values())

    @property
    def candidates(self) -> list[Candidates]:
        """Among which captions of some regions are chosen."""
        held = [self.crop_candidates, *(kind.candidates for kind in self.kinds.values())]
        return [one for one in held if one]

    def to_json(self) -> dict[str, Any]:
        """The root config.json."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, values: Any, source: str) -> Self:
        """Read the root config.json; unknown keys are refused with the close ones."""
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise CheckpointError(f"{source} is no Patchioner config (no 'format': '{FORMAT}')")
        if values.get("version") != VERSION:
            raise CheckpointError(f"{source} has version {values.get('version')!r}, this release reads {VERSION}")
        given = {key: value for key, value in values.items() if key not in ("format", "version")}
        if "bridge" in given and "projection" not in given:  # its name before the redesign
            given["projection"] = given.pop("bridge")
        return read_settings(cls, given, source)


@dataclass(frozen=True)
class Parts:
    """Everything a captioner consists of; `bank` and `tower` may be absent. Nothing here is ever changed.

    Captions need no text tower, so `tower` may also be what reads it, which `text_tower` then does. CheckpointError:
    parts of different widths, or one that needs a memory bank where there is none.
    """

    backbone: Backbone
    decoder: Decoder
    bank: MemoryBank | None
    tower: TextTower | Callable[[], TextTower | None] | None
    settings: ModelSettings
    nouns: NounTable | None = None

    def __post_init__(self) -> None:
        widths, kind = {"decoder": self.decoder.embedding_dim}, type(self.decoder).__name__
        widths |= {} if self.bank is None else {"memory bank": self.bank.dim}
        widths |= {"text tower": self.tower.dim} if isinstance(self.tower, TextTower) else {}
        widths |= {} if self.nouns is None else {"nouns": self.nouns.embeddings.shape[1]}
        self._check_widths(widths)
        counted = self.settings.guides or any(one.nouns for one in self.settings.candidates)
        if counted and self.nouns is None:
            raise CheckpointError("the settings keep captions to their regions, which needs nouns/")
        if self.settings.guides and not self.decoder.can_be_guided:
            raise CheckpointError(f"a {kind} cannot be guided")
        if self.settings.candidates and not (self.tower and isinstance(self.decoder, TrainableDecoder)):
            raise CheckpointError(f"candidates need a text tower, and a decoder that draws, which {kind} does not")
        if self.bank is None and self.settings.projection == "memory":
            raise CheckpointError("the memory projection is asked for, but there is no memory bank")
        if self.bank is None and self.decoder.needs_memory:
            raise CheckpointError(f"a {kind} draws on a memory bank, but there is none: add one")

    def _check_widths(self, others: Mapping[str, int]) -> None:
        widths = {"backbone": self.backbone.dim, **others}
        if len(set(widths.values())) > 1:
            raise CheckpointError(f"the parts have different widths and do not fit: {widths}")

    @cached_property
    def text_tower(self) -> TextTower | None:
        """The text tower, read now where it was not yet; CheckpointError where it is damaged or does not fit."""
        if self.tower is None or isinstance(self.tower, TextTower):
            return self.tower
        if (tower := self.tower()) is not None:
            self._check_widths({"text tower": tower.dim})
        return tower

    def __reduce__(self) -> tuple[Any, ...]:
        # Whole: what reads the tower may find nothing on another machine.
        return type(self), (self.backbone, self.decoder, self.bank, self.text_tower, self.settings, self.nouns)

    def with_bank(self, bank: MemoryBank) -> Parts:
        """The same parts with another bank (of the same width); a first one also becomes the projection."""
        if self.bank is not None:  # it may serve the decoder alone, as for retrieval
            return replace(self, bank=bank)
        return replace(self, bank=bank, settings=replace(self.settings, projection="memory"))

    def check_bank(self, bank: MemoryBank) -> None:
        """CheckpointError for a bank of another model's: its texts, embedded, are not near to their own rows."""
        try:
            tower, texts = self.text_tower, bank.texts
        except (HubError, MissingExtraError):  # captions need no tower
            return
        if tower is None or texts is None or bank.dim != tower.dim:
            return
        tried = range(0, len(bank), math.ceil(len(bank) / _TRIED))
        rows = torch.tensor([row for row in tried if texts[row].strip()], dtype=torch.int64)
        if not len(rows):
            return
        embedded = F.normalize(tower.encode([texts[row] for row in rows.tolist()]), dim=1).cpu()
        cosines = embedded @ bank.units(rows).cpu().T
        own, any_ = float(cosines.diagonal().mean()), float(cosines.mean())
        if own < _NEAR and own - any_ < _NEARER:
            raise CheckpointError(
                f"the memory bank was built with another model's text tower: the cosine of its texts and their rows is "
                f"{own:.2f}, with any {any_:.2f}; build it by patchioner bank build --text-encoder {self.settings.name}"
            )

    def to(self, device: torch.device | str, dtype: torch.dtype, *, optimize: bool = True) -> Parts:
        """Copies for inference on a device, in a precision (`patchioner.base.weights.inference_copy`).

        Beside networks in half precision on a GPU, a float32 bank becomes float16: half the memory there, and rounded
        less than the queries are. On a CPU its rows may lie in a mapped file and stay as they are.
        """
        device, bank = torch.device(device), self.bank

        def placed_tower() -> TextTower | None:
            tower = self.text_tower
            return None if tower is None else tower.to(device, dtype, optimize=optimize)

        return replace(
            self,
            backbone=self.backbone.to(device, dtype, optimize=optimize),
            decoder=self.decoder.to(device, dtype, optimize=optimize),
            bank=None if bank is None else bank.to(device, resident_precision(bank.dtype, device, dtype)),
            tower=None if self.tower is None else placed_tower,
            nouns=None if self.nouns is None else self.nouns.to(device),
        )


def resident_precision(stored: Precision, device: torch.device, dtype: torch.dtype) -> Precision:
    """What a bank stored in one precision is kept in beside networks of a dtype; see `Parts.to`."""
    return "float16" if stored == "float32" and device.type != "cpu" and dtype.itemsize == 2 else stored


def find_model(name: str, *, revision: str | None = None) -> Path:
    """The folder of a checkpoint, or the YAML file that describes one.

    Args:
        name: a folder, a ``.yaml`` file, a shipped name, or a hub id ``owner/name``. Hub repositories of the published
            Patch-ioner are fetched whole, like our own; with ``HF_HUB_OFFLINE=1`` the hub's cache alone is used.
        revision: branch, tag or commit of a hub repository.

    Raises:
        UnknownNameError: neither a folder nor a known name; offers the close ones.
        HubError: the hub cannot be reached or has no such repository; offers the shipped model.
    """
    path = Path(os.path.expanduser(name))
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    if name.strip():
        recover_folder(path)
        if path.is_dir() or (path.is_file() and is_yaml):
            return path
    if name in shipped_models():
        return _PACKAGE / name
    if path.is_file():
        raise UnknownNameError(f"{name!r} is a file that is no checkpoint: give its folder")
    if name.startswith((".", "/", "~")) or is_yaml:
        raise UnknownNameError(f"no {'model file' if is_yaml else 'checkpoint folder'} at {name!r}: check the path")
    if name.count("/") != 1:
        raise UnknownNameError.among("model", name, shipped_models())
    remedy = f"check the connection and the name, or use the model inside the package, {SHIPPED!r}"
    with at_hub(f"no folder {name!r} here, and it cannot be fetched from the model hub", remedy):
        return Path(huggingface_hub.snapshot_download(name, revision=revision))


def shipped_models() -> tuple[str, ...]:
    """Names of the models inside the package."""
    return tuple(sorted(path.parent.name for path in _PACKAGE.glob(f"*/{CONFIG_FILE}")))


def read_checkpoint(path: Path) -> Parts:
    """Read all parts; the text tower when it is first asked for.

    `path` is a folder of ours or of the published system (config.yaml), or a YAML file of that system or of parts.

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
    for part in (bank, tower, nouns):
        if os.path.lexists(part) and not part.is_dir():
            raise CheckpointError(f"{part} is no folder: copy the checkpoint again, links followed")
    return Parts(
        load_backbone(folder / "backbone"),
        load_decoder(folder / "decoder"),
        _read_bank(bank) if bank.is_dir() else None,
        partial(_read_tower, tower, _stamps(tower)) if tower.is_dir() else None,
        settings,
        NounTable.load(nouns) if nouns.is_dir() else None,
    )


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    stats = ((path.name, path.stat()) for path in sorted(folder.iterdir()))
    return [(name, stat.st_ino, stat.st_mtime_ns) for name, stat in stats]


def _read_tower(folder: Path, seen: list[tuple[str, int, int]]) -> TextTower:
    """The tower that was there when the other parts were read, and no other in its place."""
    if folder.is_dir() and _stamps(folder) != seen:
        raise CheckpointError(f"{folder} was replaced since the model was read: load it again")
    return load_tower(folder)


def _read_bank(folder: Path) -> MemoryBank:
    """A small bank is read whole and checked against its checksum; a large one is mapped, so that it opens at once."""
    return MemoryBank.load(folder, memory_map=folder_bytes(folder) > MAPPED_FROM)


def write_checkpoint(
    parts: Parts, folder: Path, *, storage: Storage = "fp16", bank_storage: Precision = "float16"
) -> None:
    """Write all parts beside the folder and swap them in: after a kill it is whole, or as it was.

    Over an older checkpoint, parts that this one lacks are removed; what is no part of one stays.

    CheckpointError: the folder holds a checkpoint of the published system, which would be mixed up with ours.
    """
    if (folder / FOREIGN_CONFIG_FILE).exists():
        raise CheckpointError(f"{folder} holds a published checkpoint: choose another folder")
    networks = {"backbone": parts.backbone, "decoder": parts.decoder, "text_tower": parts.text_tower}
    held = {**networks, "memory_bank": parts.bank, "nouns": parts.nouns}
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
    """What a YAML file at `path` says, its keys checked; relative paths start at its folder.

    Parts are folders, or mappings with a "type" (configs/ has many), for a decoder {type: retrieval} alone; text tower
    and bank may be null. "weights": see `patchioner.checkpoints.WeightSource`.
    """

    name: str
    backbone: Any
    about: str | None = None
    decoder: Any = None
    text_tower: Any = None
    memory_bank: Any = None
    settings: Mapping[str, Any] | None = None
    path: Path = Path()

    def make_backbone(self) -> Backbone:
        """The backbone with its weights; errors as `patchioner.checkpoints.make_part`."""
        return make_part(BACKBONES, self.backbone, self.path.parent, str(self.path))

    def make_text_tower(self) -> TextTower | None:
        """The text tower with its weights, or None; errors as `patchioner.checkpoints.make_part`."""
        given = self.text_tower
        return None if given is None else make_part(TEXT_TOWERS, given, self.path.parent, str(self.path))

    def model_settings(self) -> ModelSettings:
        """What stands under "settings"; CheckpointError as `ModelSettings.from_json`."""
        head = {"format": FORMAT, "version": VERSION, "name": self.name}
        return ModelSettings.from_json({**(self.settings or {}), **head}, str(self.path))


def names_parts(path: Path) -> bool:
    """Whether a YAML file is of this kind: it has a "name" and a "backbone". False for what is no YAML at all."""
    try:
        held = read_yaml(path)
    except CheckpointError:
        return False
    return isinstance(held, Mapping) and {"name", "backbone"} <= held.keys()


def read_model_config(path: Path) -> ModelConfig:
    """Read a file; CheckpointError: none, not YAML, an unknown key (the close ones are offered) or a missing one."""
    config = read_settings(ModelConfig, read_yaml(path), str(path), path=path)
    if not config.name.strip():
        raise CheckpointError(f"{path}: name is {config.name!r}: say what the model is called")
    if config.settings and "name" in config.settings:
        raise CheckpointError(f"{path}: the name stands outside of the settings: move it there")
    return config


def build_model(path: Path) -> Parts:
    """Make all parts of a model from a YAML file (`ModelConfig`), for `Patchioner(parts)`.

    Raises:
        CheckpointError, MemoryBankError: a key is unknown, or a part is missing, corrupt or does not fit.
        HubError, MissingExtraError: weights cannot be fetched; a library is not installed.
    """
    from decoders.retrieval import RetrievalDecoder

    config, bank, decoder = read_model_config(path), None, None
    settings = config.model_settings()
    try:  # the small and easily mistaken parts first: an error should not wait for gigabytes of weights
        if config.memory_bank is not None:
            bank = _read_bank(existing_path(config.memory_bank, path.parent, "memory_bank"))
        if config.decoder != {"type": "retrieval"}:
            decoder = load_decoder(existing_path(config.decoder, path.parent, "decoder"))
    except OptionError as error:
        raise CheckpointError(f"{path}: {error}, or {{type: retrieval}}") from error
    backbone = config.make_backbone()
    tower = None if config.text_tower is None else config.make_text_tower
    return Parts(backbone, decoder or RetrievalDecoder(backbone.dim), bank, tower, settings)
