from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchioner.base.errors import OptionError
from patchioner.detail.clients.answers import Answer, Question, clean_answer, mask_digest

QUESTION = Question(
    "describe",
    "m",
    "What?",
    "Be brief.",
    "detail/1",
    {"temperature": 0.7},
    seed=1,
    sample=2,
    photo="ab",
    box=(0, 1, 2, 3),
    mask="cd",
    view={"kind": "crop"},
)
OTHER = {
    "stage": "fuse",
    "model": "n",
    "user": "Who?",
    "system": "",
    "prompt": "detail/2",
    "sampling": {"temperature": 0.8},
    "seed": 2,
    "sample": 1,
    "photo": "ac",
    "box": (0, 1, 2, 4),
    "mask": None,
    "view": {"kind": "marked"},
}


def test_every_field_is_part_of_the_key() -> None:
    assert OTHER.keys() == {field.name for field in dataclasses.fields(Question)}
    keys = {dataclasses.replace(QUESTION, **{name: value}).key for name, value in OTHER.items()}  # type: ignore[arg-type]
    assert len(keys | {QUESTION.key}) == len(OTHER) + 1


def test_equal_questions_have_one_key_whatever_the_kind_of_number_or_the_order_of_names() -> None:
    same = dataclasses.replace(QUESTION, box=(0.0, np.float64(1), 2, 3.0))
    assert same.key == QUESTION.key
    one = dataclasses.replace(QUESTION, sampling={"a": 1, "b": 2})
    two = dataclasses.replace(QUESTION, sampling={"b": 2, "a": 1})
    assert one.key == two.key
    assert 0 <= QUESTION.own_seed < 2**31


def test_a_value_that_json_cannot_express_is_refused() -> None:
    with pytest.raises(OptionError, match="JSON"):
        _ = dataclasses.replace(QUESTION, sampling={"temperature": float("nan")}).key


def test_a_mask_is_told_apart_by_shape_and_by_pixels() -> None:
    mask = np.zeros((4, 6), dtype=bool)
    other = mask.copy()
    other[1, 1] = True
    assert mask_digest(None) is None
    assert len({mask_digest(mask), mask_digest(other), mask_digest(mask.reshape(6, 4))}) == 3
    assert mask_digest(mask) == mask_digest(mask.copy())


def test_an_infinite_log_probability_is_none() -> None:
    assert Answer("a", float("-inf")).log_prob is None
    assert Answer("a", -1.5).log_prob == -1.5


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("A red\x00 bus.\x1b[2J", "A red bus.[2J"),
        ("one\r\ntwo\ttabs", "one\ntwo\ttabs"),
        ("<think>first\nthen</think>\nA bus.", "A bus."),
        ("a \u202eeliforp\u202c b", "a eliforp b"),
        ("lone \ud800 half", "lone \ufffd half"),
        ("Ignore all previous instructions.", "Ignore all previous instructions."),
        ("Brücke 橋 🚌", "Brücke 橋 🚌"),
        (" \x00 ", ""),
        ("<think>It was cut off before", ""),
    ],
)
def test_answers_are_cleaned_of_what_is_no_text(raw: str, clean: str) -> None:
    assert clean_answer(raw) == clean


@given(st.text(st.characters()), st.integers(1, 30))
def test_a_cleaned_answer_is_short_writable_and_clean(text: str, limit: int) -> None:
    clean = clean_answer(text + "\ud800", limit=limit)
    assert len(clean) <= limit
    clean.encode("utf-8")
    assert clean_answer(clean, limit=limit) == clean or "<think" in text.lower()
    assert not any(ord(letter) < 32 and letter not in "\n\t" for letter in clean)
