"""Export of a model's backbone to ONNX (portable) or OpenVINO (fast); the result is a checkpoint like any other.

No runtime interpolates as torch does: where a network takes several sizes, its position embeddings are a second input.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from patchioner.backbones import Backbone, SingleViT, preprocessing_config
from patchioner.backbones.exported import NETWORK_FILES, ExportedBackbone, ExportPrecision, Format
from patchioner.backbones.vit import resample_positions
from patchioner.base.errors import ExportError, OptionError, UnknownNameError, first_line
from patchioner.base.files import file_sha256, require_new_folder
from patchioner.base.optional import require
from patchioner.base.weights import quantize_rows
from patchioner.checkpoints.folder import write_checkpoint
from patchioner.geometry import Fit
from patchioner.regions import Box, Region, WholeImage

if TYPE_CHECKING:
    from patchioner.model import Patchioner

PRECISIONS: dict[Format, tuple[ExportPrecision, ...]] = {"onnx": ("fp32",), "openvino": get_args(ExportPrecision)}
INPUT_NAMES = ("pixels", "positions")
_WRITERS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}
_MOST = 4096  # patches along a side
# Float32 in another order of summation; quantised networks must still say the same, roughly.
_LARGEST_RELATIVE, _LEAST_COSINE = 1e-3, 0.5
_SMALLEST = 4096  # values of a matrix below which int8 gains nothing


class ExportReport(NamedTuple):
    """What `export_model` wrote, and how far its backbone is from the source on so many pictures."""

    folder: Path  # of the checkpoint
    difference: float  # with cosine: see `compare_backbones`
    cosine: float
    pictures: int
    megabytes: float  # of the network's files


def export_model(
    model: Patchioner,
    folder: str | Path,
    *,
    format: Format = "onnx",
    precision: ExportPrecision = "fp32",
    size: int | None = None,
    fit: Fit | None = None,
    photos: Sequence[Image.Image] = (),
) -> ExportReport:
    """Write a checkpoint whose backbone runs in another runtime; `Patchioner.from_pretrained` loads it.

    Args:
        model: any whose backbone is a single vision transformer; left as it is. Decoder, bank and text tower go along
            unchanged and stay in torch.
        folder: empty or new.
        format: "onnx" (ONNX Runtime) or "openvino"; the extra of the same name runs it.
        precision: "fp32"; OpenVINO alone has "bf16", "int8" (weights as int8 with a scale per output channel,
            activations quantised as they come), and "int8-bf16", the same with bfloat16 for all else.
        size: side of the input in model pixels, in place of the model's; a multiple of the patch size.
        fit: how photos are fitted, in place of the model's. "aspect" needs a network that takes several sizes.
        photos: upright RGB, to try the export on; pictures of ours if there are none.

    Raises:
        OptionError: the folder is not empty; a size, fit, format or precision that there is not.
        MissingExtraError: a package is not installed; the message has the line that installs it.
        ExportError: the backbone cannot be exported, or the export gives other features.
    """
    out, pictures = Path(folder), list(photos) or trial_pictures()
    require_new_folder(out)
    settings: dict[str, Any] = {"format": format, "precision": precision, "size": size, "fit": fit}
    with tempfile.TemporaryDirectory() as temporary:
        exported, source = export_backbone(model.parts.backbone, Path(temporary), **settings)
        off, cosine = compare_backbones(source, exported, pictures)
        if precision == "fp32" and not off <= _LARGEST_RELATIVE:
            raise ExportError(f"off by {off:.2g}: {format} does not compute this network right")
        if not cosine >= _LEAST_COSINE:
            raise ExportError(f"tokens have a cosine of {cosine:.3f}: {precision} destroys them; use fp32")
        write_checkpoint(replace(model.parts, backbone=exported), out, storage="fp32")
    size_of = sum((out / "backbone" / name).stat().st_size for name in exported.files)
    return ExportReport(out, off, cosine, len(pictures), size_of / 2**20)


def export_backbone(
    backbone: Backbone,
    folder: Path,
    *,
    format: Format = "onnx",
    precision: ExportPrecision = "fp32",
    size: int | None = None,
    fit: Fit | None = None,
) -> tuple[ExportedBackbone, SingleViT]:
    """Export a backbone alone into an empty folder, from which it runs; arguments and errors as `export_model`.

    Gives the exported backbone, and its source in float32 on the CPU with the same size and fit.
    """
    if format not in PRECISIONS:
        raise UnknownNameError.among("format", str(format), PRECISIONS)
    if precision not in PRECISIONS[format]:
        raise OptionError(f"{format} has no precision {precision!r}: use {PRECISIONS[format]}")
    for module in _WRITERS[format]:
        require(module, format)
    source = exportable(backbone)
    changes = {key: value for key, value in (("size", size), ("mode", fit)) if value is not None}
    source.preprocessing = replace(source.preprocessing, **changes)  # type: ignore[arg-type]
    graph = trace_backbone(source)
    config = {
        "type": format,
        "precision": precision,
        "dim": source.dim,
        "preprocessing": preprocessing_config(source.preprocessing),
        "outputs": list(graph.outputs),
        "files": {path.name: file_sha256(path) for path in _write(graph, folder, format, precision)},
        "exported_from": source.config,
        "native_grid": graph.native_grid and list(graph.native_grid),
    }
    return ExportedBackbone(folder, config, graph.positions), source


class Graph(NamedTuple):
    """A backbone traced for export."""

    program: ExportedProgram  # takes pixels (1, 3, H, W) and, for several sizes, positions (1, N, width)
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]  # the fields of `Dense` that it gives
    positions: Tensor | None  # (prefix + cells, width) of `native_grid`; both are None for a single size
    native_grid: tuple[int, int] | None


def trace_backbone(backbone: Backbone) -> Graph:
    """Trace a backbone for the sizes that its preprocessing makes, one square, or any ("aspect"); else ExportError."""
    network = exportable(backbone)
    settings, found = network.preprocessing, _table(network)
    if settings.mode != "aspect":
        square = torch.zeros(1, 3, settings.size, settings.size)
        side = settings.size // settings.patch_size
        constant = None if found is None else resample_positions(*found, (side, side))
        module = _TensorsOnly(network, (square,), constant)
        return Graph(_trace(module, (square,), None), INPUT_NAMES[:1], module.names, None, None)
    if found is None:
        raise ExportError(f"{network.name} has one input size: give fit='stretch' (--fit stretch)")
    (table, native), patch = found, settings.patch_size
    prefix = len(table) - native[0] * native[1]
    # Two different sides, or the tracer takes them for one and the same.
    pixels = torch.zeros(1, 3, 2 * patch, 3 * patch)
    examples = pixels, table.new_zeros(1, prefix + 6, table.shape[1])
    module = _TensorsOnly(network, examples, None)
    rows, columns = (Dim(name, min=1, max=_MOST) for name in ("rows", "columns"))
    shapes = {2: patch * rows, 3: patch * columns}, {1: Dim("tokens", min=1, max=_MOST**2)}
    return Graph(_trace(module, examples, shapes), INPUT_NAMES, module.names, table, native)


def exportable(backbone: Backbone) -> SingleViT:
    """A float32 copy of the backbone on the CPU, or an ExportError that says why it cannot be exported."""
    if isinstance(backbone, ExportedBackbone):
        raise ExportError("the backbone is an export already: export what it was made from")
    if not isinstance(backbone, SingleViT):
        raise ExportError(f"a {type(backbone).__name__} is not one network: keep it in torch")
    return backbone.to("cpu", torch.float32, optimize=False)


class _TensorsOnly(nn.Module):
    """The outputs of a backbone, our own copy, as a tuple without those that it does not have.

    Position embeddings are `constant`, or a second input if `examples` has two, or else the backbone's own.
    """

    def __init__(self, backbone: SingleViT, examples: tuple[Tensor, ...], constant: Tensor | None) -> None:
        super().__init__()
        slot: list[Tensor] = []
        self.backbone, self._constant, self._slot = backbone, constant, slot
        if constant is not None or len(examples) > 1:
            if _is_plain(backbone):
                backbone.vit.pos_embed = None
                backbone.vit.patch_drop = _AddGiven(slot)  # the step after the one that adds them
            else:
                backbone.positions = lambda grid: slot[0][0]  # type: ignore[assignment]
        with torch.inference_mode():
            found = self._dense(*examples)._asdict()
        self.names = tuple(name for name, part in found.items() if part is not None)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = self._dense(*inputs)._asdict()
        # Each in memory of its own: views of inner tensors make some converters stumble.
        return tuple(found[name].contiguous() for name in self.names)

    def _dense(self, pixels: Tensor, positions: Tensor | None = None) -> Any:
        patch = self.backbone.preprocessing.patch_size
        given = self._constant if positions is None else positions
        self._slot.extend([] if given is None else [given])
        try:
            return self.backbone.outputs(pixels, (pixels.shape[2] // patch, pixels.shape[3] // patch))
        finally:
            self._slot.clear()


class _AddGiven(nn.Module):
    """Adds the positions that lie in a slot."""

    def __init__(self, slot: list[Tensor]) -> None:
        super().__init__()
        self._take: Callable[[], Tensor] = lambda: slot[0]  # a list of tensors would be traced

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self._take()


def _is_plain(backbone: SingleViT) -> bool:
    vit = getattr(backbone, "vit", None)
    return type(vit) is VisionTransformer and getattr(vit, "pos_embed", None) is not None


def _table(backbone: SingleViT) -> tuple[Tensor, tuple[int, int]] | None:
    """The position embeddings with a row for every token, and their grid; None where there are none."""
    visual = getattr(backbone, "visual", None)
    if visual is not None:
        rows, columns = visual.grid_size
        return visual.positional_embedding.detach().clone(), (int(rows), int(columns))
    if not _is_plain(backbone):
        return None
    vit = backbone.vit
    rows, columns = vit.patch_embed.grid_size
    table: Tensor = vit.pos_embed[0].detach().clone()
    missing = int(vit.num_prefix_tokens) + rows * columns - len(table)
    # Where registers and CLS have no position, zero is added to them.
    return torch.cat([table.new_zeros(missing, table.shape[1]), table]), (int(rows), int(columns))


def _trace(module: nn.Module, examples: tuple[Tensor, ...], shapes: Any) -> ExportedProgram:
    how: Any = {"strict": False, "prefer_deferred_runtime_asserts_over_guards": True}
    try:
        with torch.no_grad():
            sizes = None if shapes is None else (shapes,)
            return torch.export.export(module, examples, dynamic_shapes=sizes, **how)
    except Exception as error:  # the tracer fails in many ways, each with its own type
        raise ExportError(f"torch.export cannot trace it ({first_line(error)}): keep it in torch") from error


def _write(graph: Graph, folder: Path, kind: Format, precision: ExportPrecision) -> list[Path]:
    """Write the network's files into a folder and return them."""
    path = str(folder / NETWORK_FILES[kind])
    try:
        # The writers print and warn of their own affairs.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            if kind == "openvino":
                _write_openvino(graph, path, quantise=precision.startswith("int8"))
            else:
                names: Any = {"input_names": [*graph.inputs], "output_names": [*graph.outputs]}
                written = torch.onnx.export(graph.program, dynamo=True, verbose=False, **names)
                assert written is not None, "with dynamo, it returns the program"
                written.save(path)
    except Exception as error:  # each writer has its own exceptions, and changes them
        raise ExportError(f"{kind} cannot hold it ({first_line(error)}): try the other format") from error
    return sorted(folder.iterdir())


