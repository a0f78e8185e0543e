"""A backbone as one graph of tensors: pixels in, tokens, CLS token and attentions out.

Knows: which backbones can be written as a graph, and what stands in for their position embeddings. Does not know:
files, runtimes, photos.

Position embeddings of a photo's own grid are made by interpolation, which no runtime does to the last bit as torch
does. So where a network takes several sizes, they are a second input of the graph, made by torch; a network of one
size has them as constants.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from patchioner.backbones import Backbone
from patchioner.backbones.base import SingleViT
from patchioner.backbones.exported import ExportedBackbone, resample_positions
from patchioner.base.errors import ExportError

INPUT_NAMES = ("pixels", "positions")
_MOST = 4096


@dataclass(frozen=True, eq=False)
class Graph:
    """A backbone traced for export.

    Attributes:
        program: of torch.export; takes pixels (1, 3, H, W) and, for several sizes, positions (1, N, width).
        inputs, outputs: names of what it takes and gives; the latter are fields of `Dense`.
        positions: (prefix + cells, width) of `native_grid`, see `ExportedBackbone`; both None for a single size.
    """

    program: ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    positions: Tensor | None
    native_grid: tuple[int, int] | None


def trace_backbone(backbone: Backbone) -> Graph:
    """Trace a backbone for the sizes that its preprocessing makes: one square, or any (mode "aspect").

    Args:
        backbone: left as it is.

    Raises:
        ExportError: it cannot be exported, or not for several sizes; the message says which.

    Example:
        >>> trace_backbone(TimmViT("test_vit", Preprocessing("stretch", 64, 16))).outputs
        ('tokens', 'cls', 'attention', 'published')
    """
    network = exportable(backbone)
    settings = network.preprocessing
    if settings.mode != "aspect":
        square = torch.zeros(1, 3, settings.size, settings.size)
        module = _TensorsOnly(network, (square,), _constant_positions(network))
        program = _trace(module, (square,), None)
        return Graph(program, INPUT_NAMES[:1], module.names, None, None)
    if (found := _table(network)) is None:
        raise ExportError(
            f"{getattr(network, 'name', type(network).__name__)} has no table of positions, so it can be exported "
            "for one input size only: give fit='stretch' (--fit stretch), or 'crop' or 'pad'"
        )
    table, native = found
    prefix, patch = len(table) - native[0] * native[1], settings.patch_size
    # Two different sides, or the tracer takes them for one and the same.
    examples = (
        torch.zeros(1, 3, 2 * patch, 3 * patch),
        table.new_zeros(1, prefix + 6, table.shape[1]),
    )
    module = _TensorsOnly(network, examples, None)
    rows, columns, tokens = (
        Dim(name, min=1, max=most)
        for name, most in (("rows", _MOST), ("columns", _MOST), ("tokens", _MOST**2))
    )
    program = _trace(module, examples, ({2: patch * rows, 3: patch * columns}, {1: tokens}))
    return Graph(program, INPUT_NAMES, module.names, table, native)


def exportable(backbone: Backbone) -> SingleViT:
    """A float32 copy of the backbone on the CPU, or an ExportError that says why it cannot be exported."""
    if isinstance(backbone, ExportedBackbone):
        raise ExportError(
            f"the backbone is an export already ({backbone.kind}, {backbone.precision}): export the model that it was "
            "made from"
        )
    if not isinstance(backbone, SingleViT):
        raise ExportError(
            f"a {type(backbone).__name__} is not one network with one input, and cannot be exported: keep it in torch"
        )
    twin = copy.deepcopy(backbone)
    twin.place(torch.device("cpu"), torch.float32)
    return twin.eval().requires_grad_(False)


class _TensorsOnly(nn.Module):
    """The backbone's outputs as a tuple, without those that it does not have.

    Args:
        backbone: our own copy.
        examples: what it is to be tried on; a second tensor is position embeddings, given with every call.
        constant: position embeddings for all calls; None leaves the backbone to its own.
    """

    def __init__(
        self, backbone: SingleViT, examples: tuple[Tensor, ...], constant: Tensor | None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self._constant = constant
        self._slot: list[Tensor] = []
        if constant is not None or len(examples) > 1:
            _take_positions_from(backbone, self._slot)
        with torch.inference_mode():
            found = self._dense(*examples)._asdict()
        self.names = tuple(name for name, part in found.items() if part is not None)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = self._dense(*inputs)._asdict()
        # Each in memory of its own: views of inner tensors make some converters stumble.
        return tuple(found[name].contiguous() for name in self.names)

    def _dense(self, pixels: Tensor, positions: Tensor | None = None) -> Any:
        patch = self.backbone.preprocessing.patch_size
        grid = pixels.shape[2] // patch, pixels.shape[3] // patch
        given = self._constant if positions is None else positions
        self._slot.extend([] if given is None else [given])
        try:
            return self.backbone.outputs(pixels, grid)
        finally:
            self._slot.clear()


class _AddGiven(nn.Module):
    """Adds the positions that lie in a slot."""

    def __init__(self, slot: list[Tensor]) -> None:
        super().__init__()
        self._take: Callable[[], Tensor] = lambda: slot[0]

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self._take()


def _take_positions_from(backbone: SingleViT, slot: list[Tensor]) -> None:
    """Let our own copy of a backbone use given position embeddings in place of its own, interpolated ones."""
    if _is_plain(backbone):
        backbone.vit.pos_embed = None
        backbone.vit.patch_drop = _AddGiven(slot)  # the step after the one that adds positions
    else:
        backbone.positions = lambda grid: slot[0][0]  # type: ignore[assignment]


def _is_plain(backbone: SingleViT) -> bool:
    vit = getattr(backbone, "vit", None)
    return type(vit) is VisionTransformer and getattr(vit, "pos_embed", None) is not None


def _constant_positions(backbone: SingleViT) -> Tensor | None:
    """Positions for the one square that the preprocessing makes; None where the network makes its own."""
    found = _table(backbone)
    side = backbone.preprocessing.size // backbone.preprocessing.patch_size
    return None if found is None else resample_positions(*found, (side, side))


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
    try:
        with torch.no_grad():
            return torch.export.export(
                module,
                examples,
                dynamic_shapes=None if shapes is None else (shapes,),
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as error:  # the tracer fails in many ways, each with its own type
        reason = str(error).strip().splitlines()
        raise ExportError(
            f"torch.export cannot trace this backbone ({reason[0] if reason else type(error).__name__}): keep it in "
            "torch"
        ) from error
