"""The published memory banks become ours: HDF5 files, and the caption memory of MeaCap."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from memory_bank import MemoryBank
from patchioner.base.errors import CheckpointError, HubError, MemoryBankError
from patchioner.base.optional import require
from patchioner.base.progress import progress
from patchioner.checkpoints.files import as_float, read_object
from patchioner.checkpoints.hub import fetch
from patchioner.checkpoints.published.config import (
    MeacapConfig,
    PublishedConfig,
    PublishedFiles,
    as_pattern,
    base_name,
)

_CAPTIONS, _EMBEDDINGS = "memory_captions.json", "memory_clip_embeddings.pt"
_log = logging.getLogger(__name__)
_ROWS = "-embeddings"
_TEXTS = "-text"
_BLOCK = 16384
# What `projection_type` is called in a file name. Only the first is known for certain; the others follow its form.
_SOURCES = {
    "coco": "coco_captions",
    "vg": "vg_captions",
    "vg-test": "vg-test_captions",
    "msmarco": "msmarco",
    "blip": "blip",
}
DINOTXT_COLUMNS = 2048


def bank_file_name(config: PublishedConfig) -> str:
    """The name under which the published code keeps a configuration's bank.

    `{prefix}{dataset}_text_embeddings{attention}{postfix}-{CLIP model}-{rows}.h5`. The forms for Talk2DINO and for
    plain CLIP on COCO captions are known; other sources follow the same form [inferred].

    Example:
        >>> bank_file_name(PublishedConfig(768, 591753, dino_model="dinov2_vitb14_reg"))
        'coco_captions_text_embeddings-B16-ViT-B.16-591753.h5'
    """
    source = base_name(config.projection_type)
    if source.endswith(".json"):  # the published code goes by words in the name
        words = ("coco", "karpathy", "vg", "marco")
        named = {"karpathy": "coco", "marco": "msmarco"}
        source = next((named.get(word, word) for word in words if word in source.lower()), "coco")
    talk2dino = bool(config.use_talk2dino_project) and "dino" in (config.dino_model or "")
    clip = (config.clip_model_name or "ViT-B/16").replace("/", ".")
    attention = "" if config.talk2dino_attn_type == "qkv" else f"_{config.talk2dino_attn_type}"
    postfix = ("-B16" if talk2dino else "") + ("-linear" if config.linear_talk2dino else "")
    postfix += "-open_clip" if config.use_open_clip else ""
    prefix = "" if talk2dino else "clip-"
    return (
        f"{prefix}{_SOURCES.get(source, source)}_text_embeddings{attention}{postfix}"
        f"-{clip}-{config.support_memory_size}.h5"
    )


def find_bank(files: PublishedFiles, config: PublishedConfig) -> Path:
    """The bank's file: by its published name, else the only `*.h5` beside the config, else from the hub."""
    name = bank_file_name(config)
    beside = files.any_of([as_pattern(name), "*.h5"])
    return beside or files.find(name, "memory bank")


