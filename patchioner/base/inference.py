"""Networks copied for inference, and the faster products that a CPU has for them. Imports torch.

On many x86 CPUs oneDNN beats torch's own float32 products 1.2 to 2 times, more with packed weights. Its operators are
private to torch: they are tried once, and left alone if they fail.
"""

from __future__ import annotations

import copy
import logging
import platform
from collections import Counter
from functools import cache
from typing import Any, TypeVar

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from patchioner.base.errors import OptionError

M = TypeVar("M", bound=nn.Module)
_LEAST = 2**16  # numbers of a weight below which packing gains nothing
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_log = logging.getLogger(__name__)


def inference_copy(
    module: M, device: torch.device | str, dtype: torch.dtype, *, optimize: bool = True
) -> M:
    """A frozen copy of a network in eval mode on a device and in a precision; the original is left as it is.

    Weights that need no conversion are shared with the original, not copied: make a new copy after training. Packed
    weights are a second copy in memory for as long as the original is kept.

    Args:
        module: anything that `copy.deepcopy` takes, another inference copy included.
        optimize: on a CPU in float32, also `optimize_for_cpu`.

    Example:
        >>> network = nn.Linear(4, 4)
        >>> twin = inference_copy(network, "cpu", torch.float32)
        >>> twin.weight.data_ptr() == network.weight.data_ptr(), twin.weight.requires_grad
        (True, False)
    """
    shared: dict[int, Any] = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        if type(tensor) is nn.Parameter:
            shared[id(tensor)] = nn.Parameter(tensor.detach(), requires_grad=False)
        elif type(tensor) is Tensor:
            shared[id(tensor)] = tensor.detach()
    made = copy.deepcopy(module, shared).eval().requires_grad_(False)
    # Backbones and text towers have a `to` of their own, which calls this.
    nn.Module.to(made, device, dtype)
    return optimize_for_cpu(made) if optimize else made


def optimize_for_cpu(module: M) -> M:
    """Replace the large float32 `nn.Linear`s of an inference copy on a CPU by packed ones; gives the module back.

    Outputs move by rounding alone. Layers stay plain that are small, share their weight, have hooks or are of a
    subclass. Nothing happens where oneDNN's operators are missing or wrong.
    """
    if not has_onednn():
        return module
    owners = Counter(
        id(own) for layer in module.modules() for own in layer.parameters(recurse=False)
    )
    packed = {
        layer: PackedLinear(layer.weight, layer.bias)
        for layer in module.modules()
        if type(layer) is nn.Linear
        and owners[id(layer.weight)] == 1
        and can_pack(layer.weight)
        and not any(getattr(layer, kind, ()) for kind in ("_forward_hooks", "_forward_pre_hooks"))
    }
    for path, layer in list(module.named_modules(remove_duplicate=False)):
        if path and layer in packed:
            parent, _, name = path.rpartition(".")
            module.get_submodule(parent).register_module(name, packed[layer])
    return packed.get(module, module)  # type: ignore[call-overload,no-any-return]


class PackedLinear(nn.Module):
    """An `nn.Linear` for inference whose weight, one that `can_pack`, lies in oneDNN's order and is no parameter."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self._packed = _reordered(weight.detach())

    @property
    def weight(self) -> Tensor:
        """(out, in) float32: the weight bit for bit, in a new tensor: writing to it changes nothing."""
        dense: Tensor = self._packed.to_dense()
        return dense

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) to (..., out) float32."""
        if not _is_plain(input):
            return functional.linear(input, self.weight, self.bias)
        return _onednn_linear(input, self._packed, self.bias)

    def extra_repr(self) -> str:
        """As `nn.Linear`'s."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"

    def __reduce__(self) -> tuple[Any, ...]:
        # What oneDNN packed can be neither copied nor written: a copy is plain, and bit for bit the same.
        return _plain_linear, (self.weight, self.bias)

    def _apply(self, fn: Any, recurse: bool = True) -> PackedLinear:
        probe = fn(torch.empty(0, dtype=torch.float32, device="cpu"))
        if probe.device.type != "cpu" or probe.dtype != torch.float32:
            raise OptionError(
                f"a packed layer cannot become {probe.dtype} on {probe.device}: "
                "make another `inference_copy` for that"
            )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _plain_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer.eval()


class PackedTable:
    """A matrix, (n, k), one that `can_pack`, in stretches of rows, for products with all of them or with some."""

    def __init__(self, matrix: Tensor, stretch: int) -> None:
        self._stretch = stretch
        starts = range(0, len(matrix), stretch)
        with torch.no_grad():
            self._parts = [_reordered(matrix[start : start + stretch]) for start in starts]

    def product(self, inputs: Tensor, first: int, last: int) -> Tensor:
        """(m, k) float32, no gradients, times rows `first`, which begins a stretch, to `last`: (m, last - first)."""
        parts = self._parts[first // self._stretch : -(-last // self._stretch)]
        found = [_onednn_linear(inputs, part, None) for part in parts]
        whole = found[0] if len(found) == 1 else torch.cat(found, dim=-1)
        return whole[..., : last - first]


def can_pack(weight: Tensor) -> bool:
    """Whether products with this matrix, (n, k), gain by packing it here."""
    ready = weight.device.type == "cpu" and weight.dtype == torch.float32
    # Tensors of inference mode are what they are for good.
    return ready and weight.numel() >= _LEAST and not weight.is_inference() and has_onednn()


def linear(inputs: Tensor, weight: Tensor) -> Tensor:
    """`torch.nn.functional.linear`, by oneDNN where that can be: (..., k) by (n, k), in any order, to (..., n)."""
    if _is_plain(inputs) and _is_plain(weight) and has_onednn():
        return _onednn_linear(inputs, weight, None)
    return functional.linear(inputs, weight)


@cache
def has_onednn() -> bool:
    """Whether torch's oneDNN operators are there and right, on a CPU that gains by them."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    try:
        right = _onednn_is_right()
    except Exception as error:  # whatever a renamed or changed private operator raises
        _log.warning("torch's oneDNN operators fail (%s): using plain matrix products", error)
        return False
    if not right:
        _log.warning("torch's oneDNN operators are wrong here: using plain matrix products")
    return right


