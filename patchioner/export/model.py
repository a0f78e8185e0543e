"""A model with its backbone exported: a whole checkpoint folder in, a whole checkpoint folder out.

Knows: what belongs into the folder, and that an export is tried before anybody relies on it. Does not know: graphs,
runtimes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from patchioner.backbones import Backbone
from patchioner.backbones.base import SingleViT
from patchioner.backbones.exported import ExportedBackbone
from patchioner.backbones.runtimes import NETWORK_FILES, PACKAGES, ExportPrecision, Format
from patchioner.base.errors import ExportError, OptionError, UnknownNameError
from patchioner.base.files import file_sha256
from patchioner.base.optional import require
from patchioner.base.weights import Storage
from patchioner.export.check import BackboneDifference, compare_backbones, trial_pictures
from patchioner.export.network import exportable, trace_backbone
from patchioner.export.writers import write_graph
from patchioner.geometry import Fit

if TYPE_CHECKING:
    from memory_bank import Precision
    from patchioner.model import Patchioner

# Float32 in another order of summation; quantised networks must still say the same, roughly.
_LARGEST_RELATIVE, _LEAST_COSINE = 1e-3, 0.5


@dataclass(frozen=True)
class ExportReport:
    """What `export_model` wrote.

    Attributes:
        folder: of the checkpoint.
        difference: of the two backbones on the pictures it was tried on.
        pictures: how many.
        megabytes: of the network's files.
    """

    folder: Path
    difference: BackboneDifference
    pictures: int
    megabytes: float


def export_model(
    model: Patchioner,
    folder: str | Path,
    *,
    format: Format = "onnx",
    precision: ExportPrecision = "fp32",
    size: int | None = None,
    fit: Fit | None = None,
    photos: Sequence[Image.Image] = (),
    storage: Storage = "fp32",
    bank_storage: Precision = "float16",
) -> ExportReport:
    """Write a checkpoint whose backbone runs in another runtime; `Patchioner.from_pretrained` loads it.

    Args:
        model: any whose backbone is a single vision transformer; left as it is. Decoder, bank and text tower go along
            unchanged and stay in torch.
        folder: empty or new.
        format: "onnx" (ONNX Runtime) or "openvino"; the extra of the same name runs it.
        precision: see `patchioner.export.writers.write_graph`.
        size: side of the input in model pixels, in place of the model's; a multiple of the patch size.
        fit: how photos are fitted, in place of the model's. "aspect" needs a network that takes several sizes.
        photos: upright RGB, to try the export on; pictures of ours if there are none.
        storage, bank_storage: precision on disk of the other networks and of the memory bank.

    Returns:
        Where it is, and how far its features are from those of the model.

    Raises:
        OptionError: the folder is not empty; a size, fit, format or precision that there is not.
        MissingExtraError: a package is not installed; the message has the line that installs it.
        ExportError: the backbone cannot be exported, or the export gives other features.

    Example:
        >>> export_model(model, "mini-openvino", format="openvino").difference.tokens  # doctest: +SKIP
        3.1e-05
    """
    out = Path(folder)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(f"{out} exists already: choose an empty or new folder")
    with tempfile.TemporaryDirectory() as temporary:
        exported, source = export_backbone(
            model.parts.backbone,
            Path(temporary),
            format=format,
            precision=precision,
            size=size,
            fit=fit,
        )
        pictures = list(photos) or trial_pictures()
        difference = compare_backbones(source, exported, pictures)
        _judge(difference, precision)
        _write(model, exported, out, storage, bank_storage)
    files = (out / "backbone" / name for name in exported.files)
    megabytes = sum(path.stat().st_size for path in files) / 2**20
    return ExportReport(out, difference, len(pictures), megabytes)


def export_backbone(
    backbone: Backbone,
    folder: Path,
    *,
    format: Format = "onnx",
    precision: ExportPrecision = "fp32",
    size: int | None = None,
    fit: Fit | None = None,
) -> tuple[ExportedBackbone, SingleViT]:
    """Export a backbone alone.

    Args:
        backbone: left as it is.
        folder: existing and empty; the network's files go there and must stay, since the result runs from them.
        format, precision, size, fit: as `export_model`.

    Returns:
        The exported backbone, and its source in float32 on the CPU with the same size and fit.

    Raises:
        As `export_model`.

    Example:
        >>> exported, source = export_backbone(backbone, Path("network"), format="onnx")  # doctest: +SKIP
    """
    if format not in NETWORK_FILES:
        raise UnknownNameError.among("format", str(format), NETWORK_FILES)
    require(PACKAGES[format], format)
    source = exportable(backbone)
    changes = {key: value for key, value in (("size", size), ("mode", fit)) if value is not None}
    source.preprocessing = replace(source.preprocessing, **changes)  # type: ignore[arg-type]
    graph = trace_backbone(source)
    names = write_graph(graph, folder, format, precision)
    exported = ExportedBackbone(
        folder,
        kind=format,
        precision=precision,
        width=source.dim,
        preprocessing=source.preprocessing,
        outputs=graph.outputs,
        files={name: file_sha256(folder / name) for name in names},
        exported_from=source.config,
        positions=graph.positions,
        native_grid=graph.native_grid,
    )
    return exported, source


def _judge(difference: BackboneDifference, precision: ExportPrecision) -> None:
    if precision == "fp32" and not difference.relative <= _LARGEST_RELATIVE:
        raise ExportError(
            f"the exported network's tokens are off by {difference.relative:.2g} of the largest, more than "
            f"{_LARGEST_RELATIVE}: this runtime does not compute this network right; try the other format"
        )
    if not difference.mean_cosine >= _LEAST_COSINE:
        raise ExportError(
            f"tokens of the exported network have a cosine of {difference.mean_cosine:.3f} with the model's: "
            f"{precision} destroys this network; use fp32"
        )


def _write(
    model: Patchioner, exported: ExportedBackbone, out: Path, storage: Storage, bank: Precision
) -> None:
    from patchioner.checkpoints.folder import write_checkpoint

    parts = replace(model.parts, backbone=exported)
    try:
        write_checkpoint(parts, out, storage=storage, bank_storage=bank)
    except BaseException:
        # A folder without config.json is refused by whoever reads it, but need not lie about.
        shutil.rmtree(out, ignore_errors=True)
        raise