def read_bank(path: Path, *, unit_rows: bool = False, dim: int | None = None) -> MemoryBank:
    """Read a published HDF5 bank.

    Args:
        path: one dataset `*-embeddings`, (N, width) float, and one `*-text`, N strings of UTF-8.
        unit_rows: scale every row to unit length, as the published code does for models whose name lacks "dinov2".
            Otherwise rows keep their lengths, by which they weigh in a projection.
        dim: width that the rows must have; None takes any. Of DINO.txt's 2,048 columns the second half is taken.

    Returns:
        A float32 bank without the rows of zero norm (an unfilled rest) and their texts. Rows are copied in blocks from
        the file, so the bank is held once.

    Raises:
        MemoryBankError: a file that is cut short, foreign, of another width, or whose texts do not fit.
        MissingExtraError: h5py is not installed.
    """
    h5py = require("h5py", "published")
    if not path.is_file():
        raise MemoryBankError(f"{path}: no such memory bank")
    try:
        with h5py.File(path, "r") as file, tempfile.TemporaryDirectory() as scratch:
            rows, texts = _datasets(file, path, h5py)
            columns = _columns(rows, path, dim)
            given = _texts(texts, path)
            staged = _mapped(rows, path, columns) if not unit_rows else None
            if staged is None:
                staged = _staged(rows, columns, unit_rows, Path(scratch) / "rows")
            bank = MemoryBank(staged, given, drop_zero_rows=True)
            del staged
    except (OSError, KeyError, RuntimeError, UnicodeDecodeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise MemoryBankError(
            f"{path}: cut short, or no HDF5 memory bank ({lines[0]}); fetch it again"
        ) from error
    except MemoryBankError as error:
        raise MemoryBankError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    if empty := len(given) - len(bank):
        _log.info("%s: left out %d of %d rows, which are zero", path, empty, len(given))
    return bank


def _datasets(file: Any, path: Path, h5py: Any) -> tuple[Any, Any]:
    """The dataset of rows and the one of texts; their common name is not the same in all files."""
    named = [name for name in file if name.endswith(_ROWS) and isinstance(file[name], h5py.Dataset)]
    if len(named) != 1:
        raise MemoryBankError(
            f"{path}: expected one dataset '*{_ROWS}', found {', '.join(named) or 'none'} among {', '.join(file)}"
        )
    texts = named[0].removesuffix(_ROWS) + _TEXTS
    if not isinstance(file.get(texts), h5py.Dataset):
        raise MemoryBankError(f"{path}: there is no dataset {texts!r} beside {named[0]!r}")
    rows = file[named[0]]
    if rows.ndim != 2 or rows.dtype.kind != "f":
        raise MemoryBankError(
            f"{path}: {named[0]!r} is {rows.shape} {rows.dtype}, expected rows of floats"
        )
    if file[texts].shape != rows.shape[:1]:
        raise MemoryBankError(f"{path}: {len(rows)} rows, but texts of shape {file[texts].shape}")
    return rows, file[texts]


def _columns(rows: Any, path: Path, dim: int | None) -> slice:
    width = rows.shape[1]
    if width == DINOTXT_COLUMNS and dim == DINOTXT_COLUMNS // 2:
        return slice(dim, None)
    if dim not in (None, width):
        raise MemoryBankError(f"{path}: rows have width {width}, the config says prefix_size {dim}")
    return slice(None)


def _texts(dataset: Any, path: Path) -> list[str]:
    texts: list[str] = []
    for start in range(0, len(dataset), _BLOCK):
        for value in dataset[start : start + _BLOCK]:
            if not isinstance(value, bytes | str):
                raise MemoryBankError(f"{path}: text {len(texts)} is {value!r}, not a string")
            texts.append(value.decode("utf-8") if isinstance(value, bytes) else value)
    return texts


def _mapped(rows: Any, path: Path, columns: slice) -> npt.NDArray[np.float32] | None:
    """The rows as they lie in the file, mapped into memory and not read; None where they do not lie in one piece."""
    offset = rows.id.get_offset()
    if offset is None or rows.dtype != np.dtype(np.float32):
        return None
    if path.stat().st_size < offset + rows.size * rows.dtype.itemsize:
        raise MemoryBankError(f"{path}: cut short; fetch it again")
    # Mode "c": the copy on write makes it writable, without which torch would warn; nothing is written.
    return np.memmap(path, np.float32, mode="c", offset=offset, shape=rows.shape)[:, columns]


def _staged(rows: Any, columns: slice, unit_rows: bool, scratch: Path) -> npt.NDArray[np.float32]:
    """The rows in a scratch file, mapped: for compressed, half-precision or unit rows."""
    width = len(range(*columns.indices(rows.shape[1])))
    staged = np.memmap(scratch, np.float32, mode="w+", shape=(len(rows), width))
    starts = range(0, len(rows), _BLOCK)
    for start in progress(starts, description="reading the memory bank", unit="block"):
        block = rows[start : start + _BLOCK, columns].astype(np.float32)
        if unit_rows:
            lengths = np.linalg.norm(block, axis=1, keepdims=True)
            block /= np.where(lengths > 0, lengths, 1)
        staged[start : start + _BLOCK] = block
    return staged


def read_memory(files: PublishedFiles, config: MeacapConfig, *, dim: int) -> MemoryBank:
    """The caption memory as a bank of unit rows, searched by cosine as published.

    `memory_captions.json` is a list of captions, `memory_clip_embeddings.pt` their (N, dim) tensor. The third published
    file, embeddings of the captions by a sentence encoder, is not read: nothing depends on it here.

    Raises:
        CheckpointError, MemoryBankError: a file is missing, damaged, of another width, or does not fit the other.
    """
    captions = _file(files, config, _CAPTIONS)
    texts = _captions(captions)
    path = _file(files, config, _EMBEDDINGS)
    held = read_object(path)
    if not isinstance(held, Tensor) or held.dim() != 2 or not held.is_floating_point():
        raise CheckpointError(f"{path}: expected one tensor of rows, found {type(held).__name__}")
    if held.shape != (len(texts), dim):
        raise MemoryBankError(
            f"{path}: embeddings of shape {tuple(held.shape)}, expected {(len(texts), dim)}: one row for each caption "
            f"of {captions.name}, as wide as the config's prefix_size"
        )
    rows = as_float(held, str(path))
    lengths = rows.norm(dim=1, keepdim=True)
    if bool((lengths == 0).any()):
        raise MemoryBankError(f"{path}: row {int((lengths == 0).flatten().nonzero()[0])} is zero")
    return MemoryBank(rows / lengths, texts)


def _file(files: PublishedFiles, config: MeacapConfig, name: str) -> Path:
    """`<base>/<id>/<name>` where it is there, else `memory/<id>/<name>` beside the config or on the hub."""
    own_place = files.root / (config.memory_base_path or "memory") / config.memory_id / name
    beside = files.root / "memory" / base_name(config.memory_id) / name
    for candidate in (own_place, beside):
        if candidate.is_file():
            return candidate
    hub_id = config.hf_repo_id or files.hub_id
    reason = "no hf_repo_id is given"
    if hub_id is not None:
        try:
            return fetch(hub_id, f"memory/{config.memory_id}/{name}")
        except HubError as error:
            reason = str(error)
    raise CheckpointError(f"caption memory: neither {own_place} nor {beside} is there ({reason})")


def _captions(path: Path) -> list[str]:
    try:
        texts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a readable list of captions ({error})") from error
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise CheckpointError(f"{path}: expected a list of captions")
    return texts
