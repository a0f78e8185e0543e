"""Banks on disk: bank.json, bank.safetensors (keys, norms, counts, with int8 keys scales), texts.jsonl; and indexes.

All name the sha256 of the whole, so that files of two banks are refused without reading the rows. An index finds a
query's nearest rows without looking at all of them, by FAISS, which reads files in trust: the sha256 in index.json
finds accidents, not malice. Take an index from whom you trust.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args, overload

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from memory_bank.projection import DTYPES
from patchioner.base.errors import CheckpointError, MemoryBankError, PatchionerError, UnknownNameError
from patchioner.base.files import AnyPath, atomic_path, check, file_sha256, read_json, recover_folder, write_json
from patchioner.base.optional import require
from patchioner.base.progress import progress
from patchioner.base.weights import write_tensors

if TYPE_CHECKING:
    from memory_bank.bank import MemoryBank

HEADER, ARRAYS, TEXTS = "bank.json", "bank.safetensors", "texts.jsonl"
_FORMAT = "patchioner-memory-bank"
_OLDEST, _VERSION = 1, 2  # 1 is what only float rows need; releases that know no int8 read it
_HASH_ROWS = 65536
IndexKind = Literal["flat", "ivf", "ivfsq"]
FaissIndex: TypeAlias = Any
INDEX_HEADER, INDEX_FILE = "index.json", "index.faiss"
_INDEX_FORMAT, _INDEX_VERSION = "patchioner-bank-index", 1
_INDEX_TYPES = {"flat": "IndexFlatIP", "ivf": "IndexIVFFlat", "ivfsq": "IndexIVFScalarQuantizer"}
_BLOCK = 16384
_TRAINING_ROWS_A_LIST = 64
_FEWEST_ROWS_A_LIST = 39  # below it FAISS finds clusters unreliable; many of one row are slow, too


class StoredTexts(Sequence[str]):
    """Texts of a file with one JSON string a line, each decoded and checked when asked for."""

    def __init__(self, path: Path) -> None:
        try:
            self._data = path.read_bytes()
        except OSError as error:
            raise MemoryBankError(f"{path}: cannot be read ({error.strerror})") from error
        if self._data and not self._data.endswith(b"\n"):
            raise MemoryBankError(f"{path}: truncated; fetch it again")
        self._path = path
        ends = np.flatnonzero(np.frombuffer(self._data, dtype=np.uint8) == ord("\n"))
        self._bounds = np.concatenate([[0], ends + 1])

    def sha256(self) -> str:
        """Of the file, in hexadecimal."""
        return hashlib.sha256(self._data).hexdigest()

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return tuple(self[row] for row in range(*index.indices(len(self))))
        row = range(len(self))[index]
        line = self._data[self._bounds[row] : self._bounds[row + 1]]
        try:
            text = json.loads(line)
        except ValueError as error:
            raise MemoryBankError(f"{self._path}: line {row + 1} is not JSON ({error})") from error
        if not isinstance(text, str):
            raise MemoryBankError(f"{self._path}: line {row + 1} is {text!r}, not a string")
        return text


def bank_folder(folder: AnyPath) -> Path:
    """The folder of a bank: the given one, or the one inside a checkpoint's."""
    root = Path(folder)
    recover_folder(root)
    inner = root / "memory_bank"
    return inner if inner.is_dir() and not (root / HEADER).exists() else root


def write_bank(root: Path, arrays: Mapping[str, Tensor], texts: Sequence[str] | None) -> str:
    """Write a bank into an empty folder; returns its fingerprint."""
    identity = fingerprint(arrays, texts)
    tensors = {name: tensor.contiguous() for name, tensor in arrays.items()}
    # One entry alone: safetensors writes several in an order of its own, and equal banks are equal files.
    write_tensors(tensors, root / ARRAYS, {"bank": identity})
    (rows, dim), version = arrays["keys"].shape, _VERSION if "scales" in arrays else _OLDEST
    header = {"format": _FORMAT, "version": version, "rows": rows, "dim": dim}
    header |= {"texts": texts is not None, "fingerprint": identity}
    if texts is not None:
        with (root / TEXTS).open("wb") as file:
            file.writelines(_text_lines(texts))
        header["texts_sha256"] = file_sha256(root / TEXTS)
    write_json(root / HEADER, header)
    return identity


