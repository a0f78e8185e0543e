"""COCO's run-length encoding of masks. Knows both spellings; does NOT know regions or files.

Runs alternate outside, inside, outside, ... down the columns of the mask (column-major).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import RegionError
from patchioner.regions.values import as_numpy, items_of

# 2**28 pixels: more than any photo, and a bound on what a forged size can make us allocate.
_MOST_PIXELS = 1 << 28


def decode_rle(rle: Mapping[str, object]) -> npt.NDArray[np.bool_]:
    """Decode ``{"size": [height, width], "counts": ...}`` to a (height, width) bool mask.

    ``counts`` is a list of run lengths (uncompressed; plain numpy) or a string (compressed).

    Raises:
        RegionError: not an RLE, or the runs do not fill the mask exactly.

    Example:
        >>> decode_rle({"size": [2, 2], "counts": [1, 2, 1]})
        array([[False,  True],
               [ True, False]])
    """
    if not isinstance(rle, Mapping) or "size" not in rle or "counts" not in rle:
        raise RegionError(f"{rle!r:.80} is no RLE; give {{'size': [height, width], 'counts': ...}}")
    height, width = _size(rle["size"])
    counts = rle["counts"]
    if isinstance(counts, str):
        counts = counts.encode("ascii", errors="replace")
    if isinstance(counts, bytes):
        # Not through pycocotools: it hands back uninitialised memory when runs are missing.
        counts = _runs_of_string(counts)
    return _decode_runs(counts, height, width)


def encode_rle(mask: npt.NDArray[np.bool_]) -> dict[str, list[int]]:
    """The uncompressed run lengths of a (height, width) mask: what `decode_rle` reads, ready for JSON.

    Example:
        >>> encode_rle(np.array([[False, True], [True, False]]))
        {'size': [2, 2], 'counts': [1, 2, 1]}
    """
    flat = np.asarray(mask, dtype=bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def _size(size: object) -> tuple[int, int]:
    sides = items_of(size, "size of the RLE")
    whole = [int(side) for side in sides if isinstance(side, (int, np.integer))]
    if len(sides) != 2 or len(whole) != 2 or min(whole) < 1:
        raise RegionError(f"size of the RLE is {size!r}; give two positive integers, height, width")
    height, width = whole
    if height * width > _MOST_PIXELS:
        raise RegionError(f"size of the RLE is {size!r}: over {_MOST_PIXELS} pixels")
    return height, width


def _decode_runs(counts: object, height: int, width: int) -> npt.NDArray[np.bool_]:
    runs = as_numpy(counts)
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or np.min(runs, initial=0) < 0:
        raise RegionError("counts of the RLE must be a list of non-negative integers or a string")
    # Python's integers: an int64 sum of forged runs could wrap around to the right total.
    total = sum(int(run) for run in runs)
    if total != height * width:
        raise RegionError(
            f"the RLE's runs sum to {total}, not to height x width = {height * width}; "
            "is its size [height, width]?"
        )
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs.astype(np.int64)).reshape((height, width), order="F")


def _runs_of_string(counts: bytes) -> list[int]:
    """Run lengths of a compressed string.

    Source: the format of the COCO API. Each number is written in groups of 5 bits, lowest first,
    as characters from "0" on; bit 6 says that more follow, the top bit of the last group is the
    sign. From the fourth number on it is the difference to the run two before.
    """
    runs: list[int] = []
    value = shift = 0
    for byte in counts:
        group = byte - 48
        if not 0 <= group < 64 or shift > 60:
            raise RegionError(f"the compressed RLE {counts!r:.60} is broken: not COCO's alphabet")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise RegionError(f"the compressed RLE {counts!r:.60} ends in the middle of a number")
    return runs
