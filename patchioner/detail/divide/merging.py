"""A tree of connected segments: neighbouring patches that look most alike are merged, one pair after another.

Knows: a grid of vectors. Does not know: what they mean, photos, pixels.

Ward's criterion restricted to neighbours on the grid (Ward 1963): the two whose union adds least to the sum of squared
distances from the mean go first. Every node is connected by construction, and nothing is drawn at random.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.floating]
Cells = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class MergeTree:
    """Nodes 0 .. n-1 are the cells of the grid, row by row; n .. 2n-2 the unions in the order in which they came.

    Attributes:
        grid: (rows, columns).
        children: (n-1, 2) int, the two nodes that each union was made of.
        parent: (2n-1,) int, the union that took a node up; -1 of the root.
        size: (2n-1,) int, cells in a node.
        height: (2n-1,) float, what the union cost, never less than that of its children; 0 of a cell.
    """

    grid: tuple[int, int]
    children: npt.NDArray[np.int64]
    parent: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    height: npt.NDArray[np.float64]

    def cells(self, node: int) -> Cells:
        """(rows, columns) bool, where a node lies."""
        count = self.grid[0] * self.grid[1]
        inside = np.zeros(count, dtype=np.bool_)
        waiting = [node]
        while waiting:
            current = waiting.pop()
            if current < count:
                inside[current] = True
            else:
                waiting.extend(self.children[current - count].tolist())
        return inside.reshape(self.grid)


def merge_tree(vectors: Vectors) -> MergeTree:
    """Merge neighbouring cells, left and right, above and below, until one is left.

    Args:
        vectors: (rows, columns, dim), finite, at least one cell.

    Returns:
        The tree. Equal costs are settled by the lower numbers, so that the same vectors give the same tree.

    Example:
        >>> tree = merge_tree(np.array([[[0.0], [0.1], [5.0], [5.1]]]))
        >>> tree.cells(4).tolist(), tree.cells(5).tolist()
        ([[True, True, False, False]], [[False, False, True, True]])
    """
    rows, columns, dim = vectors.shape
    count = rows * columns
    total = 2 * count - 1
    means = np.zeros((total, dim), dtype=np.float64)
    means[:count] = vectors.reshape(count, dim)
    size = np.ones(total, dtype=np.int64)
    height = np.zeros(total, dtype=np.float64)
    parent = np.full(total, -1, dtype=np.int64)
    children = np.zeros((count - 1, 2), dtype=np.int64)
    around = _neighbours(rows, columns)
    waiting = [
        (cost, node, other)
        for node in range(count)
        for other, cost in _costs(means, size, node, sorted(n for n in around[node] if n > node))
    ]
    heapq.heapify(waiting)
    for made in range(count, total):
        cost, one, two = heapq.heappop(waiting)
        while one not in around or two not in around:  # taken up by another union meanwhile
            cost, one, two = heapq.heappop(waiting)
        size[made] = size[one] + size[two]
        means[made] = (means[one] * size[one] + means[two] * size[two]) / size[made]
        height[made] = max(cost, height[one], height[two])
        children[made - count] = one, two
        parent[[one, two]] = made
        _join(around, one, two, made)
        for other, new in _costs(means, size, made, sorted(around[made])):
            heapq.heappush(waiting, (new, other, made))
    return MergeTree((rows, columns), children, parent, size, height)


def _neighbours(rows: int, columns: int) -> dict[int, set[int]]:
    number = np.arange(rows * columns).reshape(rows, columns)
    around: dict[int, set[int]] = {node: set() for node in range(rows * columns)}
    beside = zip(number[:, :-1].ravel().tolist(), number[:, 1:].ravel().tolist(), strict=True)
    below = zip(number[:-1].ravel().tolist(), number[1:].ravel().tolist(), strict=True)
    for one, two in [*beside, *below]:
        around[one].add(two)
        around[two].add(one)
    return around


def _join(around: dict[int, set[int]], one: int, two: int, made: int) -> None:
    touched = (around.pop(one) | around.pop(two)) - {one, two}
    around[made] = touched
    for other in touched:
        around[other] -= {one, two}
        around[other].add(made)


def _costs(
    means: npt.NDArray[np.float64], size: npt.NDArray[np.int64], node: int, others: list[int]
) -> list[tuple[int, float]]:
    """What each union would add to the sum of squared distances from the mean."""
    if not others:
        return []
    apart = means[others] - means[node]
    squared = np.einsum("ij,ij->i", apart, apart)
    weight = size[others] * size[node] / (size[others] + size[node])
    return list(zip(others, (weight * squared).tolist(), strict=True))
