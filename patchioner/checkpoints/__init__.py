"""Checkpoints: networks with a folder of their own, files as other people write them, the hub, what models there are.

Beside it: our folders (`folder`), the published ones (`published`), the shipped weights (`patchioner-mini/`). No file
is unpickled beyond plain tensors and containers.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import huggingface_hub
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from patchioner.base.errors import CheckpointError, HubError, OptionError, UnknownNameError, first_line
from patchioner.base.files import file_sha256, leads_out, read_json, settings_from, without_repeats, write_json
from patchioner.base.optional import Registry, require
from patchioner.base.weights import (
    SCALE_SUFFIX,
    TORCH_FILES,
    AllocationLimit,
    Storage,
    as_float,
    fit_weights,
    inference_copy,
    kind_of_file,
    load_weights,
    save_weights,
    tensors_sha256,
)

if TYPE_CHECKING:
    from patchioner.checkpoints.folder import Parts
    from patchioner.model import Patchioner

CONFIG_FILE, WEIGHTS_FILE = "config.json", "weights.safetensors"
PRETRAINED = "pretrained"
# Our own errors are among these; torch names an impossible shape by a RuntimeError.
_WRONG = LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError
_WRAPPINGS = ("state_dict", "model_state_dict", "model", "teacher")
_DISTRIBUTED = "module."
_OWNER, _STATED = "Ruggero1912", "none stated"
_FLOAT = 4  # bytes
# Bytes of the published networks in float32, and of a bank whose rows are 768 numbers, a norm and a count.
_BACKBONE, _DECAP, _PROMPTED = _FLOAT * 86_600_000, _FLOAT * 68_300_000, _FLOAT * 168_200_000
_BANK = 591_753 * (768 * _FLOAT + 12)
_PUBLISHED = {
    "decap": ("DINOv2 ViT-B/14 + Talk2DINO, memory of 591,753 captions, DeCap", _DECAP + _BANK),
    "capdec": ("the same backbone, no memory, decoder trained with noise (CapDec)", _DECAP),
    "viecap": ("the same backbone, soft and entity prompts for GPT-2 (ViECap)", _PROMPTED),
    "meacap": ("the same backbone, retrieved captions for GPT-2 (MeaCap)", _PROMPTED + _BANK),
}


class StoredModule(nn.Module, ABC):
    """What backbones and text towers have in common: their config, and their place in a checkpoint."""

    dim: int  # width of the embedding space
    kept_in_float32: tuple[str, ...] = ()  # modules in it that are in no other precision

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What a checkpoint stores beside the weights: "type", the key of its registry, and its settings."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """Make one with its weights; see `WeightSource`.

        Args:
            config: "type", settings as `config` gives them, and "weights" where they are not in the folder.
            folder: where the config is; its relative paths start there.
        """

    def to(self, device: torch.device | str, dtype: torch.dtype, *, optimize: bool = True) -> Self:  # type: ignore[override]
        """A frozen copy for inference on a device, in a precision; see `inference_copy`. This one stays as it is."""
        twin = inference_copy(self, device, dtype, optimize=optimize)
        for name, part in self._parts().items():  # each as it sees fit
            setattr(twin, name, part.to(device, dtype, optimize=optimize))
        for name in self.kept_in_float32:
            setattr(twin, name, inference_copy(getattr(self, name), device, torch.float32, optimize=optimize))
        return twin

    def save(self, folder: Path, *, storage: Storage = "fp16") -> None:
        """Write config.json and weights.safetensors; `storage` is the precision of the weights on disk.

        Networks of this kind inside have folders of their own; what has other files (a tokenizer) adds them.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name, part in self._parts().items():
            part.save(folder / name, storage=storage)
        if state := self.stored().state_dict():
            save_weights(state, folder / WEIGHTS_FILE, storage=storage)
        write_json(folder / CONFIG_FILE, self.config)

    def _parts(self) -> dict[str, StoredModule]:
        return {k: one for k, one in self.named_children() if isinstance(one, StoredModule)}

    def stored(self) -> nn.Module:
        """What `save` writes here: all of it, but for networks with a folder of their own."""
        parts = self._parts()
        return nn.ModuleDict({k: one for k, one in self.named_children() if k not in parts}) if parts else self

    def restore(self, folder: Path | None) -> Self:
        """Read what `save` wrote, strictly (CheckpointError), into this network, and give it back; None: nothing."""
        if folder is not None:
            weights = folder / WEIGHTS_FILE
            fit_weights(self.stored(), load_weights(weights), source=str(weights))
        return self.eval()