def _write_openvino(graph: Graph, path: str, *, quantise: bool) -> None:
    openvino = require("openvino", "openvino")
    model = openvino.convert_model(graph.program)
    for port, name in zip(model.inputs, graph.inputs, strict=True):
        port.get_tensor().set_names({name})
    if quantise:
        model = quantise_weights(model)
    openvino.save_model(model, path, compress_to_fp16=False)


def quantise_weights(model: Any) -> Any:
    """Turn the constant matrices of all matrix products of an `openvino.Model` into int8 with scales, in place.

    Each becomes int8 levels times a float32 scale per output channel, w ~= q * max|w| / 127, in the form in which
    OpenVINO keeps it int8 until it is used; activations it quantises as they come. So nothing needs calibration.
    """
    opset = require("openvino.opset13", "openvino")
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        constant = node.input_value(1).get_node()
        if constant.get_type_name() == "Convert":  # a stored half-precision one, made float32
            constant = constant.input_value(0).get_node()
        if constant.get_type_name() != "Constant":
            continue
        values = np.asarray(constant.get_data(), dtype=np.float32)
        if values.ndim != 2 or values.size < _SMALLEST:
            continue
        by_rows = bool(node.get_attributes()["transpose_b"])
        levels, scales = quantize_rows(torch.from_numpy(values if by_rows else values.T.copy()))
        parts = (levels, scales[:, None]) if by_rows else (levels.T, scales[None])
        stored, scale = (opset.constant(part.contiguous().numpy()) for part in parts)
        product = opset.multiply(opset.convert(stored, "f32"), scale)
        node.input(1).replace_source_output(product.output(0))
    model.validate_nodes_and_infer_types()
    return model


