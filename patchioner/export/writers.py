"""Graphs as files: ONNX, and OpenVINO's .xml with .bin; in float32 or with int8 weights.

Knows: the writers and quantisers of both. Does not know: backbones, checkpoints, photos.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from patchioner.backbones.runtimes import NETWORK_FILES, ExportPrecision, Format
from patchioner.base.errors import ExportError, OptionError, PatchionerError
from patchioner.base.optional import require
from patchioner.export.network import Graph

PRECISIONS: dict[Format, tuple[ExportPrecision, ...]] = {
    "onnx": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8", "int8-bf16"),
}


def write_graph(graph: Graph, folder: Path, kind: Format, precision: ExportPrecision) -> list[str]:
    """Write the network's files into a folder and return their names.

    Args:
        graph: of `trace_backbone`.
        folder: exists.
        kind: "onnx" or "openvino".
        precision: "fp32"; "bf16" (OpenVINO; the file is that of fp32, its arithmetic is not); "int8", weights as int8
            with a scale per output channel, and activations quantised as they come, by their own range; "int8-bf16"
            (OpenVINO), the same with bfloat16 for all else.

    Raises:
        OptionError: a precision that the format does not have.
        MissingExtraError: what writes it is not installed.
        ExportError: the writer cannot express the network.

    Example:
        >>> write_graph(graph, Path("out"), "onnx", "fp32")  # doctest: +SKIP
        ['network.onnx']
    """
    if precision not in PRECISIONS[kind]:
        raise OptionError(
            f"{kind} has no precision {precision!r}: choose one of {PRECISIONS[kind]}"
        )
    write: Callable[[Graph, Path, ExportPrecision], None]
    write = _write_onnx if kind == "onnx" else _write_openvino
    with _refusals(kind), _silence():
        write(graph, folder / NETWORK_FILES[kind], precision)
    return sorted(path.name for path in folder.iterdir())


def _write_onnx(graph: Graph, path: Path, precision: ExportPrecision) -> None:
    import torch

    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, "onnx")
    program = torch.onnx.export(
        graph.program,
        dynamo=True,
        input_names=list(graph.inputs),
        output_names=list(graph.outputs),
        verbose=False,
    )
    assert program is not None, "with dynamo, it returns the program"
    if precision == "fp32":
        program.save(str(path))
        return
    quantization = require("onnxruntime.quantization", "onnx")
    onnx = require("onnx", "onnx")
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / path.name
        program.save(str(plain))
        network = onnx.load(str(plain))
        # Without this mark the quantiser gives advice on the root logger, which is not ours.
        network.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
        quantization.quantize_dynamic(
            network,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
        )


def _write_openvino(graph: Graph, path: Path, precision: ExportPrecision) -> None:
    openvino = require("openvino", "openvino")
    model = openvino.convert_model(graph.program)
    for port, name in zip(model.inputs, graph.inputs, strict=True):
        port.get_tensor().set_names({name})
    if precision.startswith("int8"):
        from patchioner.export.openvino_int8 import quantise_weights

        model = quantise_weights(model)
    openvino.save_model(model, str(path), compress_to_fp16=False)


@contextlib.contextmanager
def _refusals(kind: Format) -> Iterator[None]:
    try:
        yield
    except PatchionerError:
        raise
    except Exception as error:  # each writer has its own exceptions, and changes them
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(
            f"this network cannot be written for {kind} ({reason}): try the other format, or keep it in torch"
        ) from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The writers print and warn of their own affairs."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
