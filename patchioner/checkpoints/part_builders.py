"""Backbones and text towers from the lines of a readable config, whatever their family.

Knows: how each family is set up, and where its weights may come from. Does not know: whole models (`assembly`).

``weights`` of a part is ``random``, ``pretrained`` (fetched by the library behind the part), ``pretrained:TAG`` where
that needs a tag or a repository, a file in the authors' own layout, or a folder that `save` of the part wrote.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from patchioner.backbones import BACKBONES, Backbone, load_backbone
from patchioner.base.errors import CheckpointError, UnknownNameError
from patchioner.base.weights import fit_weights
from patchioner.checkpoints.tensor_files import read_tensors
from patchioner.geometry import Preprocessing
from patchioner.text import TEXT_TOWERS, TextTower, load_tower

_PRETRAINED = "pretrained"
_SIGLIP_FILE = "open_clip_model.safetensors"


class Place(NamedTuple):
    """Where a config is.

    Attributes:
        folder: relative paths start here.
        source: what messages call it.
    """

    folder: Path
    source: str

    def fault(self, message: object) -> CheckpointError:
        """An error that names the config."""
        return CheckpointError(f"{self.source}: {message}")

    def path(self, given: Any, what: str) -> Path:
        """A file or folder that the config names.

        Raises:
            CheckpointError: it names nothing, or nothing is there.
        """
        if not isinstance(given, str) or not given.strip():
            raise self.fault(f"{what} is {given!r}: give a path")
        found = self.folder / Path(given).expanduser()
        if not found.exists():
            raise self.fault(f"{what} {given!r}: there is no {found}")
        return found


def check_keys(given: Mapping[str, Any], known: Iterable[str], what: str, place: Place) -> None:
    """Refuse keys that are not known; CheckpointError offers the close ones."""
    names = list(known)
    for key in given:
        if key not in names:
            raise place.fault(UnknownNameError.among(f"key of {what}", str(key), names))


def build_backbone(settings: Any, place: Place) -> Backbone:
    """The backbone of a config.

    Args:
        settings: a folder that `Backbone.save` wrote, or a mapping of "type", "weights" and the family's own settings.
        place: where the config is.

    Raises:
        CheckpointError: a key or value is unknown, or the weights do not fit.
        HubError, MissingExtraError: weights cannot be fetched; a library is not installed.

    Example:
        >>> settings = {"type": "timm", "name": "vit_tiny_patch16_224", "weights": "random",
        ...             "preprocessing": {"mode": "stretch", "size": 64, "patch_size": 16}}
        >>> build_backbone(settings, Place(Path("."), "example")).dim
        192
    """
    if isinstance(settings, str):
        return load_backbone(place.path(settings, "backbone"))
    kind, own = _typed(settings, "backbone", BACKBONES.names(), place)
    if kind == "proxy_clip":
        return _proxy_clip(own, place)
    own["preprocessing"] = _preprocessing(own.get("preprocessing"), place)
    return _BACKBONES[kind](own, _weights(own, f"backbone {kind}", place), place)


def build_text_tower(settings: Any, place: Place) -> TextTower:
    """The text tower of a config; arguments and errors as for `build_backbone`."""
    if isinstance(settings, str):
        return load_tower(place.path(settings, "text_tower"))
    kind, own = _typed(settings, "text_tower", TEXT_TOWERS.names(), place)
    if kind not in _TEXT_TOWERS:
        raise place.fault(f"a text tower of type {kind!r} is given as a folder: text_tower: PATH")
    return _TEXT_TOWERS[kind](own, _weights(own, f"text_tower {kind}", place), place)


class _Weights(NamedTuple):
    """A parsed "weights": at most one of `tag` and `path` is set; with neither and not fetched, they are random."""

    fetched: bool = False
    tag: str | None = None
    path: Path | None = None
    parts: Mapping[str, Any] | None = None


def _weights(own: dict[str, Any], what: str, place: Place) -> _Weights:
    """Take "weights" out of the settings and parse it."""
    given = own.pop("weights", None)
    if isinstance(given, Mapping):
        return _Weights(parts=given)
    if given == "random":
        return _Weights()
    if isinstance(given, str) and given.partition(":")[0] == _PRETRAINED:
        return _Weights(fetched=True, tag=given.partition(":")[2] or None)
    if given is None:
        raise place.fault(f"{what} lacks 'weights': random, pretrained, or a path")
    return _Weights(path=place.path(given, f"weights of {what}"))


def _typed(
    settings: Any, what: str, known: Iterable[str], place: Place
) -> tuple[str, dict[str, Any]]:
    if not isinstance(settings, Mapping):
        raise place.fault(
            f"{what} is {settings!r}: give a folder or a mapping with 'type' and 'weights'"
        )
    own = dict(settings)
    kind, names = own.pop("type", None), list(known)
    if kind not in names:
        raise place.fault(UnknownNameError.among(f"type of {what}", str(kind), names))
    return str(kind), own


def _preprocessing(given: Any, place: Place) -> Preprocessing:
    if not isinstance(given, Mapping):
        raise place.fault(
            f"the preprocessing of a backbone is {given!r}: give mode, size and patch_size"
        )
    known = [entry.name for entry in fields(Preprocessing)]
    check_keys(given, known, "preprocessing", place)
    try:
        return Preprocessing.from_config(dict(given))
    except (TypeError, ValueError) as error:
        raise place.fault(f"preprocessing {dict(given)}: {error}") from error


def _make(module: str, name: str, own: Mapping[str, Any], place: Place, **more: Any) -> Any:
    """Construct a class of a module with settings, each of which must be one of its arguments."""
    cls = getattr(import_module(module), name)
    known = [key for key in inspect.signature(cls).parameters if key not in (_PRETRAINED, *more)]
    check_keys(own, known, name, place)
    try:
        return cls(**own, **more)
    except (TypeError, ValueError, LookupError) as error:  # OptionError and UnknownNameError too
        raise place.fault(error) from error


def _restored(made: Backbone, folder: Path | None) -> Backbone:
    """The backbone with the weights of a folder that `save` wrote, if there is one."""
    if folder is not None:
        made.restore(folder)
    return made


def _timm(own: dict[str, Any], weights: _Weights, place: Place) -> Backbone:
    module = "patchioner.backbones.timm_vit"
    made: Any = _make(module, "TimmViT", own, place, pretrained=weights.fetched)
    if weights.path is None or weights.path.is_dir():
        return _restored(made, weights.path)
    from patchioner.backbones.vit_weights import fit_vit

    classifier = fit_vit(made.vit, read_tensors(weights.path), source=str(weights.path))
    if made.head_config.get("type") == "linear":
        if "weight" not in classifier:
            raise place.fault(f"{weights.path} has no projection for the linear head")
        bias = classifier.get("bias", classifier["weight"].new_zeros(len(classifier["weight"])))
        state = {"linear.weight": classifier["weight"], "linear.bias": bias}
        fit_weights(made.head, state, source=str(weights.path))
    return _restored(made, None)


def _siglip(own: dict[str, Any], weights: _Weights, place: Place) -> Backbone:
    module = "patchioner.backbones.siglip"
    made: Any = _make(module, "SiglipViT", own, place, pretrained=weights.fetched)
    if weights.path is None or weights.path.is_dir():
        return _restored(made, weights.path)
    from patchioner.backbones.vit_weights import fit_vit

    fit_vit(made.vit, read_tensors(weights.path), source=str(weights.path))
    return _restored(made, None)


def _dinotxt(own: dict[str, Any], weights: _Weights, place: Place) -> Backbone:
    if weights.fetched or (weights.path is not None and not weights.path.is_dir()):
        raise place.fault(
            "the weights of dino.txt are in two files: weights: {vision: pretrained or PATH, head: PATH}"
        )
    parts = dict(weights.parts or {})
    check_keys(parts, ("vision", "head"), "weights of dino.txt", place)
    fetched = parts.get("vision") == _PRETRAINED
    made: Any = _make("patchioner.backbones.dinotxt", "DinoTxtViT", own, place, pretrained=fetched)
    if parts:
        head = place.path(parts.get("head"), "head of dino.txt")
        vision = None
        if not fetched:
            vision = read_tensors(place.path(parts.get("vision"), "vision backbone of dino.txt"))
        made.read_published(vision, read_tensors(head), source=str(head))
    return _restored(made, weights.path)


def _open_clip(own: dict[str, Any], weights: _Weights, place: Place) -> Backbone:
    module = "patchioner.backbones.open_clip_vit"
    made: Backbone = _of_open_clip(module, "OpenClipViT", own, weights, place)
    return made


def _of_open_clip(
    module: str, name: str, own: dict[str, Any], weights: _Weights, place: Place
) -> Any:
    if weights.fetched and weights.tag is None:
        raise place.fault("open_clip's weights go by a tag: weights: pretrained:openai")
    file = weights.path if weights.path is not None and weights.path.is_file() else None
    made = _make(module, name, own, place, pretrained=str(file) if file else weights.tag)
    if weights.path is not None and file is None:
        made.restore(weights.path)
    return made


def _proxy_clip(own: dict[str, Any], place: Place) -> Backbone:
    """ProxyCLIP's own weights are those of its two backbones."""
    parts = {key: build_backbone(own.pop(key, None), place) for key in ("clip", "proxy")}
    made: Backbone = _make("patchioner.backbones.proxy_clip", "ProxyClip", own, place, **parts)
    return made


