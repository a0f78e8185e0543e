"""CIDEr-D: cases worked out by hand, a plain twin, and the official code where Java is there."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from benchmarks.metrics import cider, java_available, official_cider
from patchioner.base.errors import OptionError

Ngrams = Counter[tuple[str, ...]]


def test_equal_captions_score_the_full_thousand() -> None:
    """Four orders of cosine 1, times 10, times 100."""
    mean, scores = cider(["a red bus stops", "two dogs run away"],
                         [["a red bus stops"], ["two dogs run away"]])  # fmt: skip
    assert scores == pytest.approx([1000.0, 1000.0])
    assert mean == pytest.approx(1000.0)


def test_short_caption_by_hand() -> None:
    """Two words have no 3-grams or 4-grams: those orders count 0.

    Sample 0: candidate "red bus", reference "red car"; sample 1 holds none of these words.
    All three words are in one of two samples: idf log 2; "bus" is in none, so as rare: log 2.
    Unigrams: one of two words shared -> cosine 1/2. Bigrams: none. Lengths in bigrams: equal.
    Score = 1000 * (1/2) / 4 = 125.
    """
    _, scores = cider(["red bus", "x"], [["red car"], ["blue sky"]])
    assert scores == pytest.approx([125.0, 0.0])


def test_common_words_weigh_nothing() -> None:
    """A word in the references of every sample has idf 0."""
    _, scores = cider(["the", "the"], [["the cat"], ["the dog"]])
    assert scores == pytest.approx([0.0, 0.0])


def test_repetition_is_clipped_and_length_is_damped() -> None:
    """Candidate "red red red", reference "red": by hand.

    Unigram weights 3w and w: clipped product w*w over norms 3w*w = 1/3. Lengths in bigrams differ
    by 2: exp(-4/72). Score = 1000/4 * exp(-4/72) / 3.
    """
    _, scores = cider(["red red red", "x"], [["red"], ["blue"]])
    assert scores[0] == pytest.approx(250.0 * math.exp(-4 / 72) / 3)


def test_mean_over_references() -> None:
    """A second reference that shares nothing halves the score."""
    _, one = cider(["red bus", "x"], [["red bus"], ["blue"]])
    _, two = cider(["red bus", "x"], [["red bus", "green hill"], ["blue"]])
    assert two[0] == pytest.approx(one[0] / 2)


def test_one_sample_scores_zero() -> None:
    """Nothing is rare in a set of one."""
    assert cider(["a dog"], [["a dog"]])[0] == 0.0


def test_empty_caption_scores_zero() -> None:
    """No words, no score, no error."""
    assert cider(["", "b"], [["a dog"], ["b"]])[1][0] == 0.0


def test_plain_twin() -> None:
    """The same numbers as the formula written out over dense vectors."""
    draw = random.Random(3)
    words = ["a", "red", "blue", "bus", "dog", "runs", "on", "the", "street", "two", "men"]

    def sentence() -> str:
        return " ".join(draw.choices(words, k=draw.randint(1, 9)))

    predictions = [sentence() for _ in range(20)]
    references = [[sentence() for _ in range(draw.randint(1, 4))] for _ in range(20)]
    assert cider(predictions, references)[1] == pytest.approx(_plain(predictions, references))


def _plain(predictions: list[str], references: list[list[str]]) -> list[float]:
    def grams(text: str, n: int) -> Ngrams:
        words = text.split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    def vector(text: str, n: int, vocabulary: list[tuple[str, ...]]) -> list[float]:
        counts = grams(text, n)
        documents = [sum(any(g in grams(r, n) for r in rs) for rs in references)
                     for g in vocabulary]  # fmt: skip
        return [counts[g] * math.log(len(references) / max(1, d))
                for g, d in zip(vocabulary, documents, strict=True)]  # fmt: skip

    scores = []
    for text, group in zip(predictions, references, strict=True):
        total = 0.0
        for reference in group:
            delta = len(text.split()) - len(reference.split())
            for n in (1, 2, 3, 4):
                vocabulary = sorted(set(grams(text, n)) | set(grams(reference, n)))
                left, right = vector(text, n, vocabulary), vector(reference, n, vocabulary)
                norms = math.hypot(*left) * math.hypot(*right)
                if norms:
                    clipped = sum(min(a, b) * b for a, b in zip(left, right, strict=True))
                    total += clipped / norms * math.exp(-(delta**2) / 72)
        scores.append(1000 * total / 4 / len(group))
    return scores


def test_fixed_idf_makes_a_score_independent_of_its_set() -> None:
    """With the idf of the full references, a subset scores what it scores in the full set."""
    said = ["a red bus stops", "two dogs run", "a cat"]
    due = [["a red bus is here"], ["two dogs", "dogs run away"], ["the cat sleeps"]]
    _, full = cider(said, due)
    for index in range(3):
        alone = cider(said[index : index + 1], due[index : index + 1], idf_from=due)
        assert alone[0] == pytest.approx(full[index])
    with pytest.raises(OptionError, match="is empty"):
        cider(said, due, idf_from=[[]])


@pytest.mark.skipif(not java_available(), reason="the official metric needs Java")
def test_same_as_the_official_code() -> None:
    """Tokenizer and score together."""
    pytest.importorskip("pycocoevalcap")
    predictions = ["A man's red bus, isn't it?", "two dogs run", ""]
    references = [["a red bus.", "The bus"], ["Two dogs are running"], ["a t-shirt"]]
    mean, scores = cider(predictions, references)
    official_mean, official_scores = official_cider(predictions, references)
    assert scores == pytest.approx(official_scores)
    assert mean == pytest.approx(official_mean)


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["a"], [["a"], ["b"]], "1 predictions for 2"),
        ([], [], "nothing to score"),
        (["a"], [[]], r"references\[0\] is empty"),
        (["a"], ["a dog"], "put it in a list"),
    ],
)
def test_lists_that_do_not_pair(
    predictions: list[str], references: list[list[str]], message: str
) -> None:
    """A typed error says which list is wrong."""
    with pytest.raises(OptionError, match=message):
        cider(predictions, references)


def test_official_without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names Java and the way without it."""
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(OptionError, match="Java-free"):
        official_cider(["a"], [["a"]])


def test_each_different_text_is_counted_once() -> None:
    """Grounding asks about the same captions in millions of pairs."""
    seen: list[str] = []

    def words(text: str) -> list[str]:
        seen.append(text)
        return text.split()

    said, due = ["a dog", "a cat", "a dog"] * 5, [["a cat"], ["a dog", "a bus"], ["a bus"]] * 5
    _, scores = cider(said, due, tokenizer=words, idf_from=due[:3])
    assert sorted(seen) == ["a bus", "a cat", "a dog"]
    assert scores[:3].tolist() == scores[3:6].tolist()
