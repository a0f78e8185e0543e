"""Fusion without a language model."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchioner.base.errors import DetailError, OptionError
from patchioner.detail.fuse import DeterministicFuser, FuseSettings, without_source
from patchioner.detail.fuse.budget import chosen, concepts, worths
from patchioner.detail.fuse.deterministic import count_words
from patchioner.detail.fuse.drafting import drafts_of
from patchioner.detail.values import Claim, DetailRegion, Verdict

SIZE = (100, 100)
NAMES = ("global", "semantic-1", "spatial-1", "spatial-2", "spatial-3", "spatial-4")
TEXTS = (
    "A woman sits on a bench", "She wears a red hat.", "a dog on a couch", "two cats", "On the left, a bus waits.",
    "It is blue.", "The image shows a tree.", "There is a tree in the background.", "The bus is parked on the street.",
    "A tall tree stands near the street.", "They are sleeping.", "Its roof is white.", "A red hat", "a umbrella",
)  # fmt: skip
BOXES = (
    (0, 0, 100, 100),
    (30, 30, 70, 70),
    (0, 0, 50, 50),
    (50, 0, 100, 50),
    (0, 50, 50, 100),
    (50, 50, 100, 100),
)
KINDS = ("global", "semantic", "spatial", "spatial", "spatial", "spatial")
REGIONS = tuple(DetailRegion(*part) for part in zip(NAMES, KINDS, BOXES, strict=True))  # type: ignore[arg-type]
SAID = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.integers(0, 2),
        st.lists(st.sampled_from(TEXTS), min_size=1, max_size=4),
    ),
    max_size=7,
)


def verdicts(said: list[tuple[str, int, list[str]]]) -> list[Verdict]:
    found: list[Verdict] = []
    seen: set[tuple[str, int]] = set()
    for region_id, sample, texts in said:
        if (region_id, sample) in seen:
            continue
        seen.add((region_id, sample))
        for place, text in enumerate(texts):
            found.append(Verdict(Claim(f"c{len(found) + 1}", text, region_id, sample, place), True))
    return found


@settings(max_examples=60, deadline=None)
@given(SAID, st.sampled_from([1, 5, 9, 14, 30, 200]))
def test_what_holds_of_every_paragraph(said: list[tuple[str, int, list[str]]], words: int) -> None:
    kept = verdicts(said)
    fuser = DeterministicFuser(FuseSettings(max_words=words))
    sentences, left_out = fuser.fuse_sized(SIZE, REGIONS, kept)
    assert (sentences, left_out) == fuser.fuse_sized(SIZE, REGIONS, kept)
    assert count_words(sentences) <= words
    assert without_source(sentences, {one.claim.id: one.claim for one in kept}) == {}
    texts = [one.text for one in sentences]
    assert len(set(texts)) == len(texts)
    told = {name for one in sentences for name in one.claim_ids}
    lost = {one.claim.id for one in left_out}
    assert told | lost == {one.claim.id for one in kept}
    assert all(not one.kept and one.reason and one.note for one in left_out)


def fused(
    said: list[tuple[str, int, list[str]]], **numbers: float
) -> tuple[list[str], dict[str, str | None]]:
    fuser = DeterministicFuser(FuseSettings(**numbers))  # type: ignore[arg-type]
    sentences, left_out = fuser.fuse_sized(SIZE, REGIONS, verdicts(said))
    return [one.text for one in sentences], {one.claim.text: one.reason for one in left_out}


def test_short_captions_read_as_a_paragraph() -> None:
    texts, left_out = fused(
        [
            ("global", 0, ["a dog on a couch"]),
            ("spatial-1", 0, ["a lamp on a table"]),
            ("spatial-1", 1, ["two books"]),
            ("spatial-4", 0, ["a red umbrella"]),
            ("spatial-4", 1, ["a red umbrella"]),
        ]
    )
    assert texts == [
        "The image shows a dog on a couch.",
        "In the upper left, there is a lamp on a table and two books.",
        "In the lower right, there is a red umbrella.",
    ]
    assert left_out == {}


def test_a_place_is_not_told_twice_in_a_row() -> None:
    right = [
        DetailRegion(f"user-{place}", "user", (60, 10 * place, 100, 90 + 10 * place))
        for place in range(3)
    ]
    kept = [
        Verdict(Claim("c1", "a dog", "user-0", 0, 0), True),
        Verdict(Claim("c2", "an umbrella", "user-1", 0, 0), True),
        Verdict(Claim("c3", "a kite", "user-2", 0, 0), True),
    ]
    sentences, _ = DeterministicFuser().fuse_sized(SIZE, right, kept)
    assert [one.text for one in sentences] == [
        "The image shows a dog.",
        "On the right, there is an umbrella.",
        "There is a kite.",
    ]


def test_pronouns_stay_behind_their_noun_and_are_restored_elsewhere() -> None:
    texts, _ = fused([("global", 0, ["A woman sits on a bench.", "She wears a red hat."])])
    assert texts == ["A woman sits on a bench.", "She wears a red hat."]
    texts, _ = fused(
        [
            (
                "global",
                0,
                [
                    "A woman sits on a bench.",
                    "A bus waits behind the tree.",
                    "She wears a red hat.",
                ],
            )
        ]
    )
    assert texts[-1] == "The woman wears a red hat."


def test_a_noun_that_was_merged_into_another_claim_is_found() -> None:
    first = Verdict(Claim("c1", "A woman sits on a bench.", "global", 0, 0), True, merged=("c2",))
    second = Verdict(Claim("c3", "She wears a red hat.", "spatial-4", 0, 1), True)
    sentences, _ = DeterministicFuser().fuse_sized(SIZE, REGIONS, [first, second])
    assert sentences[1].text.endswith("the woman wears a red hat.")
    assert sentences[1].claim_ids == ("c3", "c1")


def test_what_leans_on_nothing_is_left_out() -> None:
    assert fused([("global", 0, ["They are sleeping."])]) == (
        [],
        {"They are sleeping.": "fragment"},
    )


def test_nothing_in_nothing_out() -> None:
    assert DeterministicFuser().fuse_sized(SIZE, REGIONS, []) == ([], [])
    dropped = [Verdict(Claim("c1", "A dog.", "global", 0, 0), False, reason="hedge")]
    assert DeterministicFuser().fuse_sized(SIZE, REGIONS, dropped) == ([], [])


def test_what_most_texts_say_comes_first() -> None:
    said = [("spatial-1", place, ["A red bus waits at the stop."]) for place in range(3)]
    texts, left_out = fused(
        [("global", 0, ["A small bird sits on a wire."]), *said], max_words=12, global_bonus=0.0
    )
    assert texts == ["A red bus waits at the stop."]
    assert set(left_out.values()) == {"length"}


def test_a_paragraph_does_not_open_with_a_place() -> None:
    texts, _ = fused([("spatial-1", 0, ["a lamp"]), ("spatial-4", 0, ["a red umbrella"])])
    assert texts == ["The image shows a lamp.", "In the lower right, there is a red umbrella."]
    texts, _ = fused([("global", 0, ["At the top, there is a kite."])])
    assert texts == ["The image shows a kite."]
    band = DetailRegion("user-1", "user", (0, 0, 100, 90))
    kept = [
        Verdict(Claim("c1", "a lamp", "spatial-1", 0, 0), True),
        Verdict(Claim("c2", "A crowd waits.", "user-1", 0, 0), True),
    ]
    upper = DetailRegion("spatial-1", "semantic", (0, 0, 50, 50))
    sentences, _ = DeterministicFuser().fuse_sized(SIZE, [upper, band], kept)
    assert [one.text for one in sentences] == [
        "A crowd waits.",
        "In the upper left, there is a lamp.",
    ]


def test_a_thing_is_introduced_before_it_is_known() -> None:
    texts, _ = fused([("global", 0, ["The dog has a red collar.", "The sky is blue."])])
    assert texts == ["A dog has a red collar.", "The sky is blue."]
    texts, _ = fused([("global", 0, ["A dog sits on a bed.", "The dog has a red collar."])])
    assert texts[1] == "The dog has a red collar."
    texts, _ = fused([("spatial-1", 0, ["There is also a dog on a mat."])])
    assert texts == ["The image shows a dog on a mat."]


def test_a_claim_as_long_as_the_paragraph_may_be_leaves_it_no_word_longer() -> None:
    texts, left_out = fused(
        [("global", 0, ["a dog on a couch"]), ("global", 1, ["two cats"])], max_words=7
    )
    assert texts == [
        "The image shows two cats."
    ]  # with "The image shows" the dog has a word too many
    assert left_out == {"a dog on a couch": "length"}


def test_greedy_choice_against_a_plain_twin() -> None:
    said = [
        (name, place, [TEXTS[place], TEXTS[-1 - place], TEXTS[3 * place + 2]])
        for place, name in enumerate(NAMES[:3])
    ]
    drafts, _ = drafts_of(REGIONS, verdicts(said), SIZE)
    numbers = FuseSettings(max_words=18, new_share=0.0)
    worth = worths(drafts)
    told: set[object] = set()
    left, taken, room = list(drafts), [], 18
    while left:
        rated = [
            (
                sum(worth.get(one, 0.0) for one in concepts(draft.text) - told)
                * (1.5 if draft.region.kind == "global" else 1.0) / draft.words
                if any(isinstance(one, str) for one in concepts(draft.text) - told) and draft.words <= room
                else 0.0,
                draft,
            )
            for draft in left
        ]  # fmt: skip
        gain, best = max(rated, key=lambda pair: pair[0])
        if gain <= 0:
            break
        taken.append(best)
        left.remove(best)
        told |= concepts(best.text)
        room -= best.words
    assert {id(one) for one in chosen(drafts, numbers)} == {id(one) for one in taken}


def test_bad_input_is_refused() -> None:
    with pytest.raises(DetailError, match="'c1' is about region 'moon'"):
        DeterministicFuser().fuse_sized(
            SIZE, REGIONS, [Verdict(Claim("c1", "A dog.", "moon", 0, 0), True)]
        )
    for bad in (
        {"max_words": 0},
        {"duplicate": 1.5},
        {"overlap_iou": -0.1},
        {"global_bonus": -1.0},
    ):
        with pytest.raises(OptionError, match=next(iter(bad))):
            FuseSettings(**bad)
    assert DeterministicFuser().settings["overlap_iou"] == 0.4
