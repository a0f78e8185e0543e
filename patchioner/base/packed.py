"""Linear layers whose weights lie in the order in which oneDNN multiplies them, for inference on a CPU.

Knows: torch's linear layers and its oneDNN operators. Does not know whose layers they are. Imports torch, so it is
imported by its own name.

A product of few rows waits for its weights, and reads packed ones in one stream: half the time for 1 to 16 rows of
width 768, three quarters for 100, nine tenths for a photo's 1,374 tokens (AMD EPYC, two cores, against torch's order).
There is one copy of a weight, packed; whoever asks for it in torch's order gets that, bit for bit.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Self

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from patchioner.base.products import has_onednn, is_plain, onednn_linear

_LEAST = 2**16  # numbers of a weight below which nothing is gained


def pack(module: nn.Module) -> None:
    """Pack the float32 linear layers of a module on an x86 CPU, in place; leave everything else as it is.

    Outputs move by rounding alone. The module stays what it was to `state_dict`, `load_state_dict`, copies and
    whoever reads a layer's `weight`; only its parameter is empty for the time, so count with `weights_of`. A layer that
    is trained, moved or converted unpacks itself.

    Args:
        module: whose layers are packed, itself included; those in training mode are not, nor weights that layers share.

    Example:
        >>> network = nn.Sequential(nn.Linear(512, 512)).eval()
        >>> pack(network)
        >>> network.state_dict()["0.weight"].shape
        torch.Size([512, 512])
    """
    if not has_onednn():
        return
    owners = Counter(
        id(parameter) for layer in module.modules() for parameter in layer.parameters(recurse=False)
    )
    for layer in module.modules():
        # A subclass may multiply in a way of its own.
        if type(layer) is nn.Linear and owners[id(layer.weight)] == 1 and _gains(layer.weight):
            # In place, so that hooks and whoever holds the layer keep it.
            layer.__class__ = PackedLinear
        if isinstance(layer, PackedLinear):
            layer.pack()


def weights_of(module: nn.Module) -> list[Tensor]:
    """The parameters of a module, for counting: packed ones are among them as oneDNN holds them.

    Example:
        >>> sum(weight.numel() for weight in weights_of(nn.Linear(4, 2)))
        10
    """
    held = [layer._packed for layer in module.modules() if isinstance(layer, PackedLinear)]
    return [*module.parameters(), *(weight for weight in held if weight is not None)]


def can_pack(weight: Tensor) -> bool:
    """Whether products with this matrix, (n, k), gain by packing it here.

    Example:
        >>> can_pack(torch.zeros(2, 2))
        False
    """
    return has_onednn() and _gains(weight)


class PackedTable:
    """A matrix packed in stretches of rows, for products with all of them or with some stretches.

    Args:
        matrix: (n, k), one that `can_pack`; not kept.
        stretch: rows of each.

    Example:
        >>> PackedTable(torch.eye(512), 128).product(torch.ones(1, 512), 128, 256).shape
        torch.Size([1, 128])
    """

    def __init__(self, matrix: Tensor, stretch: int) -> None:
        self._stretch = stretch
        starts = range(0, len(matrix), stretch)
        with torch.no_grad():
            self._parts = [_reordered(matrix[start : start + stretch]) for start in starts]

    def product(self, inputs: Tensor, first: int, last: int) -> Tensor:
        """(m, k) float32 times rows `first` to `last` of the matrix transposed, as a new (m, last - first).

        Args:
            inputs: on the CPU, without gradients.
            first: begins a stretch.
            last: ends a stretch, or lies within one.
        """
        parts = self._parts[first // self._stretch : -(-last // self._stretch)]
        found = [onednn_linear(inputs, part, None) for part in parts]
        whole = found[0] if len(found) == 1 else torch.cat(found, dim=-1)
        return whole[..., : last - first]


def _reordered(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def _gains(weight: Tensor) -> bool:
    # Tensors of inference mode are what they are for good.
    ready = weight.device.type == "cpu" and weight.dtype == torch.float32
    return ready and weight.numel() >= _LEAST and not weight.is_inference()


class PackedLinear(nn.Linear):
    """An `nn.Linear` whose weight may be packed; made by `pack` alone.

    Attributes:
        weight: (out, in) float32; a copy in torch's order while it is packed.
        is_packed: whether it is.
    """

    _packed: Tensor | None = None

    @property
    def is_packed(self) -> bool:
        """See the class."""
        return self._packed is not None

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """See the class."""
        if self._packed is not None:
            dense: Tensor = self._packed.to_dense()
            return dense
        return self._own

    @property
    def _own(self) -> nn.Parameter:
        own = self._parameters["weight"]
        assert own is not None
        return own

    def pack(self) -> None:
        """Pack the weight, if it can be and is not."""
        if self._packed is None and not self.training and _gains(self._own):
            self._packed = _reordered(self._own.detach())
            # The parameter stays, for optimisers and `requires_grad_`, and lets its numbers go.
            self._own.data = self._own.new_empty(0, self.in_features)

    def unpack(self) -> None:
        """Give the parameter its numbers back."""
        if self._packed is not None:
            self._own.data = self._packed.to_dense()
            self._packed = None

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) float32 to (..., out) float32."""
        if self._packed is not None and torch.is_grad_enabled() and self._own.requires_grad:
            self.unpack()
        if self._packed is None or not is_plain(input):
            return functional.linear(input, self.weight, self.bias)
        return onednn_linear(input, self._packed, self.bias)

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; a layer in training is unpacked."""
        if mode:
            self.unpack()
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        # What oneDNN packed can be neither copied nor written.
        state = dict(self.__dict__)
        if state.pop("_packed", None) is not None:
            whole = nn.Parameter(self.weight, requires_grad=self._own.requires_grad)
            state["_parameters"] = {**self._parameters, "weight": whole}
        return state

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self.unpack()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._packed is not None:
            destination[f"{prefix}weight"] = self.weight

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self.unpack()
        super()._load_from_state_dict(*arguments)
