"""Runtimes for exported networks: ONNX Runtime and OpenVINO behind one call.

Knows: how each opens a file, sets threads and precision, and runs. Does not know: what the network computes, photos,
folders. A runtime may be shared by threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import ExportError
from patchioner.base.optional import require
from patchioner.base.registry import Registry

Format = Literal["onnx", "openvino"]
ExportPrecision = Literal["fp32", "bf16", "int8", "int8-bf16"]
Array = npt.NDArray[np.float32]
Run = Callable[[Mapping[str, Array]], list[Array]]
"""Inputs by name -> outputs in the network's order, float32."""

OpenRuntime = Callable[[Path, ExportPrecision, int], Run]
"""Opens a network's file for arithmetic of a precision, on so many threads."""

RUNTIMES: Registry[OpenRuntime] = Registry("runtime")
NETWORK_FILES: dict[Format, str] = {"onnx": "network.onnx", "openvino": "network.xml"}
PACKAGES: dict[Format, str] = {"onnx": "onnxruntime", "openvino": "openvino"}
"""The module that runs each format; the format's name is also that of the extra that installs it."""


@RUNTIMES.register("onnx")
def open_onnx(path: Path, precision: ExportPrecision, threads: int) -> Run:
    """Open an ONNX file on the CPU with ONNX Runtime; the file itself holds the precision.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ExportError: the file cannot be run by this release of it.

    Example:
        >>> run = open_onnx(Path("network.onnx"), "fp32", 2)  # doctest: +SKIP
        >>> tokens, *_ = run({"pixels": pixels})  # doctest: +SKIP
    """
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own tree of exceptions, which no public name covers
        raise _cannot_run(path, "ONNX Runtime", error) from error

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        try:
            return list(session.run(None, dict(inputs)))
        except Exception as error:
            raise _cannot_run(path, "ONNX Runtime", error) from error

    return run


@RUNTIMES.register("openvino")
def open_openvino(path: Path, precision: ExportPrecision, threads: int) -> Run:
    """Open an OpenVINO network on the CPU.

    Args:
        path: the .xml file, its .bin beside it.
        precision: left to itself, OpenVINO computes in bfloat16 wherever the processor can; here only "bf16" and
            "int8-bf16" do.
        threads: how many.

    Raises:
        MissingExtraError: openvino is not installed.
        ExportError: the file cannot be run by this release of it.

    Example:
        >>> run = open_openvino(Path("network.xml"), "fp32", 2)  # doctest: +SKIP
    """
    openvino = require("openvino", "openvino")
    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if precision.endswith("bf16") else "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    except Exception as error:  # plain RuntimeErrors, and others from release to release
        raise _cannot_run(path, "OpenVINO", error) from error

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        try:  # a request of its own, since one request serves one thread
            request = compiled.create_infer_request()
            found = request.infer(dict(inputs))
            return [np.array(found[index], dtype=np.float32) for index in range(len(found))]
        except Exception as error:
            raise _cannot_run(path, "OpenVINO", error) from error

    return run


def _cannot_run(path: Path, runtime: str, error: Exception) -> ExportError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ExportError(
        f"{runtime} cannot run {path} ({reason}): export the model again with the release that is installed here"
    )
