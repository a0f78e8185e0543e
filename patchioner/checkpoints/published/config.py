"""The published config.yaml as a value, every key checked; and where the files that it names are."""

from __future__ import annotations

import difflib
import glob
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from patchioner.base.errors import CheckpointError, HubError
from patchioner.checkpoints.files import read_yaml
from patchioner.checkpoints.hub import fetch

T = TypeVar("T")

# Written in some shipped files or in the README, but read by no published code: accepted, without effect.
UNREAD = {"PublishedConfig": ("kkv_attention",), "ViecapConfig": ("project_length",)}

UNSUPPORTED = {
    "alphaclip_config": "AlphaCLIP runs the backbone once per region with a mask as a fourth channel",
    "denseclip_config": "DenseCLIP needs its authors' own networks",
    "invite_config": "INViTE needs its authors' own networks",
    "regionclip_config": "RegionCLIP is a ResNet trained with detection code",
    "clipcap": "ClipCap samples its captions, so no published one could be repeated",
    "talk2dino_config": "embedding inversion undoes only the first of the projection's two layers",
    "talk2dino_weights": "embedding inversion undoes only the first of the projection's two layers",
}


@dataclass(frozen=True)
class MeacapConfig:
    """`viecap.meacap`: where the caption memory lies and how much of it is asked.

    Attributes:
        memory_caption_num: captions retrieved for each region.
        memory_id, memory_base_path: the memory's folder is ``<base>/<id>``; on the hub ``memory/<id>``.
        parser_checkpoint: name of the scene-graph parser; None leaves the choice to us (our rules, no download).
        wte_model_path: name of the sentence encoder that merges concepts; likewise.
        vl_model, hf_repo_id: read and not needed here: the logit scale of `vl_model` cannot change the best captions.
    """

    memory_caption_num: int = 5
    memory_id: str = "coco"
    memory_base_path: str | None = None
    parser_checkpoint: str | None = None
    wte_model_path: str | None = None
    vl_model: str | None = None
    hf_repo_id: str | None = None


@dataclass(frozen=True)
class ViecapConfig:
    """`viecap`: the ViECap decoder, and MeaCap where `meacap` is given.

    Attributes:
        weight_path: the decoder's file; only its base name is looked up.
        language_model: a GPT-2 of transformers.
        continuous_prompt_length, clip_project_length: learned vectors of the mapping network, and vectors it is given.
        clip_hidden_size: width of the region embedding; None takes it from the weights.
        temperature, top_k, threshold: of the entities' softmax (see `decoders.entities`).
        name_of_entities_text, prompt_ensemble, suffix, files_path: which vocabulary of entities, and where.
        using_hard_prompt, soft_prompt_first, only_hard_prompt: what the prompt is made of.
        using_greedy_search, beam_width: decoding.
        text_prompt, disable_all_entities: read for completeness.
    """

    weight_path: str | None = None
    language_model: str = "gpt2"
    continuous_prompt_length: int = 10
    clip_project_length: int = 10
    clip_hidden_size: int | None = None
    suffix: str | None = None
    temperature: float = 0.01
    top_k: int = 3
    threshold: float = 0.2
    disable_all_entities: bool = False
    name_of_entities_text: str = "vinvl_vgoi_entities"
    prompt_ensemble: bool = False
    files_path: str | None = None
    using_hard_prompt: bool = False
    soft_prompt_first: bool = False
    only_hard_prompt: bool = False
    using_greedy_search: bool = False
    beam_width: int = 5
    text_prompt: str | None = None
    hf_repo_id: str | None = None
    meacap: MeacapConfig | None = None


@dataclass(frozen=True)
class PublishedConfig:
    """A published config.yaml. The defaults are those of the published code.

    Attributes:
        prefix_size: width of the vector given to the decoder.
        support_memory_size: rows that the bank was made with; 0 is no bank.
        projection_type: which captions the bank holds; names its file.
        decap_weights: the decoder's file.
        dino_model: name of the backbone; None is ProxyCLIP.
        normalize: unit length after the memory projection (and nowhere else).
        resize_dim, crop_dim: input size in pixels.
        use_talk2dino_project: texts are projected by Talk2DINO; a string names another projection.
        linear_talk2dino, talk2dino_attn_type: parts of the bank's file name.
        attention_type: wiring of the last block; only "qkv", the plain one, is supported.
        calculate_argmax_text: the caption is the nearest memory text.
        clip_model_name, use_open_clip, proxyclip_clipmodel, proxyclip_vfm: backbones of the CLIP family.
        viecap: the ViECap or MeaCap decoder.
        hf_repo_id: where missing files are fetched.
    """

    prefix_size: int
    support_memory_size: int
    projection_type: str = "coco"
    decap_weights: str | None = None
    dino_model: str | None = None
    normalize: bool = True
    resize_dim: int = 518
    crop_dim: int = 518
    use_talk2dino_project: bool | str = True
    linear_talk2dino: bool = False
    talk2dino_attn_type: str = "qkv"
    attention_type: str = "qkv"
    calculate_argmax_text: bool = False
    clip_model_name: str | None = None
    use_open_clip: bool = False
    proxyclip_clipmodel: str | None = None
    proxyclip_vfm: str | None = None
    viecap: ViecapConfig | None = None
    hf_repo_id: str | None = None

    @property
    def clip_like(self) -> bool:
        """Whether the published code unit-normalises the bank at load: a named backbone that is no DINOv2."""
        return self.dino_model is not None and "dinov2" not in self.dino_model


