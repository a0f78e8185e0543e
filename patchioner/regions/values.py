"""Turning what callers pass as coordinates into plain finite floats, or into an error.

Knows: numbers and lists of points. Does NOT know regions, images or grids.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import RegionError

XY = tuple[float, float]


def finite(value: object, what: str) -> float:
    """``value`` as a float; RegionError naming ``what`` when it is no finite number."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise RegionError(f"{what} is {value!r}; give a finite number of pixels") from None
    if not math.isfinite(number):
        raise RegionError(f"{what} is {number}; give a finite number of pixels")
    return number


def numbers(values: object, count: int, what: str) -> list[float]:
    """Exactly ``count`` finite floats out of any sequence."""
    items = items_of(values, what)
    if len(items) != count:
        raise RegionError(f"{what} has {len(items)} numbers, {values!r}; give {count}")
    return [finite(item, what) for item in items]


def items_of(values: object, what: str) -> list[object]:
    """The items of a sequence or array; RegionError for a string or a single value."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise RegionError(f"{what} is {values!r}; give a list")
    return list(values)


def points(values: object, what: str) -> tuple[XY, ...]:
    """A sequence of (x, y) pairs as a tuple of float pairs."""
    pairs = []
    for index, item in enumerate(items_of(values, what)):
        x, y = numbers(item, 2, f"point {index} of the {what}")
        pairs.append((x, y))
    return tuple(pairs)


def as_array(pairs: Iterable[XY]) -> npt.NDArray[np.float64]:
    """(n, 2) float64 array of float pairs."""
    return np.fromiter(chain.from_iterable(pairs), dtype=np.float64).reshape(-1, 2)


def as_numpy(values: object) -> npt.NDArray[np.generic]:
    """An array of anything array-like; a torch tensor may sit on any device or want gradients."""
    detach = getattr(values, "detach", None)
    if detach is not None:
        values = detach().cpu().numpy()
    try:
        return np.asarray(values)
    except ValueError:
        raise RegionError("the array is ragged: give rows of one length") from None


def shorten(pairs: Iterable[XY], keep: int = 3) -> str:
    """The first points as text, so that an error about 1,000 points stays readable."""
    listed = list(pairs)
    shown = ", ".join(f"({x:g}, {y:g})" for x, y in listed[:keep])
    return shown + (f", ... {len(listed) - keep} more" if len(listed) > keep else "")
