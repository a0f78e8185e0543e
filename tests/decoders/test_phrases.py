from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoders.scene_graph.phrases import noun_phrases


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("A man in a red and white shirt holds two tennis rackets.",
         {"man": "A man", "shirt": "a red and white shirt", "tennis racket": "two tennis rackets"}),
        ("The bus is red.", {"bus": "The bus"}),
        ("Red buses pass a tree.", {"bus": "Red buses", "tree": "a tree"}),
        ("It is there.", {}),
    ],
)  # fmt: skip
def test_noun_phrases(sentence: str, expected: dict[str, str]) -> None:
    found = noun_phrases(sentence)
    assert {one.name: sentence[one.start : one.end] for one in found} == expected


@given(st.text(alphabet="aeinrst -',.AR29", max_size=60))
def test_phrases_lie_in_their_sentence_one_after_the_other(sentence: str) -> None:
    end = 0
    for phrase in noun_phrases(sentence):
        assert end <= phrase.start < phrase.end <= len(sentence)
        end = phrase.end
