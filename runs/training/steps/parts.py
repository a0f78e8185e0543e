"""Pieces that several steps read back from ``alignment.safetensors``. Knows that file's names, nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from patchioner.backbones.vit import StandardiseHead
from runs.training.alignment import Projection
from runs.training.state import under


def read_head(tensors: Mapping[str, Tensor]) -> StandardiseHead:
    """The standardisation that the alignment measured."""
    head = StandardiseHead(tensors["head.patch_mean"].shape[0])
    head.load_state_dict(under(tensors, "head."))
    return head


def read_projection(tensors: Mapping[str, Tensor]) -> Projection:
    """The projection that the alignment trained, without dropout."""
    hidden, width = tensors["projection.project_in.weight"].shape
    projection = Projection(width, hidden, tensors["projection.project_out.weight"].shape[0], 0.0)
    projection.load_state_dict(under(tensors, "projection."))
    return projection.eval()
