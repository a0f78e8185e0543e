"""Weights on disk: safetensors in fp32, fp16 or int8, and a strict fit into a network. Nothing is unpickled."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from patchioner.base.errors import CheckpointError, OptionError
from patchioner.base.files import atomic_path
from patchioner.base.inference import quantize_rows

Storage = Literal["fp32", "fp16", "int8"]

SCALE_SUFFIX = ".int8_scale"
_INT8_MIN_VALUES = 4096  # below this the scales and the lost precision buy nothing
# A module takes kilobytes and time whatever its size.
_SPARE, _MOST_BYTES, _LEAST = 256 * 2**20, 2**36, 2**16
_FACTORIES = (
    torch.empty,
    torch.zeros,
    torch.ones,
    torch.full,
    torch.randn,
    torch.rand,
    torch.arange,
)
_MAGIC = {
    b"PK\x03\x04": "a zip archive, as torch.save writes (it holds a pickle)",
    b"\x80": "a pickle",
    b"\x89HDF": "an HDF5 file",
    b"GGUF": "a GGUF file",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
}


def save_weights(
    state: Mapping[str, Tensor], path: str | os.PathLike[str], *, storage: Storage
) -> None:
    """Write named tensors as one safetensors file, atomically.

    Args:
        state: name -> tensor, e.g. `module.state_dict()`; left untouched.
        path: the file to write; its folder is made.
        storage: precision of the float tensors; integer and bool tensors stay as they are. "int8"
            is symmetric with one scale per output row (dim 0), `w ~= q * max|w| / 127`,
            for float tensors of >= 2 dims and >= 4096 values; the others are kept in fp16.

    Raises:
        CheckpointError: a tensor is not finite, or overflows the chosen storage.
        OptionError: unknown `storage`.
    """
    if storage not in get_args(Storage):
        raise OptionError(f"storage={storage!r}; choose one of {get_args(Storage)}")
    stored: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if storage == "int8" and name.endswith(SCALE_SUFFIX):
            raise CheckpointError(f"tensor name {name!r} is reserved for int8 scales; rename it")
        stored.update(_stored_form(name, tensor.detach().cpu(), storage))
    with atomic_path(path) as temporary:
        write_tensors(stored, temporary, {"format": "pt", "storage": storage})


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file; OSError where the disk is full, as other writers raise it."""
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


def load_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a file of `save_weights`, or any plain safetensors file, onto the CPU.

    Returns:
        name -> tensor: float tensors as float32 whatever their storage, others as they are.

    Raises:
        CheckpointError: the file is missing, truncated, a pickle or otherwise foreign, or holds a
            tensor that is not finite.
    """
    stored, storage = _read_safetensors(Path(path))
    scales = {name for name in stored if storage == "int8" and name.endswith(SCALE_SUFFIX)}
    state = {}
    for name in stored.keys() - scales:
        tensor = stored[name]
        if name + SCALE_SUFFIX in scales:
            tensor = _dequantise(tensor, stored[name + SCALE_SUFFIX], f"{path}: {name}")
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        _check_finite(tensor, f"{os.fspath(path)}: tensor {name!r}", "fetch or train it again")
        state[name] = tensor
    orphans = [name for name in scales if name.removesuffix(SCALE_SUFFIX) not in state]
    if orphans:
        raise CheckpointError(f"{path}: scales without a tensor: {_some(orphans)}")
    return {name: state[name] for name in stored if name in state}


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
        raise CheckpointError(
            f"{path} is not a readable tokenizer ({error}): fetch the checkpoint again"
        ) from error


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
        known = weights.is_file()
        return cls(source, 16 * weights.stat().st_size + _SPARE if known else _MOST_BYTES)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count what a factory would make before it makes it."""
        kwargs = kwargs or {}
        if func in _FACTORIES:
            with torch._C.DisableTorchFunction():
                asked = func(*args, **{**kwargs, "device": "meta"})
            self._left -= max(asked.numel() * asked.element_size(), _LEAST)
            if self._left < 0:
                raise CheckpointError(
                    f"{self._source} asks for a network of over {self._limit >> 20:,} MiB, which is not that of its "
                    "weights: fetch the checkpoint again"
                )
        return func(*args, **kwargs)


def fit_weights(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load name -> tensor into a module, strictly: only if every name and every shape fits.

    Raises:
        CheckpointError: names the missing, unexpected and wrong-shape tensors of the `source`, with both shapes.
    """
    wanted = module.state_dict()
    faults = []
    if missing := wanted.keys() - state.keys():
        faults.append(f"missing {_some(missing)}")
    if unexpected := state.keys() - wanted.keys():
        faults.append(f"unexpected {_some(unexpected)}")
    wrong = [
        f"{name} is {tuple(state[name].shape)}, the network has {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if wrong:
        faults.append(f"wrong shape: {_some(wrong)}")
    if faults:
        raise CheckpointError(
            f"{source}: the weights do not fit {type(module).__name__}: {'; '.join(faults)}. "
            "Use the configuration that the weights were saved with"
        )
    module.load_state_dict(state)


def digest(*modules: nn.Module) -> str:
    """Sha256 (hex) of all weights of some networks."""
    total = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            total.update(f"{name} {tuple(tensor.shape)}\n".encode())
            total.update(tensor.detach().cpu().float().contiguous().numpy().data)
    return total.hexdigest()


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
        raise CheckpointError(
            f"{where}: {tuple(levels.shape)} {levels.dtype} does not go with int8 scales of shape "
            f"{tuple(scale.shape)}; the file is corrupt"
        )
    return levels.float() * scale.float().reshape(-1, *[1] * (levels.dim() - 1))


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], str]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; is the checkpoint folder complete?")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            storage = (file.metadata() or {}).get("storage", "fp32")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: {_what_it_is(path)} ({error})") from error
    if storage not in get_args(Storage):
        raise CheckpointError(f"{path}: stored as {storage!r}; known are {get_args(Storage)}")
    return tensors, storage


def _what_it_is(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(32)
    if not head:
        return "the file is empty; fetch it again"
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return f"this is {kind}; only safetensors files are read"
    return "truncated, or not a safetensors file; fetch it again"


def _check_finite(tensor: Tensor, what: str, remedy: str) -> None:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise CheckpointError(f"{what} has {bad} values that are not finite; {remedy}")


def _some(names: Iterable[str], most: int = 5) -> str:
    ordered = sorted(names)
    rest = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + rest
