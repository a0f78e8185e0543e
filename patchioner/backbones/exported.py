"""A backbone exported (`patchioner.export`) for ONNX Runtime or OpenVINO: the same photos in, the same features out."""

from __future__ import annotations

import copy
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from patchioner.backbones import Dense, SingleViT
from patchioner.backbones.vit import resample_positions
from patchioner.base.errors import CheckpointError, ExportError, OptionError, first_line
from patchioner.base.files import atomic_path, check, file_sha256, settings_from, write_json
from patchioner.base.optional import require
from patchioner.base.weights import Storage, load_weights, save_weights
from patchioner.checkpoints import CONFIG_FILE, WEIGHTS_FILE
from patchioner.geometry import Preprocessing

Format = Literal["onnx", "openvino"]
ExportPrecision = Literal["fp32", "bf16", "int8", "int8-bf16"]
# Inputs by name -> outputs in the network's order, float32.
Run = Callable[[Mapping[str, npt.NDArray[np.float32]]], list[npt.NDArray[np.float32]]]
NETWORK_FILES: dict[Format, str] = {"onnx": "network.onnx", "openvino": "network.xml"}
# What runs each format; the format's name is also that of the extra that installs it.
PACKAGES: dict[Format, str] = {"onnx": "onnxruntime", "openvino": "openvino"}


class ExportedBackbone(SingleViT):
    """A network in a file of another runtime, on the CPU, one photo a pass, on as many threads as torch has.

    Args:
        folder: holds the network's files, which must stay there.
        config: "type" ("onnx" or "openvino"), "precision" of its arithmetic, "dim", "preprocessing" of the backbone
            that was exported, "outputs" (which fields of `Dense` the network gives, in its order), "files" (names and
            sha256), "exported_from" (config of the backbone), "native_grid", (rows, columns) of `positions`, or None.
        positions: (prefix + rows * columns, width) float32, for a network that takes any size and has its position
            embeddings as a second input; None for one of a single size.

    Raises:
        MissingExtraError, CheckpointError: no such runtime; a file is missing or not the one that was written.
    """

    native_positions: Tensor | None
    kind: Format

    def __init__(self, folder: Path, config: Mapping[str, Any], positions: Tensor | None = None) -> None:
        super().__init__()
        self.kind = config["type"]
        require(PACKAGES[self.kind], self.kind)
        check(get_args(ExportPrecision), precision=config["precision"])
        native = config.get("native_grid")
        if (native is None) != (positions is None):
            raise OptionError("native_grid goes with 'native_positions' among the weights")
        self.folder, self.precision = folder, config["precision"]
        self.dim = int(config["dim"])
        self._config = {**config, "dim": self.dim}
        self.preprocessing = settings_from(Preprocessing, config["preprocessing"], "preprocessing")
        self.native_grid = None if native is None else (int(native[0]), int(native[1]))
        self.output_names = tuple(str(name) for name in config["outputs"])
        self.files = {str(name): str(digest) for name, digest in config["files"].items()}
        self.register_buffer("native_positions", positions)
        self._check()
        self._device = torch.device("cpu")
        self._opening = threading.Lock()
        self._open: dict[int, Run] = {}  # by number of threads; at most one; shared with copies
        self.eval()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """See `StoredModule.from_config`; the files are in the folder."""
        weights = {} if config.get("native_grid") is None else load_weights(folder / WEIGHTS_FILE)
        return cls(folder, config, weights.get("native_positions"))

    def to(self, device: torch.device | str, dtype: torch.dtype, *, optimize: bool = True) -> Self:  # type: ignore[override]
        """One that gives its features on that device; the network stays on the CPU, in the precision of its file."""
        twin = copy.copy(self)
        twin._device = torch.device(device)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Another one over the same files: runtimes and locks cannot be copied, and nothing else changes."""
        return copy.copy(self)

    @property
    def config(self) -> dict[str, Any]:
        """See the class."""
        return copy.deepcopy(self._config)

    def outputs(self, pixels: Tensor, grid: tuple[int, int]) -> Dense:
        """See `SingleViT.outputs`; the result lies on the device that `to` named."""
        inputs = {"pixels": pixels.numpy()}
        if (native := self.native_positions) is not None and self.native_grid is not None:
            inputs["positions"] = resample_positions(native, self.native_grid, grid).numpy()
        try:
            found = self._runtime()(inputs)
            tensors = (torch.from_numpy(array).to(self._device) for array in found)
            named = dict(zip(self.output_names, tensors, strict=True))
        except Exception as error:  # each runtime has its own tree, which no public name covers
            network = self.folder / NETWORK_FILES[self.kind]
            raise ExportError(f"{PACKAGES[self.kind]} cannot run {network}: {first_line(error)}") from error
        return Dense._make(map(named.get, Dense._fields))

    def as_input(self, pixels: Sequence[Tensor]) -> Tensor:
        """Stack preprocessed photos on the CPU, where the runtimes work."""
        return torch.stack(list(pixels)).float()

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
            if threads not in self._open:
                run = _RUNTIMES[self.kind](self.folder / NETWORK_FILES[self.kind], self.precision, threads)
                self._open.clear()
                self._open[threads] = run
            return self._open[threads]

    def _check(self) -> None:
        name = NETWORK_FILES[self.kind]
        if name not in self.files:
            raise CheckpointError(f"{self.folder} names no file {name!r}: export the model again")
        for name, expected in self.files.items():
            path = self.folder / name
            if Path(name).name != name or not path.is_file():
                raise CheckpointError(f"{path}: no such file; is the checkpoint folder complete?")
            if file_sha256(path) != expected:
                raise CheckpointError(f"{path} is not the file that was exported: fetch it again")


def open_onnx(path: Path, precision: ExportPrecision, threads: int) -> Run:
    """Open an ONNX file on the CPU with ONNX Runtime; the file itself holds the precision."""
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: list(session.run(None, dict(inputs)))


def open_openvino(path: Path, precision: ExportPrecision, threads: int) -> Run:
    """Open an OpenVINO network (the .xml file, its .bin beside it) on the CPU.

    Left to itself, OpenVINO computes in bfloat16 wherever the processor can; here only "bf16" and "int8-bf16" do.
    """
    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if precision.endswith("bf16") else "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = require("openvino", "openvino").Core().compile_model(str(path), "CPU", settings)

    def run(inputs: Mapping[str, npt.NDArray[np.float32]]) -> list[npt.NDArray[np.float32]]:
        # A request of its own, since one request serves one thread.
        found = compiled.create_infer_request().infer(dict(inputs))
        return [np.array(found[index], dtype=np.float32) for index in range(len(found))]

    return run


_RUNTIMES = {"onnx": open_onnx, "openvino": open_openvino}
