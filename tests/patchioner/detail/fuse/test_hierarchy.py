"""The tree of regions, and folding in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from patchioner.detail.fuse.drafts import Draft
from patchioner.detail.fuse.hierarchy import Node, box_iou, fold_tree, region_tree
from patchioner.detail.fuse.ordering import in_order, reading_order
from patchioner.detail.fuse.settings import FuseSettings
from patchioner.detail.values import Claim, DetailRegion, Verdict

SIDES = st.tuples(*[st.integers(0, 12)] * 4).map(
    lambda at: (min(at[0], at[2]), min(at[1], at[3]), max(at[0], at[2]) + 1, max(at[1], at[3]) + 1)
)


def leaves(node: Node) -> list[str]:
    return (
        list(node.region_ids)
        if not node.children
        else [one for child in node.children for one in leaves(child)]
    )


@given(st.lists(SIDES, min_size=1, max_size=7), st.sampled_from([0.0, 0.2, 0.4, 0.9]))
def test_groups_are_what_a_slow_closure_finds(
    boxes: list[tuple[int, int, int, int]], iou: float
) -> None:
    parts = [DetailRegion(f"r{place}", "spatial", box) for place, box in enumerate(boxes)]
    tree = region_tree(parts, iou)
    assert sorted(leaves(tree)) == sorted(part.id for part in parts)
    reach = {part.id: {part.id} for part in parts}
    for _ in parts:
        for one in parts:
            for other in parts:
                if box_iou(one.box, other.box) > iou:
                    reach[one.id] |= reach[other.id]
                    reach[other.id] |= reach[one.id]
    assert {frozenset(child.region_ids) for child in tree.children} == {
        frozenset(found) for found in reach.values()
    }


def test_the_global_region_stays_alone() -> None:
    parts = [
        DetailRegion("global", "global", (0, 0, 9, 9)),
        DetailRegion("a", "user", (0, 0, 9, 9)),
    ]
    assert [child.region_ids for child in region_tree(parts, 0.4).children] == [("global",), ("a",)]


def draft(name: str, text: str, region: DetailRegion, sample: int = 0) -> Draft:
    return Draft(text, Verdict(Claim(name, text, region.id, sample, 0), True), region)


def test_the_same_is_folded_and_its_sources_kept() -> None:
    left = DetailRegion("left", "spatial", (0, 0, 60, 99))
    right = DetailRegion("right", "spatial", (50, 0, 99, 99))
    drafts = [
        draft("c1", "A red bus waits.", left),
        draft("c2", "The bus is red and waits.", left, 1),
        draft("c3", "A brown dog sleeps.", right),
    ]
    kept = fold_tree(drafts, region_tree([left, right], 0.4), FuseSettings())
    assert [one.verdict.claim.id for one in kept] == ["c2", "c3"]
    assert kept[0].sentence().claim_ids == ("c2", "c1")
    assert kept[0].voices == 2


def test_regions_apart_must_be_more_alike() -> None:
    left = DetailRegion("left", "spatial", (0, 0, 50, 99))
    right = DetailRegion("right", "spatial", (50, 0, 99, 99))
    drafts = [
        draft("c1", "A small brown dog sleeps.", left),
        draft("c2", "A brown dog runs.", right),
    ]
    settings = FuseSettings(duplicate=0.3, duplicate_apart=1.0)
    assert len(fold_tree(drafts, region_tree([left, right], 0.4), settings)) == 2
    assert (
        len(fold_tree(drafts, region_tree([left, right], 0.4), FuseSettings(duplicate_apart=0.3)))
        == 1
    )


def test_order_is_global_then_things_then_reading_order() -> None:
    parts = [
        DetailRegion("low", "spatial", (0, 60, 40, 99)),
        DetailRegion("right", "spatial", (50, 2, 99, 50)),
        DetailRegion("left", "spatial", (0, 0, 50, 50)),
        DetailRegion("thing", "semantic", (60, 60, 99, 99)),
        DetailRegion("global", "global", (0, 0, 99, 99)),
    ]
    assert [part.id for part in reading_order(parts, (99, 99))] == [
        "global",
        "thing",
        "left",
        "right",
        "low",
    ]
    drafts = [draft(f"c{place}", "A dog.", part) for place, part in enumerate(parts)]
    assert [one.region.id for one in in_order(drafts, parts, (99, 99))] == [
        "global",
        "thing",
        "left",
        "right",
        "low",
    ]