P = TypeVar("P", bound=StoredModule)
T = TypeVar("T")


def make_part(registry: Registry[type[P]], given: Any, folder: Path, source: str) -> P:
    """Make a backbone or text tower.

    Args:
        given: a folder that `save` wrote, or a config with a "type".
        folder: relative paths start here.
        source: where `given` stands, for messages.

    Raises:
        CheckpointError: no such folder or file; an unknown key or value; weights that do not fit.
        HubError, MissingExtraError: weights cannot be fetched; a library is not installed.
    """
    if not isinstance(given, str | Path | Mapping):
        raise CheckpointError(f"{source}: {registry.kind} {given!r}: give a folder or a mapping")
    try:
        if not isinstance(given, Mapping):
            folder = existing_path(given, folder, registry.kind)
            source = str(folder / CONFIG_FILE)
            given = read_json(source)
            _refuse_paths_out(given, source)
        part = registry.of_config(given, source)
        own = Path() if "weights" in given else folder / WEIGHTS_FILE
        with AllocationLimit.beside(own, source):
            return part.from_config(given, folder)
    except CheckpointError:
        raise
    except _WRONG as error:
        raise CheckpointError(f"{source} lacks or has a wrong setting: {first_line(error)}") from error


def _refuse_paths_out(config: Any, source: str) -> None:
    """The config of a folder comes from others: it names no file outside of that folder."""
    if isinstance(config, str) and leads_out(config):
        raise CheckpointError(f"{source}: {config!r:.80} leads out of its folder: copy it there")
    inner = list(config.values()) if isinstance(config, Mapping) else config
    for one in inner if isinstance(inner, list) else ():
        _refuse_paths_out(one, source)


def read_settings(kind: type[T], values: Any, source: str, **own: Any) -> T:
    """`settings_from` the values of a file; its errors are a CheckpointError."""
    try:
        return settings_from(kind, values, source, **own)
    except OptionError as error:
        raise CheckpointError(str(error)) from error


