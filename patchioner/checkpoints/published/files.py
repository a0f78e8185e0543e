"""The authors' files: config.yaml as a value, every key checked, what lies around it, and memory banks become ours."""

from __future__ import annotations

import glob
import logging
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn.functional import normalize

from memory_bank import MemoryBank
from patchioner.base.errors import CheckpointError, HubError, MemoryBankError, first_line
from patchioner.base.files import read_json
from patchioner.base.optional import require
from patchioner.base.progress import progress
from patchioner.base.weights import as_float
from patchioner.checkpoints import fetch, read_object, read_settings, read_yaml

# Written in some shipped files or in the README, but read by no published code: accepted, without effect.
UNREAD = {"kkv_attention", "project_length", "text_prompt", "disable_all_entities", "files_path"}
UNREAD |= {"parser_checkpoint", "wte_model_path", "vl_model"}  # of networks not needed here
UNSUPPORTED = {
    "alphaclip_config": "AlphaCLIP runs the backbone once per region with a mask as a fourth channel",
    "denseclip_config": "DenseCLIP needs its authors' own networks",
    "invite_config": "INViTE needs its authors' own networks",
    "regionclip_config": "RegionCLIP is a ResNet trained with detection code",
    "clipcap": "ClipCap samples its captions, so no published one could be repeated",
    "talk2dino_config": "embedding inversion undoes only the first of the projection's two layers",
    "talk2dino_weights": "embedding inversion undoes only the first of the projection's two layers",
}
MOST_UNPACKED = 64  # times its file that a bank may be, once unpacked
DINOTXT_COLUMNS = 2048
_CAPTIONS, _EMBEDDINGS = "memory_captions.json", "memory_clip_embeddings.pt"
_ROWS, _TEXTS, _BLOCK = "-embeddings", "-text", 16384
# What `projection_type` is called in a file name. Only the first is known for certain; the others follow its form.
_SOURCES = {"coco": "coco_captions", "vg": "vg_captions", "vg-test": "vg-test_captions"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeacapConfig:
    """`viecap.meacap`: where the caption memory lies and how much of it is asked."""

    memory_caption_num: int = 5  # captions retrieved for each region
    memory_id: str = "coco"  # the memory's folder is ``<base>/<id>``; on the hub ``memory/<id>``
    memory_base_path: str | None = None
    hf_repo_id: str | None = None  # where a missing memory is fetched


@dataclass(frozen=True)
class ViecapConfig:
    """`viecap`: the ViECap decoder, and MeaCap where `meacap` is given."""

    weight_path: str | None = None  # the decoder's file; only its base name is looked up
    language_model: str = "gpt2"
    continuous_prompt_length: int = 10
    clip_project_length: int = 10
    clip_hidden_size: int | None = None  # width of the region embedding; None takes it from the weights
    suffix: str | None = None  # with `name_of_entities_text` and `prompt_ensemble`: which vocabulary of entities
    temperature: float = 0.01  # with `top_k` and `threshold`: of the entities' softmax (see `decoders.viecap`)
    top_k: int = 3
    threshold: float = 0.2
    name_of_entities_text: str = "vinvl_vgoi_entities"
    prompt_ensemble: bool = False
    using_hard_prompt: bool = False
    soft_prompt_first: bool = False
    only_hard_prompt: bool = False
    using_greedy_search: bool = False
    beam_width: int = 5
    hf_repo_id: str | None = None
    meacap: MeacapConfig | None = None


@dataclass(frozen=True)
class PublishedConfig:
    """A published config.yaml. The defaults are those of the published code."""

    prefix_size: int  # width of the vector given to the decoder
    support_memory_size: int  # rows that the bank was made with; 0 is no bank
    projection_type: str = "coco"  # which captions it holds
    decap_weights: str | None = None
    dino_model: str | None = None  # name of the backbone; None is ProxyCLIP
    normalize: bool = True  # unit length after the memory projection (and nowhere else)
    resize_dim: int = 518
    crop_dim: int = 518
    use_talk2dino_project: bool | str = True  # texts are projected by Talk2DINO; a string names another projection
    linear_talk2dino: bool = False  # with `talk2dino_attn_type`: part of the bank's file name
    talk2dino_attn_type: str = "qkv"
    attention_type: str = "qkv"  # wiring of the last block; only "qkv", the plain one, is supported
    calculate_argmax_text: bool = False  # the caption is the nearest memory text
    clip_model_name: str | None = None
    use_open_clip: bool = False
    proxyclip_clipmodel: str | None = None
    proxyclip_vfm: str | None = None
    viecap: ViecapConfig | None = None
    hf_repo_id: str | None = None  # where missing files are fetched

    @property
    def clip_like(self) -> bool:
        """Whether the published code unit-normalises the bank at load: a named backbone that is no DINOv2."""
        return self.dino_model is not None and "dinov2" not in self.dino_model


def read_config(path: Path) -> PublishedConfig:
    """Read a published YAML file of plain values; CheckpointError where a key or value is none of theirs."""
    source, given = str(path), _with_effect(read_yaml(path))
    for key, why in UNSUPPORTED.items():
        if isinstance(given, dict) and given.pop(key, None):
            raise CheckpointError(f"{source}: {key!r} is not supported: {why}. Use another model")
    config = read_settings(PublishedConfig, given, source)
    if config.attention_type != "qkv":
        raise CheckpointError(f"{source}: attention_type {config.attention_type!r} is not supported; only 'qkv' is")
    for name in ("prefix_size", "support_memory_size", "resize_dim", "crop_dim"):
        value, least = getattr(config, name), int(name != "support_memory_size")
        if value < least:
            raise CheckpointError(f"{source}: {name} is {value}; it must be {least} or more")
    return config


def _with_effect(values: Any) -> Any:
    if not isinstance(values, Mapping):
        return values
    return {key: _with_effect(value) for key, value in values.items() if key not in UNREAD}


@dataclass(frozen=True)
class PublishedFiles:
    """The files around one config: its folder, itself, and the repository to fetch missing ones from, or None."""

    root: Path
    config: Path
    hub_id: str | None = None

    @classmethod
    def of(cls, path: Path, hub_id: str | None = None) -> PublishedFiles:
        """The files of a folder with a config.yaml, or around a YAML file."""
        config = path / "config.yaml" if path.is_dir() else path
        if not config.is_file():
            raise CheckpointError(f"{config}: no such file; a published model has a config.yaml")
        return cls(config.parent, config, hub_id)

    @property
    def name(self) -> str:
        """What the model is called: its hub id where the folder is one of the hub's cache, else its folder or file."""
        for folder in (self.root, *self.root.parents):
            if folder.name.startswith("models--"):
                return folder.name.removeprefix("models--").replace("--", "/")
        return self.root.name if self.config.name == "config.yaml" else self.config.stem

    def find(self, given: str, what: str) -> Path:
        """A config's file: as it is named, by its base name beside the config, or of the hub; else CheckpointError."""
        name = base_name(given)
        places = self.root / given, self.root / name
        return self._first(places, name, f"{what} {name!r} is not beside {self.config}", self.hub_id)

    def find_memory(self, config: MeacapConfig, name: str) -> Path:
        """`<base>/<id>/<name>` where it is there, else `memory/<id>/<name>` beside the config or on the hub."""
        own_place = self.root / (config.memory_base_path or "memory") / config.memory_id / name
        beside = self.root / "memory" / base_name(config.memory_id) / name
        missing = f"caption memory: neither {own_place} nor {beside} is there"
        on_hub = f"memory/{config.memory_id}/{name}"
        return self._first((own_place, beside), on_hub, missing, config.hf_repo_id or self.hub_id)

    @staticmethod
    def _first(places: tuple[Path, Path], name: str, missing: str, hub_id: str | None) -> Path:
        """The first of the places that is a file, else the file of that name on the hub."""
        for place in places:
            if place.is_file():
                return place
        if hub_id is None:
            raise CheckpointError(f"{missing}, and no hf_repo_id is given. Put the file there")
        try:
            return fetch(hub_id, name)
        except HubError as error:
            raise CheckpointError(f"{missing}, nor on the hub: {error}. Put it there") from error

    def any_of(self, patterns: Iterable[str]) -> Path | None:
        """The only file beside the config that fits the first pattern that any fits; None where none does.

        What comes out of a config goes into a pattern by `as_pattern`. Several that fit one are a CheckpointError.
        """
        for pattern in patterns:
            found = sorted(path for path in self.root.glob(pattern) if path.is_file())
            if len(found) > 1:
                names = ", ".join(path.name for path in found)
                raise CheckpointError(f"{self.root}: which of {names}? Leave one there")
            if found:
                return found[0]
        return None


def as_pattern(given: str) -> str:
    """The last part of a path, as a pattern that fits that name alone."""
    return glob.escape(base_name(given))


def base_name(given: str) -> str:
    """The last part of a path as anybody may have written it, on either kind of system."""
    return PurePosixPath(PureWindowsPath(given).as_posix()).name


def bank_file_name(config: PublishedConfig) -> str:
    """The name under which the published code keeps a configuration's bank.

    `{prefix}{dataset}_text_embeddings{attention}{postfix}-{CLIP model}-{rows}.h5`. The forms for Talk2DINO and for
    plain CLIP on COCO captions are known; other sources follow the same form [inferred].

    Example:
        >>> bank_file_name(PublishedConfig(768, 591753, dino_model="dinov2_vitb14_reg"))
        'coco_captions_text_embeddings-B16-ViT-B.16-591753.h5'
    """
    source = base_name(config.projection_type)
    if source.endswith(".json"):  # the published code goes by words in the name
        words = {"coco": "coco", "karpathy": "coco", "vg": "vg", "marco": "msmarco"}
        source = next((words[word] for word in words if word in source.lower()), "coco")
    talk2dino = bool(config.use_talk2dino_project) and "dino" in (config.dino_model or "")
    clip = (config.clip_model_name or "ViT-B/16").replace("/", ".")
    attention = "" if config.talk2dino_attn_type == "qkv" else f"_{config.talk2dino_attn_type}"
    postfix = ("-B16" if talk2dino else "") + ("-linear" if config.linear_talk2dino else "")
    postfix += "-open_clip" if config.use_open_clip else ""
    dataset = f"{'' if talk2dino else 'clip-'}{_SOURCES.get(source, source)}"
    rows = config.support_memory_size
    return f"{dataset}_text_embeddings{attention}{postfix}-{clip}-{rows}.h5"


def find_bank(files: PublishedFiles, config: PublishedConfig) -> Path:
    """The bank's file: by its published name, else the only `*.h5` beside the config, else from the hub."""
    name = bank_file_name(config)
    return files.any_of([as_pattern(name), "*.h5"]) or files.find(name, "memory bank")


def bank_of(files: PublishedFiles, config: PublishedConfig) -> MemoryBank | None:
    """The bank of a published model, MeaCap's memory of captions or that of its projection; None where it has none."""
    if config.viecap is not None:
        meacap = config.viecap.meacap
        return None if meacap is None else read_memory(files, meacap, dim=config.prefix_size)
    if config.support_memory_size == 0:
        return None
    return read_bank(find_bank(files, config), unit_rows=config.clip_like, dim=config.prefix_size)


def read_bank(path: Path, *, unit_rows: bool = False, dim: int | None = None) -> MemoryBank:
    """Read a published HDF5 bank, in float32, with its texts and without rows of zero norm (an unfilled rest).

    Args:
        path: one dataset `*-embeddings`, (N, width) float, and one `*-text`, N strings of UTF-8.
        unit_rows: scale every row to unit length, as the published code does for models whose name lacks "dinov2".
            Otherwise rows keep their lengths, by which they weigh in a projection.
        dim: width that the rows must have; None takes any. Of DINO.txt's 2,048 columns the second half is taken.

    Raises:
        MemoryBankError: a file that is cut short, foreign, of another width, or whose texts do not fit.
        MissingExtraError: h5py is not installed.
    """
    h5py = require("h5py", "published")
    if not path.is_file():
        raise MemoryBankError(f"{path}: no such memory bank")
    try:
        with h5py.File(path, "r") as file, tempfile.TemporaryDirectory() as scratch:
            rows, texts = _datasets(file, h5py)
            unpacked = rows.size * 4
            # What was never written takes no room in a file, and what is compressed little.
            if unpacked > MOST_UNPACKED * path.stat().st_size + 2**26:
                raise MemoryBankError(f"{rows.name!r} takes {unpacked:,} bytes, over {MOST_UNPACKED} times its file")
            given = texts.asstr("utf-8")[:].tolist()
            staged = _staged(rows, _columns(rows.shape[1], dim), unit_rows, Path(scratch) / "rows")
            bank = MemoryBank(staged, given, drop_zero_rows=True)
            del staged
    except (OSError, KeyError, RuntimeError, UnicodeDecodeError) as error:
        raise MemoryBankError(f"{path}: cut short, or no HDF5 memory bank ({first_line(error)})") from error
    except MemoryBankError as error:
        raise MemoryBankError(f"{path}: {error}") from error
    if empty := len(given) - len(bank):
        _log.info("%s: left out %d of %d rows, which are zero", path, empty, len(given))
    return bank


def _datasets(file: Any, h5py: Any) -> tuple[Any, Any]:
    """The dataset of rows and the one of texts; their common name is not the same in all files."""
    named = [name for name in file if name.endswith(_ROWS) and isinstance(file[name], h5py.Dataset)]
    if len(named) != 1:
        raise MemoryBankError(f"expected one dataset '*{_ROWS}', found {named or 'none'} among {', '.join(file)}")
    rows, texts = file[named[0]], named[0].removesuffix(_ROWS) + _TEXTS
    if not isinstance(file.get(texts), h5py.Dataset):
        raise MemoryBankError(f"there is no dataset {texts!r} beside {named[0]!r}")
    if rows.ndim != 2 or rows.dtype.kind != "f":
        raise MemoryBankError(f"{named[0]!r} is {rows.shape} {rows.dtype}, not rows of floats")
    if h5py.check_string_dtype(file[texts].dtype) is None:
        raise MemoryBankError(f"{texts!r} is {file[texts].dtype}, not texts")
    if file[texts].shape != rows.shape[:1]:
        raise MemoryBankError(f"{len(rows)} rows, but texts of shape {file[texts].shape}")
    return rows, file[texts]


def _columns(width: int, dim: int | None) -> slice:
    if width == DINOTXT_COLUMNS and dim == DINOTXT_COLUMNS // 2:
        return slice(dim, None)
    if dim not in (None, width):
        raise MemoryBankError(f"rows have width {width}, the config says prefix_size {dim}")
    return slice(None)


def _staged(rows: Any, columns: slice, unit_rows: bool, scratch: Path) -> npt.NDArray[np.float32]:
    """The rows in a scratch file, mapped into memory."""
    width = len(range(*columns.indices(rows.shape[1])))
    staged = np.memmap(scratch, np.float32, mode="w+", shape=(len(rows), width))
    starts = range(0, len(rows), _BLOCK)
    for start in progress(starts, description="reading the memory bank", unit="block"):
        block = rows[start : start + _BLOCK, columns].astype(np.float32)
        if unit_rows:
            lengths = np.linalg.norm(block, axis=1, keepdims=True)
            block /= np.where(lengths > 0, lengths, 1)
        staged[start : start + _BLOCK] = block
    return staged


def read_memory(files: PublishedFiles, config: MeacapConfig, *, dim: int) -> MemoryBank:
    """The caption memory as a bank of unit rows, searched by cosine as published.

    `memory_captions.json` is a list of captions, `memory_clip_embeddings.pt` their (N, dim) tensor. The third published
    file, embeddings of the captions by a sentence encoder, is not read: nothing depends on it here.

    CheckpointError, MemoryBankError: a file is missing, damaged, of another width, or does not fit the other.
    """
    captions, path = (files.find_memory(config, name) for name in (_CAPTIONS, _EMBEDDINGS))
    texts = read_json(captions)
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise CheckpointError(f"{captions}: expected a list of captions")
    held = read_object(path)
    if not isinstance(held, Tensor) or held.dim() != 2 or not held.is_floating_point():
        raise CheckpointError(f"{path}: expected one tensor of rows, found {type(held).__name__}")
    if held.shape != (len(texts), dim):
        raise MemoryBankError(f"{path}: shape {tuple(held.shape)}, expected {(len(texts), dim)} of {captions.name}")
    try:
        return MemoryBank(normalize(as_float(held, str(path)), dim=1), texts)
    except MemoryBankError as error:
        raise MemoryBankError(f"{path}: {error}") from error
