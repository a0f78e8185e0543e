"""Talk2DINO: a text tower whose vectors are carried into the space of DINO's patch tokens (arXiv 2411.19331).

The projection is ``W2 tanh(W1 t + b1) + b2`` of the text feature t (CLIP ViT-B/16: 512) in the width of the visual
tokens (DINOv2 and DINOv3 ViT-B: 768), or ``W1 t + b1`` alone. Nothing is applied on the visual side.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from patchioner.base.errors import CheckpointError, OptionError
from patchioner.base.files import write_json
from patchioner.base.weights import Storage, fit_weights, load_weights, save_weights
from patchioner.checkpoints.stored import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    WeightSource,
    make_part,
    read_tensors,
    settings_of,
)
from patchioner.text.base import TEXT_TOWERS, TextTower, load_tower

_TOWER_FOLDER = "tower"
_ROWS_AT_ONCE = 8192

# Published names of the two layers; the last is that of older files.
_FIRST, _SECOND = "linear_layer", ("hidden_layers.0", "linear_layer2")


class Talk2DinoTower(TextTower):
    """Any text tower, then Talk2DINO's projection into the visual space.

    Args:
        tower: embeds texts; its vectors are not normalised before the projection, as published.
        dim: width of the visual tokens.
        width: width between the two layers, `dim` as published; None for the linear projection without them.
    """

    def __init__(self, tower: TextTower, dim: int, *, width: int | None) -> None:
        super().__init__()
        self.tower = tower
        self.project_in = nn.Linear(tower.dim, dim if width is None else width)
        self.project_out = None if width is None else nn.Linear(width, dim)
        self.eval()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """See `StoredModule.from_config`; "tower" is a config or folder, the published projection a file."""
        own = settings_of(config, ("tower", "dim", "width"))
        source = WeightSource.of(config, folder)
        source.refuse(fetched=True, advice="Talk2DINO's projection is a file: give its .pth")
        if source.folder is not None and source.folder != folder:
            whole = load_tower(source.folder)
            if not isinstance(whole, cls):
                raise OptionError(f"{source.folder} holds a {type(whole).__name__}")
            return whole
        inner = own.pop("tower", _TOWER_FOLDER)
        tower = make_part(TEXT_TOWERS, inner, folder, "the tower of a talk2dino")
        if source.file is not None:
            return cls.from_weights(tower, load_talk2dino_weights(source.file))
        dim = int(own.get("dim", 768))
        width = own.get("width", dim)
        joined = cls(tower, dim, width=None if width is None else int(width))
        return joined.restore(source.folder)

    def to(  # type: ignore[override]
        self, device: torch.device | str, dtype: torch.dtype, *, optimize: bool = True
    ) -> Self:
        """See `StoredModule.to`; the tower inside as it sees fit."""
        twin = super().to(device, dtype, optimize=optimize)
        twin.tower = self.tower.to(device, dtype, optimize=optimize)
        return twin

    @classmethod
    def from_weights(cls, tower: TextTower, weights: Mapping[str, Tensor]) -> Self:
        """Join a tower and what `load_talk2dino_weights` read.

        Raises:
            CheckpointError: the projection takes vectors of another width than the tower's.
        """
        width, taken = weights["project_in.weight"].shape
        if taken != tower.dim:
            raise CheckpointError(
                f"this Talk2DINO projection takes text features {taken} wide, the text tower gives {tower.dim}: "
                "use the tower it was trained with (CLIP ViT-B/16, 512 wide, for the published ones)"
            )
        two = "project_out.weight" in weights
        dim = len(weights["project_out.weight"]) if two else width
        joined = cls(tower, dim, width=width if two else None)
        fit_weights(joined._projection(), weights, source="Talk2DINO")
        return joined

    @property
    def dim(self) -> int:
        """Width of the visual tokens."""
        last = self.project_in if self.project_out is None else self.project_out
        return last.out_features

    @property
    def config(self) -> dict[str, Any]:
        """Type and shape of the projection; the tower inside has a folder, and a config, of its own."""
        width = None if self.project_out is None else self.project_in.out_features
        return {"type": "talk2dino", "dim": self.dim, "width": width}

    def project(self, features: Tensor) -> Tensor:
        """Text features (n, tower's dim) -> the visual space (n, dim), in the projection's precision."""
        projected: Tensor = self.project_in(features.to(self.project_in.weight))
        return projected if self.project_out is None else self.project_out(torch.tanh(projected))

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], *, batch: int = 256) -> Tensor:
        """Embed texts into the space of the patch tokens; see `TextTower.encode`."""
        features = self.tower.encode(texts, batch=batch)
        result = torch.empty(len(features), self.dim, dtype=torch.float32)
        for start in range(0, len(features), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            result[rows] = self.project(features[rows]).to("cpu", torch.float32)
        return result

    def save(self, folder: Path, *, storage: Storage = "fp16") -> None:
        """Write the projection, and the tower inside in a folder of its own."""
        self.tower.save(folder / _TOWER_FOLDER, storage=storage)
        save_weights(self._projection().state_dict(), folder / WEIGHTS_FILE, storage=storage)
        write_json(folder / CONFIG_FILE, self.config)

    def restore(self, folder: Path | None) -> Self:
        """As `StoredModule.restore`, of the projection; the tower inside is restored by its own loader."""
        if folder is not None:
            weights = folder / WEIGHTS_FILE
            fit_weights(self._projection(), load_weights(weights), source=str(weights))
        return self.eval()

    def _projection(self) -> nn.ModuleDict:
        layers = {"project_in": self.project_in, "project_out": self.project_out}
        return nn.ModuleDict({name: layer for name, layer in layers.items() if layer is not None})


def load_talk2dino_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a published Talk2DINO projection as float32 tensors by our names; nothing in the file is executed.

    The file, a ``.pth`` or safetensors, holds ``linear_layer.*`` and, unless the projection is linear,
    ``hidden_layers.0.*`` (older: ``linear_layer2.*``): "project_in.*" and "project_out.*" here.

    Raises:
        CheckpointError: the file holds something else than these, or shapes that do not fit one another (named).
    """
    given = read_tensors(Path(path))
    second = next((name for name in _SECOND if f"{name}.weight" in given), _SECOND[0])
    linear = not any(name.startswith(_SECOND) for name in given)
    named = {
        f"{ours}.{kind}": f"{published}.{kind}"
        for ours, published in [("project_in", _FIRST), ("project_out", second)][: 2 - linear]
        for kind in ("weight", "bias")
    }
    faults = [f"missing {name}" for name in named.values() if name not in given]
    if unexpected := sorted(given.keys() - set(named.values())):
        faults.append(f"unexpected {', '.join(unexpected)}")
    if not faults:
        weight = given[f"{_FIRST}.weight"]
        rows = len(given[f"{second}.weight"]) if not linear else 0
        shapes = [(len(weight), weight.shape[-1]), (len(weight),), (rows, len(weight)), (rows,)]
        faults = [
            f"{name} is {tuple(given[name].shape)} {given[name].dtype}, expected {shape}"
            for name, shape in zip(named.values(), shapes, strict=False)
            if tuple(given[name].shape) != shape or not given[name].is_floating_point()
        ]
    if faults:
        raise CheckpointError(
            f"{path} is no Talk2DINO projection: {'; '.join(faults)}. Expected are linear_layer and, unless it is "
            "linear, hidden_layers.0 (older: linear_layer2), each with weight and bias"
        )
    return {ours: given[name] for ours, name in named.items()}


TEXT_TOWERS.register("talk2dino")(Talk2DinoTower)