def read_bank(root: Path, *, memory_map: bool) -> tuple[dict[str, Tensor], Sequence[str] | None, str]:
    """Read the arrays, texts and fingerprint of a bank; without `memory_map`, all of it, and check its sha256."""
    header = bank_header(root)
    identity = str(header["fingerprint"])
    arrays, named = _read_arrays(root / ARRAYS, header, memory_map)
    texts = StoredTexts(root / TEXTS) if header["texts"] else None
    if texts is not None and len(texts) != header["rows"]:
        raise MemoryBankError(f"{root}: {len(texts)} texts for {header['rows']} rows; fetch anew")
    # Banks of earlier releases say nothing in their files: those are read whole.
    if memory_map and named is not None and (texts is None or "texts_sha256" in header):
        sound = named == identity and (texts is None or texts.sha256() == header["texts_sha256"])
    else:
        sound = fingerprint(arrays, texts) == identity
    if not sound:
        raise MemoryBankError(f"{root}: contents differ from their sha256, or are not of one bank; fetch it again")
    return arrays, texts, identity


def fingerprint(arrays: Mapping[str, Tensor], texts: Sequence[str] | None) -> str:
    """The sha256 (hex) of a bank's arrays and texts."""
    digest = hashlib.sha256()
    for tensor in arrays.values():
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        for part in tensor.split(_HASH_ROWS):
            digest.update(part.cpu().contiguous().numpy().data)
    for line in () if texts is None else _text_lines(texts):
        digest.update(line)
    return digest.hexdigest()


def _text_lines(texts: Sequence[str]) -> Iterator[bytes]:
    # ASCII escapes: a lone surrogate, which UTF-8 cannot hold, must not fail a long run at its end.
    return ((json.dumps(text) + "\n").encode("ascii") for text in texts)


def read_header(path: Path, what: str, form: str, versions: Sequence[int], kinds: Mapping[str, type]) -> dict[str, Any]:
    """The JSON of a header, checked; `what` it is of, the `form` and versions that it must name, and its values."""
    try:
        header = read_json(path)
    except CheckpointError as error:
        raise MemoryBankError(f"not {what}: {error}") from error
    if not isinstance(header, dict) or header.get("format") != form:
        raise MemoryBankError(f"{path}: not the header of {what}")
    if (found := header.get("version")) not in versions:
        raise MemoryBankError(f"{path}: version {found!r}, this release reads {versions[0]} to {versions[-1]}; upgrade")
    for name, kind in kinds.items():
        if not isinstance(found := header.get(name), kind):
            raise MemoryBankError(f"{path}: {name} is {found!r}, expected {kind.__name__}; build or fetch it again")
    return header


def bank_header(root: Path) -> dict[str, Any]:
    """What a saved bank says of itself, checked; nothing else is read."""
    kinds = {"rows": int, "dim": int, "texts": bool, "fingerprint": str}
    return read_header(root / HEADER, "a memory bank", _FORMAT, (_OLDEST, _VERSION), kinds)


def _read_arrays(path: Path, header: dict[str, Any], memory_map: bool) -> tuple[dict[str, Tensor], str | None]:
    """The arrays, the keys as a view of the mapped file if `memory_map`, and the fingerprint that the file names."""
    try:
        with safe_open(path, framework="pt") as file:
            named = (file.metadata() or {}).get("bank")
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        names = ["norms", "counts"] + ["scales"] * (found["keys"].dtype == torch.int8)
        arrays = {"keys": found["keys"] if memory_map else found["keys"].clone()}
        arrays |= {name: found[name].clone() for name in names}
    except (OSError, KeyError, SafetensorError) as error:
        raise MemoryBankError(f"{path}: missing, truncated or foreign ({error}); fetch it again") from error
    dtypes = {"keys": tuple(DTYPES.values()), "counts": (torch.int64,)}
    for name, tensor in arrays.items():
        shape = (header["rows"], header["dim"]) if name == "keys" else (header["rows"],)
        kinds = dtypes.get(name, (torch.float32,))
        if tensor.shape != shape or tensor.dtype not in kinds:
            held = f"{name} is {tuple(tensor.shape)} {tensor.dtype}"
            raise MemoryBankError(f"{path}: {held}, not {shape} of {kinds}; fetch it again")
        if name != "keys" and not bool((torch.isfinite(tensor) & (tensor > 0)).all()):
            raise MemoryBankError(f"{path}: {name} that are not positive; fetch it again")
    return arrays, named


