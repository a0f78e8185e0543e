"""int8 weights in an OpenVINO network.

Knows: OpenVINO's graphs. Does not know: where a network comes from, files, photos.

Each weight matrix becomes int8 levels times a float32 scale per output channel, w ~= q * max|w| / 127, in the form in
which OpenVINO keeps it int8 until it is used. OpenVINO quantises the activations of such products as they come, by
groups within each token (`DYNAMIC_QUANTIZATION_GROUP_SIZE`), where the processor multiplies int8; so no photos are
needed to calibrate anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from patchioner.base.optional import require

_LEVELS = 127
_SMALLEST = 4096  # values; below it scales and lost precision buy nothing


def quantise_weights(model: Any) -> Any:
    """Turn the constant matrices of all matrix products into int8 with scales, in place.

    Args:
        model: `openvino.Model`, which is the caller's to change.

    Returns:
        The model.

    Example:
        >>> openvino.save_model(quantise_weights(model), "network.xml")  # doctest: +SKIP
    """
    opset = require("openvino.opset13", "openvino")
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        source = node.input(1).get_source_output()
        values = _constant(source.get_node())
        if values is None or values.ndim != 2 or values.size < _SMALLEST:
            continue
        by_rows = bool(node.get_attributes()["transpose_b"])
        levels, scale = int8_levels(values, axis=1 if by_rows else 0)
        stored = opset.convert(opset.constant(levels, dtype=np.int8), "f32")
        node.input(1).replace_source_output(opset.multiply(stored, opset.constant(scale)).output(0))
    model.validate_nodes_and_infer_types()
    return model


def int8_levels(
    values: npt.NDArray[np.float32], *, axis: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Symmetric int8 levels of a matrix and the scales that turn them back, one for each slice along `axis`.

    Example:
        >>> levels, scale = int8_levels(np.array([[1.0, -2.0]], dtype=np.float32), axis=1)
        >>> levels.tolist(), (levels * scale).tolist()[0][1]
        ([[64, -127]], -2.0)
    """
    scale = np.abs(values).max(axis=axis, keepdims=True) / np.float32(_LEVELS)
    scale = np.where(scale < np.finfo(np.float32).tiny, np.float32(1.0), scale)
    levels = np.clip(np.rint(values / scale), -_LEVELS, _LEVELS).astype(np.int8)
    return levels, scale.astype(np.float32)


def _constant(node: Any) -> npt.NDArray[np.float32] | None:
    if node.get_type_name() == "Convert":  # a stored half-precision constant, made float32
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return None
    return np.asarray(node.get_data(), dtype=np.float32)
