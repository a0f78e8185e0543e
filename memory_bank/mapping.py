"""Arrays of a safetensors file, mapped into memory by ourselves: what was read can be let go again.

Knows the layout of such a file (eight bytes of length, a JSON header, the arrays), and how the system is told that
pages are no longer needed. Does NOT know what the arrays are for.
"""

from __future__ import annotations

import json
import math
import mmap
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from patchioner.base.errors import MemoryBankError

_DTYPES = MappingProxyType(
    {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U8": torch.uint8,
        "BOOL": torch.bool,
    }
)
_RUN_BYTES = 16 * 2**20
# Smaller matrices are left where they are: they are read faster the next time.
_KEPT_BYTES = 512 * 2**20


class MappedRows:
    """A matrix that is a view of a mapped file, of which rows can leave memory until they are read again.

    Threads may share one: rows that one lets go while another reads them come back from the file. What a caller wrote
    into the matrix against its contract may go with them. A pickle or a deep copy of it is None, because the
    matrix then lies in memory of its own.

    Attributes:
        rows: (N, dim), the matrix.

    Args:
        rows: see above.
        mapping: of the whole file.
        offset: bytes of the file before the first row.
    """

    def __init__(self, rows: Tensor, mapping: mmap.mmap, offset: int) -> None:
        self.rows = rows
        self._mapping = mapping
        self._offset = offset

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()

    def release(self, start: int, stop: int) -> None:
        """Let go of the whole pages of rows `start` to `stop`; does nothing but on Linux.

        Elsewhere the same advice means something else, or nothing.

        Example:
            >>> mapped.release(0, len(mapped.rows))  # doctest: +SKIP
        """
        if sys.platform != "linux":
            return
        row = self.rows.shape[1] * self.rows.element_size()
        first = -(-(self._offset + start * row) // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (self._offset + stop * row) // mmap.PAGESIZE * mmap.PAGESIZE
        if first < last:
            self._mapping.madvise(mmap.MADV_DONTNEED, first, last - first)

    def passing(self, slices: Iterable[slice]) -> Iterator[slice]:
        """Yield slices of rows, each beginning where the one before ended, and release those that have been used.

        A matrix below half a GiB stays: it is read faster the next time.

        Example:
            >>> for rows in mapped.passing([slice(0, 512), slice(512, 1024)]):  # doctest: +SKIP
            ...     use(mapped.rows[rows])
        """
        row = self.rows.shape[1] * self.rows.element_size()
        if row * len(self.rows) < _KEPT_BYTES:
            yield from slices
            return
        start = stop = 0
        for rows in slices:
            yield rows
            stop = rows.stop
            # In long runs: the system reads some way ahead, and each call costs.
            if (stop - start) * row >= _RUN_BYTES:
                self.release(start, stop)
                start = stop
        self.release(start, stop)


@dataclass(frozen=True)
class _Place:
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class MappedFile:
    """A safetensors file, mapped; closed when the last array of it is gone.

    Args:
        path: the file.

    Raises:
        MemoryBankError: it is missing, truncated or no such file.

    Example:
        >>> MappedFile(Path("bank.safetensors")).rows("keys").rows.shape  # doctest: +SKIP
        torch.Size([591753, 768])
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                # Private and never written to. Read-only pages would let a stray write end the process.
                self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            self._places = _read_places(self._mapping)
        except (OSError, ValueError, RecursionError) as error:
            raise self._broken(str(error)) from error

    def read(self, name: str) -> Tensor:
        """Return an array in memory of its own.

        Raises:
            MemoryBankError: the file has none of this name.
        """
        place = self._place(name)
        if place.start == place.stop:
            return torch.empty(place.shape, dtype=place.dtype)
        # By bytes: nothing says that they begin where the type would have them.
        data = bytearray(self._mapping[place.start : place.stop])
        return torch.frombuffer(data, dtype=place.dtype).view(place.shape)

    def rows(self, name: str) -> MappedRows | None:
        """Return an array that stays in the file; None where it is no matrix, is empty or lies askew: `read` it.

        Raises:
            MemoryBankError: the file has none of this name.
        """
        place = self._place(name)
        size = place.stop - place.start
        if len(place.shape) != 2 or size == 0 or place.start % place.dtype.itemsize:
            return None
        matrix = torch.frombuffer(
            self._mapping, dtype=place.dtype, count=math.prod(place.shape), offset=place.start
        )
        return MappedRows(matrix.view(place.shape), self._mapping, place.start)

    def _place(self, name: str) -> _Place:
        if name not in self._places:
            raise self._broken(f"no array {name!r}")
        return self._places[name]

    def _broken(self, why: str) -> MemoryBankError:
        return MemoryBankError(
            f"{self._path}: missing, truncated or foreign ({why}); fetch it again"
        )


def _read_places(data: mmap.mmap) -> dict[str, _Place]:
    """Read where each array lies, from the beginning of the file; a ValueError says what is wrong."""
    begin = 8 + int.from_bytes(data[:8], "little")
    if not 8 < begin <= len(data):
        raise ValueError(f"a header of {begin - 8} bytes in a file of {len(data)}")
    header = json.loads(data[8:begin].decode("utf-8"))
    if not isinstance(header, dict):
        raise ValueError("its header is no table")
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    places = {name: _read_place(name, entry, begin, len(data)) for name, entry in entries.items()}
    end = max((place.stop for place in places.values()), default=begin)
    if end != len(data):
        raise ValueError(f"arrays up to byte {end} in a file of {len(data)}")
    return places


def _read_place(name: str, entry: object, begin: int, size: int) -> _Place:
    found = entry if isinstance(entry, dict) else {}
    dtype = _DTYPES.get(str(found.get("dtype")))
    shape, offsets = _whole(found.get("shape")), _whole(found.get("data_offsets"))
    if dtype is None or shape is None or offsets is None or len(offsets) != 2:
        raise ValueError(f"its header has {entry!r} for {name!r}")
    start, stop = (begin + offset for offset in offsets)
    if stop > size or stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name!r} does not fit in bytes {start} to {stop} of {size}")
    return _Place(dtype, shape, start, stop)


def _whole(value: object) -> tuple[int, ...] | None:
    """The value, if it is a list of numbers from 0."""
    sound = isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)
    return tuple(value) if sound and isinstance(value, list) else None