def read_config(path: Path) -> PublishedConfig:
    """Read a published YAML file; nothing but plain values is accepted in it.

    Raises:
        CheckpointError: no YAML, an unknown or unsupported key, a value of the wrong kind.
        MissingExtraError: pyyaml is not installed.
    """
    return parse_config(read_yaml(path), str(path))


def parse_config(values: Any, source: str) -> PublishedConfig:
    """Check the values of a config.yaml; `source` is named in errors."""
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{source}: expected keys and values, found {type(values).__name__}")
    given = dict(values)
    for key, why in UNSUPPORTED.items():
        if given.pop(key, None):
            raise CheckpointError(
                f"{source}: {key!r} is not supported: {why}. Remove it, or use another model"
            )
    if isinstance(given.get("viecap"), Mapping):
        viecap = dict(given["viecap"])
        if isinstance(viecap.get("meacap"), Mapping):
            viecap["meacap"] = _build(MeacapConfig, viecap["meacap"], f"{source}: viecap.meacap")
        given["viecap"] = _build(ViecapConfig, viecap, f"{source}: viecap")
    config = _build(PublishedConfig, given, source)
    if config.attention_type != "qkv":
        raise CheckpointError(
            f"{source}: attention_type {config.attention_type!r} rewires the backbone's last block, which is not "
            "supported; only 'qkv' is"
        )
    for name, least in (
        ("prefix_size", 1),
        ("support_memory_size", 0),
        ("resize_dim", 1),
        ("crop_dim", 1),
    ):
        if getattr(config, name) < least:
            raise CheckpointError(
                f"{source}: {name} is {getattr(config, name)}; it must be {least} or more"
            )
    return config


# What the text of an annotation accepts. A missing value (null) is accepted where the default is None.
_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "bool | str": (bool, str),
    "ViecapConfig": (ViecapConfig,),
    "MeacapConfig": (MeacapConfig,),
}


def _build(cls: type[T], values: Mapping[Any, Any], source: str) -> T:
    known = {entry.name: str(entry.type) for entry in fields(cls)}  # type: ignore[arg-type]
    names = [*known, *UNSUPPORTED] if cls is PublishedConfig else list(known)
    given = {}
    for key, value in values.items():
        if key in UNREAD.get(cls.__name__, ()):
            continue
        if key not in known:
            close = difflib.get_close_matches(str(key), names, n=3) or names
            raise CheckpointError(
                f"{source}: unknown key {key!r}; did you mean {', '.join(close)}?"
            )
        kind = known[key]
        optional, kind = kind.endswith(" | None"), kind.removesuffix(" | None")
        if value is None and optional:
            continue
        _check_kind(value, kind, f"{source}: {key}")
        given[key] = value
    try:
        return cls(**given)
    except TypeError as error:  # a required key is missing; the message names it
        missing = [entry for entry in ("prefix_size", "support_memory_size") if entry not in given]
        raise CheckpointError(f"{source}: missing {', '.join(missing)}") from error


def _check_kind(value: Any, kind: str, where: str) -> None:
    allowed = _KINDS[kind]
    is_number_given_as_bool = isinstance(value, bool) and bool not in allowed
    if not isinstance(value, allowed) or is_number_given_as_bool:
        raise CheckpointError(f"{where} is {value!r}; it must be {kind.replace(' | ', ' or ')}")


@dataclass(frozen=True)
class PublishedFiles:
    """The files around one config.

    Attributes:
        root: folder of the config.
        config: the config file itself.
        hub_id: repository to fetch missing files from, or None.
    """

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
        """The file that a config names.

        Looked for as it is given, then by its base name beside the config, then in the hub repository.

        Raises:
            CheckpointError: nowhere to be found; says where it was looked for.
        """
        name = base_name(given)
        for candidate in (self.root / given, self.root / name):
            if name and candidate.is_file():
                return candidate
        looked = f"beside {self.config}"
        if self.hub_id is not None:
            try:
                return fetch(self.hub_id, name)
            except HubError as error:
                looked += f", nor to be had from the hub: {error}"
        raise CheckpointError(f"{what} {name!r} is not {looked}. Put the file there")

    def any_of(self, patterns: Iterable[str]) -> Path | None:
        """The only file beside the config that fits the first pattern that any fits; None where none does.

        What comes out of a config goes into a pattern by `as_pattern`.

        Raises:
            CheckpointError: several fit one pattern, and which is meant cannot be known.
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
    """The last part of a path, as a pattern that fits that name alone.

    Example:
        >>> as_pattern("/raid/somebody/weights[1]")
        'weights[[]1]'
    """
    return glob.escape(base_name(given))


def base_name(given: str) -> str:
    """The last part of a path as anybody may have written it, on either kind of system."""
    return PurePosixPath(PureWindowsPath(given).as_posix()).name
