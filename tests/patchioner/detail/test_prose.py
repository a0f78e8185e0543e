import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchioner.detail.prose import content_words, split_sentences
from tests.patchioner.detail.conftest import CASES


@pytest.mark.parametrize(("text", "expected"), CASES["sentences"])
def test_prose_and_lists_become_sentences(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


@given(st.text(alphabet="aB1. \n\"!?-*:,'", max_size=60))
def test_no_letter_is_lost_and_no_sentence_is_empty(text: str) -> None:
    found = split_sentences(text)
    assert all(one.strip() == one and any(map(str.isalnum, one)) for one in found)
    letters = [letter for letter in text if letter.isalpha()]
    assert [letter for sentence in found for letter in sentence if letter.isalpha()] == letters


@pytest.mark.parametrize(("sentence", "expected"), CASES["content words"])
def test_content_words(sentence: str, expected: list[str]) -> None:
    assert sorted(content_words(sentence)) == expected