@cache
def _has_int_mm() -> bool:
    left = torch.arange(-64, 64, dtype=torch.int8, device="cpu").reshape(4, 32)
    right = left.flip(0).contiguous()
    try:
        supported = bool(torch.cpu._is_vnni_supported())  # type: ignore[no-untyped-call,unused-ignore]
        found = torch._int_mm(left, right.t())
    except Exception as error:  # as above
        _log.info("torch has no fast int8 products here (%s): using float32", error)
        return False
    return supported and torch.equal(found, (left.int()[:, None] * right.int()).sum(-1).int())


def has_fast_int8(device: torch.device) -> bool:
    """Whether torch multiplies matrices of 8-bit integers there several times faster than float32 (a CPU with VNNI)."""
    return device.type == "cpu" and _has_int_mm()


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row of (n, k) floats to 8 bits with a scale of its own (symmetric, to the nearest).

    (n, k) int8 in -127..127, and (n,) float32 scales: `values * scales[:, None]` is near `rows`.
    """
    rows = rows.float()
    # A row of zeros keeps a scale above zero, so that nothing is divided by it.
    scales = rows.abs().amax(dim=1).clamp(min=127 * torch.finfo(torch.float32).tiny) / 127
    return (rows / scales[:, None]).round().clamp_(-127, 127).to(torch.int8), scales


def int8_product(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right.T` exactly, as int32, of (n, k) and (m, k) int8 on one device; k at most 133,000."""
    if left.device.type == "cpu" and left.numel() and right.numel() and _has_int_mm():
        return torch._int_mm(left, right.t())
    # Accelerators restrict the shapes of theirs; float64 holds every sum exactly.
    return (left.double() @ right.double().t()).to(torch.int32)


def _onednn_is_right() -> bool:
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.no_grad():
        rows, weight, bias = (
            torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
            for shape in ((5, 96), (64, 96), (64,))
        )
        packed = _reordered(weight)
        expected = functional.linear(rows, weight, bias)
        found = [_onednn_linear(rows, kind, bias) for kind in (weight, packed)]
        found += [_onednn_linear(rows[:1], packed, None) + bias]
        close = [torch.allclose(each, expected[: len(each)], 1e-4, 1e-4) for each in found]
        return all(close) and torch.equal(packed.to_dense(), weight)


def _is_plain(inputs: Tensor) -> bool:
    # Numbers alone, with neither gradients nor a program being compiled.
    follows = inputs.requires_grad and torch.is_grad_enabled()
    fits = inputs.device.type == "cpu" and inputs.dtype == torch.float32 and inputs.numel() > 0
    return fits and not follows and not torch.compiler.is_compiling()


def _reordered(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def _onednn_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return out


def usable_device(wanted: str | torch.device | None) -> torch.device:
    """The device that was asked for, or a GPU if there is one, else the CPU.

    It is tried out, since torch names a bad one only when it is used.

    Raises:
        OptionError: the device is unknown or absent.

    Example:
        >>> usable_device("cpu")
        device(type='cpu')
    """
    chosen = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=chosen).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(
            f"device {str(chosen)!r} cannot be used here ({reason}): try 'cpu'"
        ) from error


def usable_dtype(wanted: torch.dtype | str | None) -> torch.dtype:
    """A precision of networks, by itself or by its name; OptionError where it is none.

    Example:
        >>> usable_dtype("bfloat16")
        torch.bfloat16
    """
    known = {str(one).removeprefix("torch."): one for one in _DTYPES}
    found = known.get(str(wanted or torch.float32).removeprefix("torch."))
    if found is None:
        raise OptionError(f"dtype {wanted!r:.80} is unknown: use one of {', '.join(known)}")
    return found
