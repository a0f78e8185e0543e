"""The published vocabularies of entities: names, and their embeddings out of a pickled tensor.

Knows: the file names, and the one form of pickle that holds a tensor and nothing else. Does not know: prompts.
"""

from __future__ import annotations

import io
import json
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decoders.entities import COCO_ENTITIES
from decoders.hard_prompts import embed_entities
from patchioner.base.errors import CheckpointError
from patchioner.base.weights import load_weights
from patchioner.checkpoints.published.config import ViecapConfig
from patchioner.checkpoints.published.files import PublishedFiles, as_pattern, base_name
from patchioner.checkpoints.tensor_files import as_float, read_object
from patchioner.text import TextTower


def read_entities(
    files: PublishedFiles, config: ViecapConfig, tower: TextTower | None, dim: int
) -> tuple[tuple[str, ...], Tensor]:
    """Names and embeddings of a ViECap model's vocabulary.

    The embeddings come from a file beside the config (`*embeddings*.safetensors`, or the published `.pickle`, of which
    nothing but a tensor is read), else from the text tower. Those are close to the published ones and not equal:
    which sentences were averaged there is not known.

    Returns:
        m names, and (m, dim) float32.

    Raises:
        CheckpointError: neither file nor text tower; a file of another width or number of rows; a pickle that would
            execute something; names that are not COCO's and not in a file.
    """
    names = _names(files, config)
    found = files.any_of(_patterns(config))
    if found is None:
        if tower is None:
            raise CheckpointError(
                f"{files.config}: the entities' embeddings are not there ({', '.join(_patterns(config))}), and there "
                "is no text tower to make them with. Put either beside it"
            )
        return names, embed_entities(names, lambda texts: tower.encode(texts))
    embeddings = read_tensor(found)
    if tuple(embeddings.shape) != (len(names), dim):
        raise CheckpointError(
            f"{found}: embeddings of shape {tuple(embeddings.shape)}, expected {(len(names), dim)}: one row for each "
            f"of the names of {config.name_of_entities_text!r}, as wide as the region embeddings"
        )
    return names, embeddings


def read_tensor(path: Path) -> Tensor:
    """The one tensor of a file, in float32: safetensors, torch's format, or a plain pickle of a tensor.

    Raises:
        CheckpointError: damaged, more than a tensor, or a pickle that would execute something; nothing is executed.
    """
    if path.suffix == ".safetensors":
        held: Any = list(load_weights(path).values())
        held = held[0] if len(held) == 1 else held
    else:
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"
        held = read_object(path) if zipped else _unpickled(path)
    if not isinstance(held, Tensor) or not held.is_floating_point():
        raise CheckpointError(f"{path}: expected one tensor of floats, found {type(held).__name__}")
    return as_float(held, str(path))


def _patterns(config: ViecapConfig) -> tuple[str, ...]:
    """From the published name with its suffix to anything that looks like it."""
    source = as_pattern(config.name_of_entities_text.removesuffix("_entities"))
    ensemble = "_with_ensemble" if config.prompt_ensemble else ""
    exact = [f"{source}_embeddings_{as_pattern(config.suffix)}{ensemble}"] if config.suffix else []
    stems = [*exact, f"{source}_embeddings*", "*entities*embeddings*"]
    return tuple(
        f"{folder}{stem}.{kind}"
        for stem in stems
        for kind in ("safetensors", "pickle")
        for folder in ("", "vocabulary/")
    )


def _names(files: PublishedFiles, config: ViecapConfig) -> tuple[str, ...]:
    wanted = base_name(config.name_of_entities_text)
    stem = as_pattern(wanted)
    path = files.any_of(
        f"{folder}{stem}.{kind}" for kind in ("txt", "json") for folder in ("", "vocabulary/")
    )
    if path is None:
        if wanted in ("coco_entities", "coco"):
            return COCO_ENTITIES
        raise CheckpointError(
            f"{files.config}: the names of the vocabulary {wanted!r} are not part of this package, only "
            f"'coco_entities' is: put {wanted}.txt, one name a line, beside it"
        )
    try:
        text = path.read_text(encoding="utf-8")
        names = json.loads(text) if path.suffix == ".json" else text.split("\n")
        stripped = [name.strip().lower() for name in names]
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a list of names ({error})") from error
    found = tuple(sorted({name for name in stripped if name}))
    if not found:
        raise CheckpointError(f"{path}: it holds no name; give one a line")
    return found


def _unpickled(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _TensorUnpickler(file).load()
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # damaged pickles fail in any way there is
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{path}: truncated or not a pickled tensor ({lines[0]})") from error


def _load_storage(data: bytes) -> Any:
    """What `torch.storage._load_from_bytes` does, for storages alone."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


class _TensorUnpickler(pickle.Unpickler):
    """Rebuilds a tensor and its storage; whatever else a pickle asks for is refused before it is looked up."""

    _allowed: dict[tuple[str, str], Callable[..., Any]] = {
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch.storage", "_load_from_bytes"): _load_storage,
        ("collections", "OrderedDict"): OrderedDict,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The allowed function of that name."""
        if (module, name) not in self._allowed:
            raise CheckpointError(
                f"the pickle asks for {module}.{name}, which a tensor does not need; nothing was executed. Fetch the "
                "file from where it was published, or convert it to safetensors there"
            )
        return self._allowed[module, name]
