"""Networks on disk (safetensors in fp32, fp16 or int8; a strict fit; nothing is unpickled) and copied for inference.

On many x86 CPUs oneDNN, through private operators of torch that are tried first, beats torch's own products.
"""

from __future__ import annotations

import copy
import errno
import hashlib
import logging
import os
import platform
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
import torch.nn.functional as functional
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from patchioner.base.errors import LONE_SURROGATE, CheckpointError, OptionError, first_few, first_line
from patchioner.base.files import AnyPath, atomic_path, check

Storage = Literal["fp32", "fp16", "int8"]

SCALE_SUFFIX = ".int8_scale"
_INT8_MIN_VALUES = 4096  # below this the scales and the lost precision buy nothing
_LEAST = 2**16  # numbers of a weight below which packing gains nothing
# A module takes kilobytes and time whatever its size.
_SPARE, _MOST_BYTES, _LEAST_BYTES = 256 * 2**20, 2**36, 2**16
_FACTORIES = tuple(getattr(torch, name) for name in ["empty", "zeros", "ones", "full", "randn", "rand", "arange"])
# What torch.save writes, now and in old releases.
TORCH_FILES = ("a zip archive, as torch.save writes (it holds a pickle)", "a pickle")
_UNKNOWN = "of no known kind"
_MAGIC = {
    b"PK\x03\x04": TORCH_FILES[0],
    b"\x80": TORCH_FILES[1],
    b"empty": "an empty file",
    b"\x89HDF": "an HDF5 file",
    b"GGUF": "a GGUF file",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
}


def save_weights(state: Mapping[str, Tensor], path: AnyPath, *, storage: Storage) -> None:
    """Write name -> tensor, which are left untouched, as one safetensors file, atomically; its folder is made.

    `storage` is of the float tensors; others stay as they are. "int8" is symmetric with one scale per output row (dim
    0), `w ~= q * max|w| / 127`, for tensors of >= 2 dims and >= 4096 values; the others become fp16. CheckpointError: a
    tensor is not finite, or overflows the storage; OptionError: there is no such storage.
    """
    check(get_args(Storage), storage=storage)
    stored: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if storage == "int8" and name.endswith(SCALE_SUFFIX):
            raise CheckpointError(f"tensor name {name!r} is reserved for int8 scales; rename it")
        stored.update(_stored_form(name, tensor.detach().cpu(), storage))
    with atomic_path(path) as temporary:
        write_tensors(stored, temporary, {"format": "pt", "storage": storage, "crc32": _crc32(stored)})


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file; OSError where the disk is full, as other writers raise it."""
    path.touch()
    usual = path.stat().st_mode
    try:
        save_file(tensors, path, metadata=metadata)
        path.chmod(usual)  # safetensors 0.8 lets nobody else read what it writes
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


def load_weights(path: AnyPath) -> dict[str, Tensor]:
    """Name -> tensor on the CPU, of `save_weights` or any plain safetensors file; floats of any storage as float32.

    CheckpointError: the file is missing, truncated, a pickle or otherwise foreign, or a tensor is not finite.
    """
    stored, storage = _read_safetensors(Path(path))
    scales = {name for name in stored if storage == "int8" and name.endswith(SCALE_SUFFIX)}
    names = [name for name in stored if name not in scales]
    if orphans := scales - {name + SCALE_SUFFIX for name in names}:
        raise CheckpointError(f"{path}: scales without a tensor: {first_few(orphans)}")
    state = {}
    for name in names:
        tensor = stored[name]
        if name + SCALE_SUFFIX in scales:
            tensor = _dequantise(tensor, stored[name + SCALE_SUFFIX], f"{path}: {name}")
        state[name] = as_float(tensor, f"{os.fspath(path)}: tensor {name!r}")
    return state


def as_float(tensor: Tensor, where: str) -> Tensor:
    """A float tensor in float32, finite and without gradient; other tensors as they are."""
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    # An expanded one stands for more numbers than the file holds.
    if not plain or tensor.is_quantized or tensor.untyped_storage().nbytes() < tensor.nbytes:
        raise CheckpointError(f"{where} is sparse, quantised or expanded: save it as plain numbers")
    if not tensor.is_floating_point():
        return tensor
    tensor = tensor.detach().float()
    _check_finite(tensor, where, "fetch or train it again")
    return tensor


@contextmanager
def sound_tokenizer(path: Path) -> Iterator[None]:
    """What reading a tokenizer.json raises becomes a CheckpointError; Rust's panics, no `Exception`, too."""
    try:
        # The part of the library that is known to panic, of whose reports there is no other way to be rid.
        with _no_standard_error() if b'"Precompiled"' in path.read_bytes() else nullcontext():
            yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except BaseException as error:  # the library raises bare Exception for every kind of damage
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{path} is not a readable tokenizer ({error}): fetch it") from error