def settings_of(config: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The settings of a config; one that is not `known` is an UnknownNameError with the close ones."""
    own = {key: value for key, value in config.items() if key not in ("type", "weights")}
    names = set(known)
    if unknown := sorted(map(str, own.keys() - names)):
        raise UnknownNameError.among(f"key of {config.get('type')}", unknown[0], names)
    return own


@dataclass(frozen=True)
class WeightSource:
    """Where the "weights" of a config come from; without any, its own folder. Nothing set ("random"): they stay so."""

    fetched: bool = False  # ``pretrained``, by the library behind the part
    tag: str | None = None  # ``pretrained:TAG``, where it needs one
    file: Path | None = None  # in the authors' own layout
    folder: Path | None = None  # that `save` wrote
    parts: Mapping[str, Any] | None = None  # several files by name

    @classmethod
    def of(cls, config: Mapping[str, Any], folder: Path) -> WeightSource:
        """What a config says; OptionError where that is nothing and its folder holds none, or no such path."""
        given = config.get("weights")
        if given is None:
            if not (file := folder / WEIGHTS_FILE).is_file():
                raise OptionError(
                    f"{file}: no such file: is the folder complete? Else it needs 'weights': random, a path ..."
                )
            return cls(folder=folder)
        if isinstance(given, Mapping):
            return cls(parts=given)
        if given == "random":
            return cls()
        if isinstance(given, str) and given.partition(":")[0] == PRETRAINED:
            return cls(fetched=True, tag=given.partition(":")[2] or None)
        path = existing_path(given, folder, "weights")
        return cls(folder=path) if path.is_dir() else cls(file=path)

    def refuse(self, *, fetched: bool = False, file: bool = False, advice: str) -> None:
        """OptionError with advice where weights are fetched, or in a file, and the part does not know such."""
        if (fetched and self.fetched) or (file and self.file is not None):
            raise OptionError(f"weights {self.tag or self.file or PRETRAINED}: {advice}")


def existing_path(given: Any, folder: Path, what: str) -> Path:
    """A file or folder that a config names; OptionError where it names nothing, or nothing is there."""
    if not isinstance(given, str | Path) or not str(given).strip():
        raise OptionError(f"{what} is {given!r}: give a path")
    found = folder / Path(given).expanduser()
    if not os.path.exists(found):  # also where the system takes no such name
        raise OptionError(f"{what} {str(given)!r:.200}: there is no {str(found):.300}")
    return found


def read_object(path: Path) -> Any:
    """What a `.pt` file holds: tensors, and plain containers, numbers and texts.

    CheckpointError: missing, truncated, foreign, or a pickle that wants to execute something.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if (kind := kind_of_file(path)) not in TORCH_FILES:
        raise CheckpointError(f"{path}: truncated, or no tensors: it is {kind}; fetch it again")
    try:
        with warnings.catch_warnings():  # on a pickle of a newer protocol, before it is refused
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wrong = "it holds more than tensors, which could run code; nothing was executed"
        raise CheckpointError(f"{path}: {wrong}: save a plain state dict, or safetensors") from error
    except Exception as error:  # torch has no error class of its own for a damaged file
        raise CheckpointError(f"{path}: truncated or not a file of tensors ({first_line(error)})") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict in float32, without the prefix that distributed training adds.

    CheckpointError: as `read_object`; or it holds something other than named tensors, or values not finite.
    """
    held = load_weights(path) if path.suffix == ".safetensors" else read_object(path)
    while isinstance(held, Mapping):
        inner = [held[key] for key in _WRAPPINGS if isinstance(held.get(key), Mapping)]
        if len(inner) != 1:
            break
        held = inner[0]
    if not isinstance(held, Mapping) or not held:
        found = "none" if isinstance(held, Mapping) else type(held).__name__
        raise CheckpointError(f"{path}: expected named tensors, found {found}")
    for name, value in held.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise CheckpointError(f"{path}: {name!r} is no tensor; give a state dict of tensors")
    if len({name.startswith(_DISTRIBUTED) for name in held}) > 1:
        raise CheckpointError(f"{path}: some names have {_DISTRIBUTED!r}; two files were mixed up")
    return {name.removeprefix(_DISTRIBUTED): as_float(tensor, f"{path}: {name}") for name, tensor in held.items()}


def part_of(state: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors under the first of the prefixes that any name has, without it; "" takes all."""
    for prefix in prefixes:
        if found := {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}:
            return found
    return {}


def read_yaml(path: Path) -> Any:
    """The values of a YAML file; tags that would make anything but plain values are refused.

    CheckpointError: it cannot be read, is not UTF-8, or is no plain YAML. MissingExtraError: pyyaml is not installed.
    """
    yaml = require("yaml", "published")

    class Loader(yaml.SafeLoader):  # type: ignore[name-defined,misc]  # imported when it is needed
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            own = (key for key, _ in node.value if not key.tag.endswith(":merge"))  # "<<" is no key
            without_repeats((self.construct_object(key, deep=True), None) for key in own)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); check it") from error
    # No YAML, no UTF-8, a number of thousands of digits, brackets as deep, or a date that is none: each its own class.
    except Exception as error:
        said = "a date that is none" if isinstance(error, AttributeError) else f"{error}"
        reason = " ".join(said.split())[:200]
        raise CheckpointError(f"{path}: not a plain YAML file ({reason})") from error


@contextmanager
def at_hub(failed: str, remedy: str) -> Iterator[None]:
    """What goes wrong there becomes a HubError: its transport raises errors of its own, others each release."""
    try:
        yield
    except Exception as error:
        raise HubError(f"{failed} ({first_line(error)}): {remedy}") from error


def upload(folder: Path, name: str) -> None:
    """Push a checkpoint folder to the hub repository `name`, made on demand."""
    with at_hub(f"cannot push to {name!r}", "hf auth login"):
        api = huggingface_hub.HfApi()
        api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder)


def fetch(hub_id: str, name: str) -> Path:
    """One file of a hub repository, from the cache where it is there already; HubError where it cannot be had."""
    with at_hub(f"{name!r} of {hub_id} cannot be fetched", "check the connection and the name"):
        return Path(huggingface_hub.hf_hub_download(hub_id, name))


