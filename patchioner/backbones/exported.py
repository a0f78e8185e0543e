"""A backbone exported for another runtime (ONNX Runtime, OpenVINO): the same photos in, the same features out.

Knows: the folder of an exported network, its checksums, and how position embeddings of other grids are made. Does not
know: how a network is exported (`patchioner.export`), regions, text.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from timm.layers import resample_abs_pos_embed  # type: ignore[attr-defined]
from torch import Tensor

from patchioner.backbones.base import BACKBONES, SingleViT
from patchioner.backbones.features import Dense
from patchioner.backbones.runtimes import (
    NETWORK_FILES,
    PACKAGES,
    RUNTIMES,
    ExportPrecision,
    Format,
    Run,
)
from patchioner.backbones.timm_vit import preprocessing_config
from patchioner.base.errors import CheckpointError, ExportError
from patchioner.base.files import atomic_path, file_sha256, write_json
from patchioner.base.optional import require
from patchioner.base.weights import Storage, load_weights, save_weights
from patchioner.checkpoints.stored import CONFIG_FILE, WEIGHTS_FILE, settings_of
from patchioner.geometry import Preprocessing

OUTPUT_NAMES = Dense._fields


class ExportedBackbone(SingleViT):
    """A network in a file of another runtime, on the CPU, one photo a pass, on as many threads as torch has.

    Args:
        folder: holds the network's files; they stay there and must not be taken away.
        kind: "onnx" or "openvino".
        precision: of its arithmetic.
        width: of the embedding space.
        preprocessing: as of the backbone that was exported.
        outputs: which of the fields of `Dense` the network gives, in its order.
        files: names of the network's files and their sha256.
        exported_from: config of the backbone that was exported, kept for the record.
        positions: (prefix + rows * columns, width) float32, its position embeddings, for a network that takes any
            size and has them as a second input; None for one of a single size.
        native_grid: (rows, columns) of `positions`.

    Raises:
        MissingExtraError: the runtime is not installed; the message has the line that installs it.
        CheckpointError: a file is missing or not the one that was written.

    Example:
        >>> model = Patchioner.from_pretrained("mini-openvino")  # doctest: +SKIP
        >>> type(model.parts.backbone).__name__  # doctest: +SKIP
        'ExportedBackbone'
    """

    def __init__(
        self,
        folder: Path,
        *,
        kind: Format,
        precision: ExportPrecision,
        width: int,
        preprocessing: Preprocessing,
        outputs: Sequence[str],
        files: Mapping[str, str],
        exported_from: Mapping[str, Any],
        positions: Tensor | None = None,
        native_grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        require(PACKAGES[kind], kind)
        self.folder, self.kind, self.precision, self.width = folder, kind, precision, width
        self.preprocessing, self.native_grid = preprocessing, native_grid
        self.output_names, self.files = tuple(outputs), dict(files)
        self.exported_from = dict(exported_from)
        self.register_buffer("native_positions", positions)
        self._check()
        self._device = torch.device("cpu")
        self._opening = threading.Lock()
        self._run: tuple[int, Run] | None = None
        self.eval()

    native_positions: Tensor | None

    def __deepcopy__(self, memo: dict[int, Any]) -> ExportedBackbone:
        """Another one over the same files, not yet opened: runtimes and locks cannot be copied."""
        native = self.native_positions
        twin = ExportedBackbone(
            self.folder,
            kind=self.kind,
            precision=self.precision,
            width=self.width,
            preprocessing=self.preprocessing,
            outputs=self.output_names,
            files=self.files,
            exported_from=self.exported_from,
            positions=None if native is None else native.clone(),
            native_grid=self.native_grid,
        )
        twin.place(self._device, torch.float32)
        return twin

    @property
    def dim(self) -> int:
        """Width of the embedding space."""
        return self.width

    @property
    def config(self) -> dict[str, Any]:
        """Type, precision, preprocessing, outputs, checksums, and what was exported."""
        return {
            "type": self.kind,
            "precision": self.precision,
            "dim": self.width,
            "preprocessing": preprocessing_config(self.preprocessing),
            "outputs": list(self.output_names),
            "native_grid": None if self.native_grid is None else list(self.native_grid),
            "files": dict(self.files),
            "exported_from": dict(self.exported_from),
        }

    def outputs(self, pixels: Tensor, grid: tuple[int, int]) -> Dense:
        """See `SingleViT.outputs`; the result lies on the device that `place` named."""
        inputs = {"pixels": pixels.numpy()}
        if (positions := self.positions(grid)) is not None:
            inputs["positions"] = positions.numpy()
        found = self._runtime()(inputs)
        if len(found) != len(self.output_names):
            raise ExportError(
                f"the network in {self.folder} gives {len(found)} results, its config names "
                f"{len(self.output_names)}: export the model again"
            )
        named = {
            name: torch.from_numpy(array).to(self._device)
            for name, array in zip(self.output_names, found, strict=True)
        }
        return Dense(*(named.get(name) for name in OUTPUT_NAMES))  # type: ignore[arg-type]

    def positions(self, grid: tuple[int, int]) -> Tensor | None:
        """Position embeddings for a grid, (1, prefix + rows * columns, width) float32; None for one size alone."""
        native, shape = self.native_positions, self.native_grid
        if native is None or shape is None:
            return None
        return resample_positions(native, shape, grid)

    def as_input(self, pixels: Sequence[Tensor]) -> Tensor:
        """Stack preprocessed photos on the CPU, where the runtimes work."""
        return torch.stack(list(pixels)).float()

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Say where features are wanted; the network itself stays on the CPU, in the precision of its file."""
        self._device = device

    def save(self, folder: Path, *, storage: Storage = "fp16") -> None:
        """Copy the network's files; `storage` does not touch them."""
        folder.mkdir(parents=True, exist_ok=True)
        if folder.resolve() != self.folder.resolve():
            self._check()
            for name in self.files:
                with atomic_path(folder / name) as temporary:
                    shutil.copyfile(self.folder / name, temporary)
        if self.native_positions is not None:
            save_weights(self.state_dict(), folder / WEIGHTS_FILE, storage="fp32")
        write_json(folder / CONFIG_FILE, self.config)

    def _patches_per_pass(self) -> int:
        return 1  # the network is exported for batches of one

    def _runtime(self) -> Run:
        """The opened network; opened again where torch's number of threads has changed."""
        threads = torch.get_num_threads()
        with self._opening:
            if self._run is None or self._run[0] != threads:
                path = self.folder / NETWORK_FILES[self.kind]
                self._run = threads, RUNTIMES.get(self.kind)(path, self.precision, threads)
            return self._run[1]

    def _check(self) -> None:
        if NETWORK_FILES[self.kind] not in self.files:
            raise CheckpointError(
                f"{self.folder} names no file {NETWORK_FILES[self.kind]!r}, which a backbone of type {self.kind!r} "
                "runs: export the model again"
            )
        for name, expected in self.files.items():
            path = self.folder / name
            if Path(name).name != name or not path.is_file():
                raise CheckpointError(f"{path}: no such file; is the checkpoint folder complete?")
            if file_sha256(path) != expected:
                raise CheckpointError(
                    f"{path} is not the file that was exported (its sha256 differs): export or fetch it again"
                )


