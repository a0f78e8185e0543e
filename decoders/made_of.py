"""What is made of a matrix once and used for as long as the matrix stays as it is.

Knows: how to tell that a matrix has changed. Does NOT know what is made of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor

T = TypeVar("T")


class _Made(NamedTuple):
    matrix: Tensor
    version: int
    result: Any


class MadeOf(Generic[T]):
    """What a function makes of a matrix as it is now: made when first asked for, and anew when the matrix has changed.

    Threads may share one. A copy (`copy.deepcopy`) starts empty.

    Args:
        make: of a matrix that it may keep; None where nothing is to be gained.

    Example:
        >>> longest = MadeOf(lambda matrix: matrix.norm(dim=1).max())
        >>> longest.of(torch.tensor([[3.0, 4.0]]))
        tensor(5.)
    """

    def __init__(self, make: Callable[[Tensor], T | None]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: _Made | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> MadeOf[T]:
        """An empty one: what was made keeps the matrix alive that it was made of."""
        return MadeOf(self._make)

    def of(self, matrix: Tensor) -> T | None:
        """What was made of this matrix; None where nothing is to be gained.

        Args:
            matrix: a change in place is seen by torch's count of them, so not one through `.data`. Of tensors made in
                inference mode, which are not counted, nothing is made.
        """
        with self._lock:
            if matrix.is_inference():
                self._made = None
                return None
            made = self._made
            # It holds the matrix it was made of, so no other can have come to lie in its place.
            if (
                made is None
                or made.version != matrix._version
                or made.matrix.data_ptr() != matrix.data_ptr()
            ):
                held = matrix.detach()
                self._made = made = _Made(held, matrix._version, self._make(held))
            result: T | None = made.result
            return result
