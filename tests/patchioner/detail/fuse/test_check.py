"""The final check."""

from __future__ import annotations

from patchioner.detail.fuse.check import unsourced_words, without_source
from patchioner.detail.fuse.forms import root, words_of
from patchioner.detail.values import Claim, FusedSentence


def test_forms_and_synonyms_have_a_source() -> None:
    assert (
        unsourced_words(
            "On the left, two dogs are sitting on a sofa.", ["A couch, and two dogs sit on it"]
        )
        == []
    )


def test_what_is_new_is_named() -> None:
    assert unsourced_words("A brown dog sleeps near a tree.", ["A dog sleeps."]) == [
        "brown",
        "tree",
    ]


def test_a_negation_needs_a_source() -> None:
    assert unsourced_words("There is no dog.", ["There is a dog."]) == ["no"]
    assert unsourced_words("The dog isn't brown.", ["The brown dog is not here."]) == []


def test_sentences_name_kept_claims() -> None:
    claims = {"c1": Claim("c1", "A dog sleeps.", "global", 0, 0)}
    sentences = [
        FusedSentence("A dog is sleeping.", ("c1",), ("global",)),
        FusedSentence("A dog.", (), ()),
        FusedSentence("A dog.", ("c2",), ()),
        FusedSentence("A cat.", ("c1",), ()),
    ]
    assert list(without_source(sentences, claims)) == [1, 2, 3]


def test_roots() -> None:
    assert root("sits") == root("sitting")
    assert root("parked") == root("parks")
    assert root("dog") != root("door")
    assert words_of("A T-shirt, isn't it?") == ["a", "t-shirt", "isn't", "it"]
