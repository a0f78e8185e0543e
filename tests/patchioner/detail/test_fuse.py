"""The greedy fuser: whole sentences, each once, in order, within the budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from patchioner.base.errors import DetailError, OptionError
from patchioner.detail.fuse import FuseSettings, GreedyFuser, finished
from patchioner.detail.text import similarity_matrix
from patchioner.detail.values import Claim, DetailRegion, Photo, Support, Verdict

PHOTO = Photo("p", Image.new("RGB", (100, 100)), "")
REGIONS = (
    DetailRegion("spatial-2", "spatial", (50, 0, 100, 50)),
    DetailRegion("spatial-1", "spatial", (0, 0, 50, 50)),
    DetailRegion("semantic-1", "semantic", (20, 60, 50, 90)),
    DetailRegion("global", "global", (0, 0, 100, 100)),
)
TEXTS = (
    "a dog on a couch",
    "a black dog on a couch",
    "a red kite",
    "two boats near a bridge",
    "a dog",
)


def verdict(
    number: int, text: str, region: str = "global", agreement: int = 2, score: float = 0.5
) -> Verdict:
    return Verdict(
        Claim(f"c{number}", text, region, 0, 0), True, agreement, (region,), Support(score)
    )


def fuse(*kept: Verdict, **settings: float) -> tuple[list[str], dict[str, str | None]]:
    fuser = GreedyFuser(FuseSettings(**settings))  # type: ignore[arg-type]
    sentences, left_out = fuser.fuse(PHOTO, REGIONS, kept)
    assert not any(one.kept for one in left_out)
    return [one.text for one in sentences], {one.claim.id: one.reason for one in left_out}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(TEXTS),
            st.sampled_from([region.id for region in REGIONS]),
            st.integers(1, 5),
            st.floats(0, 1),
        ),
        max_size=8,
    ),
    st.integers(1, 20),
)
def test_what_holds_of_every_paragraph(said: list[tuple[str, str, int, float]], words: int) -> None:
    kept = [verdict(number, *one) for number, one in enumerate(said)]
    fuser = GreedyFuser(FuseSettings(max_words=words))
    sentences, left_out = fuser.fuse(PHOTO, REGIONS, kept)
    texts = [sentence.text for sentence in sentences]
    assert sum(len(text.split()) for text in texts) <= words
    assert set(texts) <= {finished(one[0]) for one in said}  # nothing is rewritten
    told = [name for sentence in sentences for name in sentence.claim_ids]
    assert sorted([*told, *(one.claim.id for one in left_out)]) == sorted(
        one.claim.id for one in kept
    )
    alike = similarity_matrix(texts)
    assert all(alike[i, j] < 0.5 for i in range(len(texts)) for j in range(i))
    assert fuser.fuse(PHOTO, REGIONS, kept)[0] == sentences


def test_the_order_is_the_whole_then_things_then_places() -> None:
    names = ("spatial-2", "spatial-1", "semantic-1", "global")
    texts = ("a kite", "a boat", "a dog", "a crowd")
    kept = [verdict(n, text, name) for n, (text, name) in enumerate(zip(texts, names, strict=True))]
    assert fuse(*kept)[0] == ["A crowd.", "A dog.", "A boat.", "A kite."]


def test_most_agreed_is_taken_first_and_speaks_for_the_same() -> None:
    kept = [verdict(1, "a black dog on a couch"), verdict(2, "a dog on a couch", agreement=4)]
    sentences, left_out = GreedyFuser().fuse(PHOTO, REGIONS, kept)
    (one,) = sentences
    assert (one.text, one.claim_ids, one.agreement) == ("A dog on a couch.", ("c2", "c1"), 4)
    assert left_out == []


def test_what_names_nothing_new_or_does_not_fit_is_left_out_with_the_reason() -> None:
    kept = [
        verdict(1, "a dog chases a red kite", agreement=4),
        verdict(2, "an old wet brown shaggy dog", agreement=3),
        verdict(3, "a boat under a large stone bridge on a river"),
    ]
    assert fuse(*kept, max_words=10) == (
        ["A dog chases a red kite."], {"c2": "duplicate", "c3": "length"}
    )  # fmt: skip


def test_bad_input_is_refused() -> None:
    with pytest.raises(DetailError, match="nowhere"):
        fuse(verdict(1, "a dog", "nowhere"))
    for name in ("max_words", "duplicate", "new_share"):
        with pytest.raises(OptionError, match=name):
            FuseSettings(**{name: -1})
    assert fuse() == ([], {})
