"""The tree of segments, against a plain twin that tries every pair at every step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from patchioner.detail.divide.merging import merge_tree


def plain_order(vectors: npt.NDArray[np.float64]) -> list[frozenset[int]]:
    """The unions in order, each as its set of cells: every pair of touching groups is costed anew."""
    rows, columns, _ = vectors.shape
    flat = vectors.reshape(rows * columns, -1)
    groups = [frozenset([cell]) for cell in range(rows * columns)]
    made: list[frozenset[int]] = []
    while len(groups) > 1:
        _, one, two = min(
            (ward(flat, one, two), place, other)
            for place, one in enumerate(groups)
            for other, two in enumerate(groups)
            if place < other and touch(one, two, columns)
        )
        union = groups[one] | groups[two]
        groups = [group for group in groups if not group <= union] + [union]
        made.append(union)
    return made


def ward(flat: npt.NDArray[np.float64], one: frozenset[int], two: frozenset[int]) -> float:
    def spread(cells: frozenset[int]) -> float:
        values = flat[sorted(cells)]
        return float(((values - values.mean(axis=0)) ** 2).sum())

    return spread(one | two) - spread(one) - spread(two)


def touch(one: frozenset[int], two: frozenset[int], columns: int) -> bool:
    return any(
        abs(a // columns - b // columns) + abs(a % columns - b % columns) == 1
        for a in one
        for b in two
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_tree_is_that_of_the_plain_twin(seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(4, 5, 3))
    tree = merge_tree(vectors)
    unions = [
        frozenset(np.flatnonzero(tree.cells(node).ravel()).tolist()) for node in range(20, 39)
    ]
    assert unions == plain_order(vectors)


def test_heights_rise_to_the_root_and_sizes_add_up() -> None:
    tree = merge_tree(np.random.default_rng(0).normal(size=(6, 7, 4)))
    for node in range(len(tree.parent) - 1):
        assert tree.parent[node] > node
        assert tree.height[tree.parent[node]] >= tree.height[node]
        assert tree.size[node] == tree.cells(node).sum()
    assert tree.parent[-1] == -1
    assert tree.size[-1] == 42


def test_one_cell_is_a_tree() -> None:
    tree = merge_tree(np.zeros((1, 1, 3)))
    assert tree.cells(0).all()
    assert len(tree.children) == 0


def test_equal_vectors_give_a_tree_all_the_same() -> None:
    tree = merge_tree(np.ones((3, 4, 2)))
    assert not tree.height.any()
    assert tree.cells(22).all()
