"""Captions fall into few groups, and cells get the colour of theirs, pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from patchioner.base.errors import OptionError
from patchioner.drawing import colour_of
from patchioner.geometry import fit_image
from patchioner.patch_map import cluster_captions, draw_patch_map
from patchioner.regions import Box, Patch, Region

SENTENCES = st.lists(
    st.sampled_from(["cup", "a", "spoon", "table", "wood", "red"]), max_size=5
).map(" ".join)


def test_equal_captions_fall_together_whatever_case_and_stops() -> None:
    clusters = cluster_captions(["A cup.", "a table", "a cup", "a cup"])
    assert [(c.text, c.members, c.share) for c in clusters] == [
        ("a cup", (0, 2, 3), 0.75),
        ("a table", (1,), 0.25),
    ]


def test_hundreds_of_variants_are_merged_until_most_are_named() -> None:
    things = ["cat fur whiskers", "wooden table grain", "blue sky cloud"]
    texts = [f"{thing} {extra}" for thing in things for extra in map(str, range(100))]
    clusters = cluster_captions(texts, limit=3)
    assert [len(cluster.members) for cluster in clusters] == [100, 100, 100]
    for cluster in clusters:
        assert len({texts[member].split()[0] for member in cluster.members}) == 1


@settings(max_examples=80, deadline=None)
@given(texts=st.lists(SENTENCES, min_size=1, max_size=40), limit=st.integers(1, 6))
def test_every_caption_is_in_exactly_one_cluster(texts: list[str], limit: int) -> None:
    clusters = cluster_captions(texts, limit=limit)
    members = sorted(member for cluster in clusters for member in cluster.members)
    assert members == list(range(len(texts)))
    assert len([c for c in clusters if c.text]) <= limit
    assert all(c.members for c in clusters)
    assert clusters == cluster_captions(texts, limit=limit)


@dataclass(frozen=True)
class Said:
    """A caption."""

    region: Region
    text: str


def test_the_map_shows_each_caption_where_it_was_given() -> None:
    geometry = fit_image((800, 400), mode="stretch", size=56, patch_size=14)
    captions = [
        Said(patch, "a cup" if patch.col < 2 else "a table") for patch in Patch.all(geometry)
    ]
    picture = np.asarray(draw_patch_map(Image.new("RGB", (800, 400)), captions[:-1], geometry))
    left, right = picture[16 + 200, 16 + 200], picture[16 + 200, 16 + 600]
    np.testing.assert_allclose(left, np.array(colour_of(0)) / 2, atol=1)
    np.testing.assert_allclose(right, np.array(colour_of(1)) / 2, atol=1)
    assert picture[16 + 390, 16 + 790].max() == 0, "the patch without a caption stays as it was"
    assert (picture == colour_of(0)).all(axis=2).any(), "the legend shows the colour itself"


@pytest.mark.parametrize("region", [Box(0, 0, 9, 9), Patch(4, 0), Patch(0, 4)])
def test_other_regions_are_refused(region: Region) -> None:
    geometry = fit_image((80, 80), mode="stretch", size=56, patch_size=14)
    with pytest.raises(OptionError, match="4 x 4 grid"):
        draw_patch_map(Image.new("RGB", (80, 80)), [Said(region, "x")], geometry)