@dataclass(frozen=True)
class IndexOptions:
    """How an index is built and searched. None leaves a number to the size of the bank.

    Args:
        kind: "ivf" looks at the lists of rows nearest to the query; "ivfsq" too, in a quarter of the memory, eight bits
            a value; "flat" at every row, on a GPU that FAISS was built for (elsewhere the bank's own search is
            as fast, and taken).
        lists: of those with lists. None: four times the square root of the number of rows.
        probes: lists looked at per query; more find more. None: an eighth of them.
        seed: of the clustering into lists.

    Raises:
        UnknownNameError, OptionError: an unknown kind; a number below 1.
    """

    kind: IndexKind = "ivf"
    lists: int | None = None
    probes: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(IndexKind):
            raise UnknownNameError.among("kind of index", str(self.kind), get_args(IndexKind))
        check("int [1, inf) or None", self, "lists probes")

    @property
    def has_lists(self) -> bool:
        """Whether `lists` and `probes` play a part."""
        return self.kind != "flat"

    def lists_for(self, rows: int) -> int:
        """How many lists a bank of so many rows gets."""
        usual = min(int(4 * math.sqrt(rows)), rows // _FEWEST_ROWS_A_LIST)
        return min(self.lists or max(1, usual), rows)

    def probes_for(self, rows: int) -> int:
        """How many lists are looked at per query in a bank of so many rows."""
        lists = self.lists_for(rows)
        return min(self.probes or max(1, lists // 8), lists)


class BankIndex:
    """A FAISS index over the unit keys of a bank, opened when it is first searched. Threads may share one."""

    def __init__(self, options: IndexOptions, rows: int, dim: int, open_index: Callable[[], FaissIndex]) -> None:
        self.options, self.rows, self.dim = options, rows, dim
        self._open = open_index
        self._lock = Lock()
        self._indexes: dict[str, FaissIndex] = {}

    @classmethod
    def build(cls, bank: MemoryBank, options: IndexOptions) -> BankIndex:
        """Index the unit keys of a bank, block by block, on the CPU."""
        faiss = require("faiss", "faiss")
        rows, dim, lists = len(bank), bank.dim, options.lists_for(len(bank))
        factory = {"flat": "Flat", "ivf": f"IVF{lists},Flat", "ivfsq": f"IVF{lists},SQ8"}[options.kind]
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        if options.has_lists:
            index.cp.seed = options.seed
            index.cp.min_points_per_centroid = 1  # FAISS would write a warning to the terminal
            index.train(_training_rows(bank, options))
        for start in progress(range(0, rows, _BLOCK), description="indexing", unit="block"):
            index.add(bank.units(slice(start, start + _BLOCK)).cpu().numpy())
        return cls(options, rows, dim, lambda: index)

    def __deepcopy__(self, memo: dict[int, Any]) -> BankIndex:
        """Itself: it never changes, and FAISS's own objects cannot be copied."""
        return self

    def __repr__(self) -> str:
        return f"BankIndex({self.options.kind}, {self.rows:,} rows x {self.dim})"

    def faiss(self, device: torch.device | str = "cpu") -> FaissIndex:
        """The FAISS index, opened now at the latest; on a GPU where FAISS was built for one."""
        device = torch.device(device)
        with self._lock:
            if "cpu" not in self._indexes:
                self._indexes["cpu"] = self._open()
            name = str(device)
            if name not in self._indexes:
                self._indexes[name] = _on_device(self._indexes["cpu"], device)
            return self._indexes[name]

    def serves(self, device: torch.device) -> bool:
        """Whether searching it there is worth it: all rows are compared as fast without FAISS on a CPU."""
        return self.options.has_lists or _has_gpu(device)

    def search(self, units: Tensor, k: int) -> Tensor:
        """Candidates for the k nearest rows of (n, dim) float32 unit rows, k at most `rows`.

        (n, k) int64 row numbers on the device of `units`, in no order to rely on; -1 where fewer were found.
        """
        index = self.faiss(units.device)
        # Parameters of the call, not of the index: threads share it.
        parameters = None
        if self.options.has_lists:
            faiss = require("faiss", "faiss")
            parameters = faiss.SearchParametersIVF(nprobe=self.options.probes_for(self.rows))
        return torch.from_numpy(index.search(units.detach().cpu().numpy(), k, params=parameters)[1]).to(units.device)


def write_index(root: Path, index: BankIndex, bank: str) -> None:
    """Write an index into the folder of its bank, whose fingerprint is `bank`; the header last."""
    faiss = require("faiss", "faiss")
    opened = index.faiss()
    (root / INDEX_HEADER).unlink(missing_ok=True)
    with atomic_path(root / INDEX_FILE) as temporary:
        faiss.write_index(opened, str(temporary))
        digest = file_sha256(temporary)
    header = {"format": _INDEX_FORMAT, "version": _INDEX_VERSION, "bank": bank, "rows": index.rows, "dim": index.dim}
    write_json(root / INDEX_HEADER, header | {"sha256": digest, "options": asdict(index.options)})


def read_index(root: Path, bank: str, rows: int, dim: int) -> BankIndex:
    """The index beside the bank of this fingerprint; FAISS is not needed yet."""
    path = root / INDEX_HEADER
    kinds = {"bank": str, "rows": int, "dim": int, "sha256": str, "options": dict}
    header = read_header(path, "a bank's index", _INDEX_FORMAT, (_INDEX_VERSION,), kinds)
    if (header["bank"], header["rows"], header["dim"]) != (bank, rows, dim):
        raise MemoryBankError(f"{path}: an index of another bank; run `patchioner bank index` or delete it")
    try:
        options = IndexOptions(**header["options"])
    except (PatchionerError, TypeError) as error:
        raise MemoryBankError(f"{path}: {error}; run `patchioner bank index` or delete it") from error
    return BankIndex(options, rows, dim, partial(_read_faiss, root / INDEX_FILE, header["sha256"], options, rows, dim))


def _training_rows(bank: MemoryBank, options: IndexOptions) -> Any:
    """Rows for the clustering, drawn by the seed: all of a large bank would take its memory again."""
    wanted = max(_TRAINING_ROWS_A_LIST * options.lists_for(len(bank)), _BLOCK)
    order = torch.randperm(len(bank), generator=torch.Generator().manual_seed(options.seed))
    return bank.units(order[:wanted].sort().values.to(bank.device)).cpu().numpy()


def _has_gpu(device: torch.device) -> bool:
    return device.type == "cuda" and hasattr(require("faiss", "faiss"), "StandardGpuResources")


def _on_device(index: FaissIndex, device: torch.device) -> FaissIndex:
    if not _has_gpu(device):
        return index
    faiss = require("faiss", "faiss")
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), device.index or 0, index)
    except RuntimeError as error:
        raise MemoryBankError(f"FAISS cannot put the index on {device} ({error})") from error


def _read_faiss(path: Path, sha256: str, options: IndexOptions, rows: int, dim: int) -> FaissIndex:
    faiss = require("faiss", "faiss")
    try:
        if file_sha256(path) != sha256:
            raise RuntimeError("contents differ from their sha256")
        index = faiss.read_index(str(path))
        found = (type(index).__name__, index.ntotal, index.d, index.metric_type)
        if found != (_INDEX_TYPES[options.kind], rows, dim, faiss.METRIC_INNER_PRODUCT):
            raise RuntimeError(f"holds {found}, not {rows} rows x {dim} of {options.kind!r}")
    except (OSError, RuntimeError, MemoryError) as error:
        raise MemoryBankError(f"{path}: cannot be read ({error}); build it again") from error
    return index