def compare_backbones(source: Backbone, other: Backbone, pictures: Sequence[Image.Image]) -> tuple[float, float]:
    """Compare the tokens of two backbones of the same width, grid and preprocessing; `source` is the right one.

    The largest difference, as a share of their largest absolute value, and the mean cosine of a token with its twin.
    """
    one, two = (
        torch.cat([backbone.encode([one])[0].tokens.cpu().flatten(0, 1) for one in pictures])
        for backbone in (source, other)
    )
    off = (one - two).abs().max() / one.abs().max().clamp_min(1e-12)
    return float(off), float(F.cosine_similarity(one, two, dim=1).mean())


def count_changed_captions(source: Patchioner, other: Patchioner, pictures: Sequence[Image.Image]) -> tuple[int, int]:
    """How many captions of the pictures (whole, quarters, middle) differ between two models, and of how many."""
    items = [(picture, trial_regions(picture.size)) for picture in pictures]
    mine, theirs = (
        [caption.text for captions in model.caption_many(items) for caption in captions] for model in (source, other)
    )
    return sum(one != two for one, two in zip(mine, theirs, strict=True)), len(mine)


def trial_regions(size: tuple[int, int]) -> list[Region]:
    """The whole picture, its four quarters and the box in its middle."""
    width, height = float(size[0]), float(size[1])
    x, y = width / 2, height / 2
    quarters = [Box(a, b, a + x, b + y) for a in (0.0, x) for b in (0.0, y)]
    return [WholeImage(), *quarters, Box(x / 2, y / 2, x * 1.5, y * 1.5)]


def trial_pictures() -> list[Image.Image]:
    """Three pictures of smooth random colour and grain, wide, tall and square: for when there are no photos."""
    random = np.random.default_rng(0)
    pictures = []
    for size in ((320, 240), (200, 300), (256, 256)):
        coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.float64)
        grain = random.normal(0.0, 8.0, smooth.shape)
        pictures.append(Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)))
    return pictures