@contextmanager
def _no_standard_error() -> Iterator[None]:
    """Neither Python's nor, below it, that of libraries."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


class AllocationLimit(TorchFunctionMode):
    """Within it, tensors made by torch's factories may take `limit` bytes in all; else CheckpointError.

    So numbers in a config cannot ask for more than a multiple of the weights beside it.
    """

    def __init__(self, source: str, limit: int) -> None:
        super().__init__()
        self._source, self._limit, self._left = source, limit, limit

    @classmethod
    def beside(cls, weights: Path, source: str) -> AllocationLimit:
        """For a network whose weights are a file; without one, what no network of today takes."""
        return cls(source, 16 * weights.stat().st_size + _SPARE if weights.is_file() else _MOST_BYTES)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count what a factory would make before it makes it."""
        kwargs = kwargs or {}
        if func in _FACTORIES:
            with torch._C.DisableTorchFunction():
                asked = func(*args, **{**kwargs, "device": "meta"})
            self._left -= max(asked.numel() * asked.element_size(), _LEAST_BYTES)
            if self._left < 0:
                asked_for = f"{self._source} asks for a network of over {self._limit >> 20:,} MiB"
                raise CheckpointError(f"{asked_for}, which is not that of its weights: fetch the checkpoint again")
        return func(*args, **kwargs)