def _open_clip_text(own: dict[str, Any], weights: _Weights, place: Place) -> TextTower:
    module = "patchioner.text.open_clip_text"
    made: TextTower = _of_open_clip(module, "OpenClipText", own, weights, place)
    return made


def _talk2dino(own: dict[str, Any], weights: _Weights, place: Place) -> TextTower:
    module = "patchioner.text.talk2dino"
    check_keys(own, ("tower", "dim", "width"), "text_tower talk2dino", place)
    if weights.path is not None and weights.path.is_dir():
        return load_tower(weights.path)
    tower = build_text_tower(own.pop("tower", None), place)
    if weights.fetched:
        raise place.fault("Talk2DINO's projection is a file: weights: PATH of its .pth")
    if weights.path is None:
        shape = {"dim": 768, "width": own.get("dim", 768), **own}
        fresh: TextTower = _make(module, "Talk2DinoTower", shape, place, tower=tower)
        return fresh
    talk2dino: Any = import_module(module)
    joined: TextTower = talk2dino.Talk2DinoTower.from_weights(
        tower, talk2dino.load_talk2dino_weights(weights.path)
    )
    return joined


def _siglip_text(own: dict[str, Any], weights: _Weights, place: Place) -> TextTower:
    from patchioner.checkpoints.published.files import fetch

    if weights.path is not None and weights.path.is_dir():
        return load_tower(weights.path)
    module: Any = import_module("patchioner.text.siglip_text")
    given = str(own.pop("tokenizer", ""))
    if given.partition(":")[0] == _PRETRAINED:
        tokenizer = fetch(given.partition(":")[2], "tokenizer.json")
    else:
        tokenizer = place.path(given, "tokenizer of the SigLIP text tower")
    shape = _make(module.__name__, "SiglipTextSettings", own, place)
    tower: Any = module.SiglipText.of_file(tokenizer, shape)
    if weights.fetched and weights.tag is None:
        raise place.fault(
            "SigLIP's text weights are in a repository: weights: pretrained:OWNER/NAME"
        )
    file = fetch(weights.tag, _SIGLIP_FILE) if weights.tag is not None else weights.path
    if file is not None:
        tower.read_published(read_tensors(file), source=str(file))
    made: TextTower = tower
    return made


def _dinotxt_text(own: dict[str, Any], weights: _Weights, place: Place) -> TextTower:
    if weights.path is not None and weights.path.is_dir():
        return load_tower(weights.path)
    if weights.fetched:
        raise place.fault("dino.txt's text tower is a file: weights: PATH of its .pth")
    module: Any = import_module("patchioner.text.dinotxt_text")
    shape = _make(module.__name__, "DinoTxtTextSettings", own, place)
    tower: Any = module.DinoTxtText(shape)
    if weights.path is not None:
        tower.read_published(read_tensors(weights.path), source=str(weights.path))
    made: TextTower = tower
    return made


_BACKBONES: Mapping[str, Callable[[dict[str, Any], _Weights, Place], Backbone]] = {
    "timm": _timm,
    "siglip": _siglip,
    "dinotxt": _dinotxt,
    "open_clip": _open_clip,
}
_TEXT_TOWERS: Mapping[str, Callable[[dict[str, Any], _Weights, Place], TextTower]] = {
    "open_clip": _open_clip_text,
    "talk2dino": _talk2dino,
    "siglip": _siglip_text,
    "dinotxt": _dinotxt_text,
}