@dataclass(frozen=True)
class KnownModel:
    """A model that `Patchioner.from_pretrained` takes by name."""

    name: str
    about: str  # backbone, projection and decoder in a few words
    licence: str
    source: str
    memory: int  # bytes of its parts once it is loaded, networks in float32, by calculation from their shapes
    disk: int | None  # bytes of its files, None where they are not known before they are fetched
    here: bool  # whether its files are on this machine


def known_models() -> list[KnownModel]:
    """The models inside the package, then the published ones."""
    from patchioner.checkpoints.folder import shipped_models

    models = [_shipped(Path(__file__).parent / name) for name in shipped_models()]
    for key, (about, memory) in _PUBLISHED.items():
        name = f"{_OWNER}/Patch-ioner_talk2dino_{key}_COCO_Captions"
        found = huggingface_hub.try_to_load_from_cache(name, "config.yaml")  # nothing is fetched
        disk = folder_bytes(Path(found).parent) if isinstance(found, str) else None
        models.append(KnownModel(name, about, _STATED, "the model hub", _BACKBONE + memory, disk, disk is not None))
    return models


def _shipped(folder: Path) -> KnownModel:
    config = read_json(folder / CONFIG_FILE)
    parts = [folder / part / CONFIG_FILE for part in ("backbone", "text_tower", "decoder")]
    configs = [read_json(part) for part in parts if part.is_file()]
    kinds = ", ".join(str(one.get("name") or one.get("type")) for one in configs)
    about, memory = f"{kinds}; projection: {config['projection']}", _loaded_bytes(folder)
    return KnownModel(folder.name, about, config["licence"], "this package", memory, folder_bytes(folder), True)


def _loaded_bytes(folder: Path) -> int:
    """Bytes in memory of a checkpoint of ours: networks become float32 whatever their storage, the bank stays."""
    total = sum(path.stat().st_size for path in folder.glob("memory_bank/bank.safetensors"))
    for path in folder.glob("*/weights.safetensors"):
        with safe_open(path, framework="pt") as tensors:
            names = [name for name in tensors.keys() if not name.endswith(SCALE_SUFFIX)]  # noqa: SIM118
            shapes = [tensors.get_slice(name).get_shape() for name in names]
        total += _FLOAT * sum(math.prod(shape) for shape in shapes)
    return total


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under a folder; what links lead to is counted."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def part_sizes(parts: Parts) -> dict[str, tuple[int, int]]:
    """Numbers held and bytes in memory of each part of a loaded model: weights and buffers, a bank's rows."""
    held = {"backbone": parts.backbone, "text tower": parts.text_tower}
    sizes = {name: _tensor_sizes(one) for name, one in held.items() if one is not None}
    if (bank := parts.bank) is not None:
        tensors = [t for t in (bank.keys, bank.norms, bank.counts, bank.scales) if t is not None]
        sizes["memory bank"] = bank.keys.numel(), sum(t.nbytes for t in tensors)
    return {**sizes, "decoder": _tensor_sizes(parts.decoder.network)}


def _tensor_sizes(module: nn.Module) -> tuple[int, int]:
    tensors = [*module.parameters(), *module.buffers()]
    return sum(t.numel() for t in tensors), sum(t.numel() * t.element_size() for t in tensors)


def saved_sha256(decoder: Any) -> str:
    """Sha256 (hex) of the files that a decoder, which need not be one network, saves in float32."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        decoder.save(folder, storage="fp32")
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            # The head of a safetensors file is written in an order that changes from process to process.
            found = tensors_sha256(load_file(path)) if path.suffix == ".safetensors" else file_sha256(path)
            digest.update(f"{path.relative_to(folder).as_posix()} {found}\n".encode())
    return digest.hexdigest()


def model_fingerprint(model: Patchioner) -> dict[str, Any]:
    """Sha256 of each part of a model; its settings are not among them."""
    parts = model.parts
    tower, bank = parts.text_tower, parts.bank
    return {
        "name": parts.settings.name,
        "backbone_config": parts.backbone.config,
        "backbone_sha256": tensors_sha256(parts.backbone.state_dict()),
        "decoder_class": type(parts.decoder).__name__,
        "decoder_sha256": saved_sha256(parts.decoder),
        "text_tower_sha256": None if tower is None else tensors_sha256(tower.state_dict()),
        "bank_sha256": None if bank is None else bank.fingerprint(),
        "bank_rows": None if bank is None else len(bank),
    }
