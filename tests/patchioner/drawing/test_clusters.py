"""Captions fall into few groups, each in exactly one."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from patchioner.drawing.clusters import _content, _overlaps, cluster_captions

SENTENCES = st.lists(
    st.sampled_from(["cup", "a", "spoon", "table", "wood", "red"]), max_size=5
).map(" ".join)


def test_equal_captions_fall_together_whatever_case_and_stops() -> None:
    clusters = cluster_captions(["A cup.", "a table", "a cup", "a cup"])
    assert [(c.text, c.members, c.share) for c in clusters] == [
        ("a cup", (0, 2, 3), 0.75),
        ("a table", (1,), 0.25),
    ]


def test_few_captions_are_not_merged_by_likeness() -> None:
    texts = ["a cup of coffee on a table", "a cup of tea on a table"] * 3
    assert len(cluster_captions(texts)) == 2


def test_hundreds_of_variants_are_merged_until_most_are_named() -> None:
    things = ["cat fur whiskers", "wooden table grain", "blue sky cloud"]
    texts = [f"{thing} {extra}" for thing in things for extra in map(str, range(100))]
    clusters = cluster_captions(texts, limit=3)
    assert [len(cluster.members) for cluster in clusters] == [100, 100, 100]
    for cluster in clusters:
        assert len({texts[member].split()[0] for member in cluster.members}) == 1


def test_what_fits_nowhere_is_the_rest() -> None:
    texts = ["a cup"] * 5 + ["a table"] * 3 + ["one", "two", "three"]
    clusters = cluster_captions(texts, limit=2)
    assert [(c.text, len(c.members)) for c in clusters] == [("a cup", 5), ("a table", 3), ("", 3)]


def test_no_captions_no_clusters_and_empty_captions_are_no_error() -> None:
    assert cluster_captions([]) == []
    assert sum(c.share for c in cluster_captions(["", "a cup", ""])) == 1.0


@settings(max_examples=80, deadline=None)
@given(texts=st.lists(SENTENCES, min_size=1, max_size=40), limit=st.integers(1, 6))
def test_every_caption_is_in_exactly_one_cluster(texts: list[str], limit: int) -> None:
    clusters = cluster_captions(texts, limit=limit)
    members = sorted(member for cluster in clusters for member in cluster.members)
    assert members == list(range(len(texts)))
    assert len([c for c in clusters if c.text]) <= limit
    assert all(c.members for c in clusters)
    assert clusters == cluster_captions(texts, limit=limit)


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(SENTENCES, min_size=1, max_size=12, unique=True))
def test_overlap_is_the_jaccard_index_of_the_words(texts: list[str]) -> None:
    matrix = _overlaps(texts)
    for i, one in enumerate(texts):
        for j, two in enumerate(texts):
            a, b = _content(one), _content(two)
            plain = 1.0 if i == j else len(a & b) / len(a | b) if a | b else 0.0
            np.testing.assert_allclose(matrix[i, j], plain)
