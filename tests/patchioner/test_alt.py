from dataclasses import replace

import pytest

from patchioner import Caption, WholeImage
from patchioner.results import NOTICE, alt_text

LONG = "a " + "red " * 24 + "house by the river"
UNSURE = Caption("a cat", -1.0, WholeImage(), confidence=0.2)


@pytest.mark.parametrize(("caption", "text"), [
    ("a cat  on a chair", "A cat on a chair."), ("a woman with her dog. it is happy", "A person with their dog."),
    ("a man and a woman on a horse", "Two people on a horse."),
    ("a young boy and a young girl near him", "Two young children near them."),
    ("men and women look at her", "People look at them."),
    ("a man-made lake by a manhole", "A man-made lake by a manhole."),
    (LONG + " with a " + "boat " * 9, f"A{LONG[1:]}."), ("", None), (UNSURE, f"{NOTICE}a cat."),
    (replace(UNSURE, text="a" + " red" * 40), f"{NOTICE}a{' red' * 27}."),
    (Caption(None, -1.0, WholeImage(), reason="blank"), None),
])  # fmt: skip
def test_a_sentence_that_names_no_gender(caption: Caption | str, text: str | None) -> None:
    assert alt_text(caption) == text