def resample_positions(native: Tensor, shape: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Position embeddings (prefix + cells, width) of a grid `shape` for another: (1, prefix + new cells, width).

    Bicubic with antialiasing, as timm and open_clip do it; what stands before the patches is kept.

    Example:
        >>> resample_positions(torch.zeros(1 + 16, 8), (4, 4), (2, 6)).shape
        torch.Size([1, 13, 8])
    """
    prefix = len(native) - shape[0] * shape[1]
    resampled: Tensor = resample_abs_pos_embed(
        native[None], new_size=list(grid), old_size=list(shape), num_prefix_tokens=prefix
    )
    return resampled.contiguous()


def _load(folder: Path, config: dict[str, Any]) -> ExportedBackbone:
    with settings_of(folder):
        if config["precision"] not in get_args(ExportPrecision):
            raise CheckpointError(f"precision {config['precision']!r}")
        native = config.get("native_grid")
        arguments: dict[str, Any] = {
            "kind": config["type"],
            "precision": config["precision"],
            "width": int(config["dim"]),
            "preprocessing": Preprocessing.from_config(config["preprocessing"]),
            "outputs": [str(name) for name in config["outputs"]],
            "files": {str(name): str(digest) for name, digest in config["files"].items()},
            "exported_from": dict(config["exported_from"]),
            "native_grid": None if native is None else (int(native[0]), int(native[1])),
        }
    if native is not None:
        weights = load_weights(folder / WEIGHTS_FILE)
        if "native_positions" not in weights:
            raise CheckpointError(f"{folder / WEIGHTS_FILE} lacks 'native_positions'")
        arguments["positions"] = weights["native_positions"]
    return ExportedBackbone(folder, **arguments)


BACKBONES.register("onnx")(_load)
BACKBONES.register("openvino")(_load)
