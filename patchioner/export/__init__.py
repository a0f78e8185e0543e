"""Export of a model's backbone to another runtime; the result is a checkpoint like any other.

Knows: how a backbone becomes a graph, ONNX and OpenVINO files, how far a result is from its source. Does not know:
regions' arithmetic, decoders, memory banks; all but the backbone is written as it is.
"""

from patchioner.backbones.runtimes import ExportPrecision, Format
from patchioner.export.check import BackboneDifference, compare_backbones, count_changed_captions
from patchioner.export.model import ExportReport, export_backbone, export_model

__all__ = [
    "BackboneDifference",
    "ExportPrecision",
    "ExportReport",
    "Format",
    "compare_backbones",
    "count_changed_captions",
    "export_backbone",
    "export_model",
]