def fit_weights(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load name -> tensor into a module, strictly; a CheckpointError names what is missing, unexpected or unlike."""
    wanted = module.state_dict()
    pairs = [(name, state[name], own) for name, own in wanted.items() if name in state]
    shapes = [(name, tuple(found.shape), tuple(own.shape)) for name, found, own in pairs]
    faults = {
        "missing": wanted.keys() - state.keys(),
        "unexpected": state.keys() - wanted.keys(),
        "wrong shape:": [f"{name} is {found}, the network has {own}" for name, found, own in shapes if found != own],
        "wrong type:": [
            f"{name} holds {found.dtype}, the network {own.dtype}"
            for name, found, own in pairs
            if _kind(found) != _kind(own)
        ],
    }
    if told := "; ".join(f"{what} {first_few(names)}" for what, names in faults.items() if names):
        misfit = f"{source}: the weights do not fit {type(module).__name__}: {told}"
        raise CheckpointError(f"{misfit}. Use the configuration that the weights were saved with")
    module.load_state_dict(state)


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Sha256 (hex) over names, types, shapes and values, wherever the tensors lie."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _stored_form(name: str, tensor: Tensor, storage: Storage) -> dict[str, Tensor]:
    if not tensor.is_floating_point():
        return {name: tensor.clone(memory_format=torch.contiguous_format)}
    _check_finite(tensor, f"tensor {name!r}", "it must not be saved")
    if storage == "int8" and tensor.dim() >= 2 and tensor.numel() >= _INT8_MIN_VALUES:
        levels, scale = quantize_rows(tensor.reshape(len(tensor), -1))
        return {name: levels.reshape(tensor.shape).contiguous(), name + SCALE_SUFFIX: scale}
    kept = tensor.to(torch.float32 if storage == "fp32" else torch.float16)
    _check_finite(kept, f"tensor {name!r} in {kept.dtype}", "save it with storage='fp32'")
    # Cloned, because tied tensors share memory and the format refuses that.
    return {name: kept.clone(memory_format=torch.contiguous_format)}


def _dequantise(levels: Tensor, scale: Tensor, where: str) -> Tensor:
    if levels.dtype != torch.int8 or levels.dim() < 2 or scale.shape != levels.shape[:1]:
        found = f"{tuple(levels.shape)} {levels.dtype}"
        raise CheckpointError(f"{where}: {found} with int8 scales of {tuple(scale.shape)}; the file is corrupt")
    return levels.float() * scale.float().reshape(-1, *[1] * (levels.dim() - 1))


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], str]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; is the checkpoint folder complete?")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: {_what_it_is(path)} ({error})") from error
    if (storage := metadata.get("storage", "fp32")) not in get_args(Storage):
        raise CheckpointError(f"{path}: stored as {storage!r}; known are {get_args(Storage)}")
    if metadata.get("crc32") not in (None, _crc32(tensors)):  # as a copy that was cut short has
        raise CheckpointError(f"{path}: other numbers than were written; fetch or copy it again")
    return tensors, storage


def _crc32(tensors: Mapping[str, Tensor]) -> str:
    """Of names and bytes, in hexadecimal."""
    found = 0
    for name, tensor in sorted(tensors.items()):
        found = zlib.crc32(name.encode(), found)
        found = zlib.crc32(tensor.contiguous().flatten().view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def _what_it_is(path: Path) -> str:
    if LONE_SURROGATE.search(str(path)):
        return "its path is not UTF-8: rename the folder"
    if (kind := kind_of_file(path)) == _UNKNOWN:
        return "truncated, or not a safetensors file; fetch it again"
    return f"this is {kind}; only safetensors files are read"


def kind_of_file(path: Path) -> str:
    """What the first bytes of a file tell that it is."""
    with path.open("rb") as file:
        head = file.read(32) or b"empty"
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), _UNKNOWN)


def _check_finite(tensor: Tensor, what: str, remedy: str) -> None:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise CheckpointError(f"{what} has {bad} values that are not finite; {remedy}")


M = TypeVar("M", bound=nn.Module)
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_log = logging.getLogger(__name__)


def inference_copy(module: M, device: torch.device | str, dtype: torch.dtype, *, optimize: bool = True) -> M:
    """A frozen copy of a network in eval mode on a device and in a precision; the original is left as it is.

    Weights that need no conversion are shared with the original: make a new copy after training. Packed weights are a
    second copy. With `optimize`, on a CPU in float32, also `optimize_for_cpu`.

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
    layers = list(module.modules())
    for layer in layers:  # a network may know what else gains, such as a tied output matrix
        if callable(pack := getattr(layer, "pack", None)):
            pack()
    owners = Counter(id(own) for layer in layers for own in layer.parameters(recurse=False))
    packed = {
        layer: PackedLinear(layer.weight, layer.bias)
        for layer in layers
        if type(layer) is nn.Linear and owners[id(layer.weight)] == 1 and can_pack(layer.weight)
        if not layer._forward_hooks and not layer._forward_pre_hooks
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
        return self._packed.to_dense()

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) to (..., out) float32."""
        if not _is_plain(input):
            return functional.linear(input, self.weight, self.bias)
        return _onednn_linear(input, self._packed, self.bias)

    def __reduce__(self) -> tuple[Any, ...]:
        # What oneDNN packed can be neither copied nor written: a copy is plain, and bit for bit the same.
        return _plain_linear, (self.weight, self.bias)

    def _apply(self, fn: Any, recurse: bool = True) -> PackedLinear:
        probe = fn(torch.empty(0, dtype=torch.float32, device="cpu"))
        if probe.device.type != "cpu" or probe.dtype != torch.float32:
            raise OptionError(f"no packed layer can be {probe.dtype} on {probe.device}: make another `inference_copy`")
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _plain_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer.eval()


class PackedTable:
    """A matrix, (n, k), one that `can_pack`, for products with its rows."""

    def __init__(self, matrix: Tensor) -> None:
        self._packed = _reordered(matrix.detach())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # as `PackedLinear`: a copy of its owner has none

    def product(self, inputs: Tensor) -> Tensor:
        """(..., k) float32, no gradients, to (..., n)."""
        return _onednn_linear(inputs, self._packed, None)


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


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row of (n, k) floats to 8 bits with a scale of its own (symmetric, to the nearest).

    (n, k) int8 in -127..127, and (n,) float32 scales: `values * scales[:, None]` is near `rows`.
    """
    rows = rows.float()
    # A row of zeros keeps a scale above zero, so that nothing is divided by it.
    scales = rows.abs().amax(dim=1).clamp(min=127 * torch.finfo(torch.float32).tiny) / 127
    return (rows / scales[:, None]).round().clamp_(-127, 127).to(torch.int8), scales


def _onednn_is_right() -> bool:
    drawn = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu")
    with torch.inference_mode(False), torch.no_grad():
        rows, weight, bias = drawn(5, 96), drawn(64, 96), drawn(64)
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
    """The device that was asked for, or a GPU if there is one, else the CPU; OptionError where it is unknown or absent.

    It is tried out, since torch names a bad one only when it is used.
    """
    chosen = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=chosen).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(f"device {str(chosen)!r} cannot be used ({first_line(error)}): try 'cpu'") from error


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
