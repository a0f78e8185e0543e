"""BLEU, CIDEr-D, ROUGE-L, stem-F: by hand, plain twins, METEOR where both match the same."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.metrics import Meteor, bleu, cider, rouge_l, stem_f
from benchmarks.metrics.caption import align, longest_common_subsequence
from patchioner.base.errors import OptionError


def test_bleu_perfect() -> None:
    """Equal captions score 100 at every order they are long enough for."""
    corpus, samples = bleu(["a red bus stops"], [["a red bus stops"]])
    assert corpus == pytest.approx([100.0] * 4)
    assert samples.shape == (1, 4)


def test_bleu_clipping() -> None:
    """The classic: seven times "the" matches twice, 2/7."""
    corpus, _ = bleu(["the the the the the the the"],
                     [["the cat is on the mat", "there is a cat on the mat"]],
                     max_order=1)  # fmt: skip
    assert corpus == pytest.approx([100 * 2 / 7], rel=1e-6)


def test_bleu_brevity_penalty_uses_the_closest_reference() -> None:
    """2 words against 3 and 6: exp(1 - 3/2)."""
    corpus, _ = bleu(["red bus"], [["red bus stops", "the red bus stops here now"]], max_order=1)
    assert corpus[0] == pytest.approx(100 * math.exp(1 - 3 / 2), rel=1e-6)


def test_bleu_corpus_pools_counts() -> None:
    """1 of 1 and 0 of 3 words right is 1/4 for the set, not the mean of 1 and 0."""
    corpus, samples = bleu(["red", "x y z"], [["red"], ["a b c"]], max_order=1)
    assert corpus[0] == pytest.approx(25.0, rel=1e-6)
    assert samples[:, 0] == pytest.approx([100.0, 0.0], abs=1e-6)


def test_bleu_empty_caption() -> None:
    """Scores 0, stays finite."""
    corpus, samples = bleu(["", "a b"], [["a"], ["a b"]])
    assert np.isfinite(corpus).all()
    assert samples[0] == pytest.approx([0.0] * 4)


Ngrams = Counter[tuple[str, ...]]


def test_cider_equal_captions_score_the_full_thousand() -> None:
    """Four orders of cosine 1, times 10, times 100."""
    mean, scores = cider(["a red bus stops", "two dogs run away"],
                         [["a red bus stops"], ["two dogs run away"]])  # fmt: skip
    assert scores == pytest.approx([1000.0, 1000.0])
    assert mean == pytest.approx(1000.0)


def test_cider_short_caption_by_hand() -> None:
    """Two words have no 3-grams or 4-grams: those orders count 0.

    Sample 0: candidate "red bus", reference "red car"; sample 1 holds none of these words.
    All three words are in one of two samples: idf log 2; "bus" is in none, so as rare: log 2.
    Unigrams: one of two words shared -> cosine 1/2. Bigrams: none. Lengths in bigrams: equal.
    Score = 1000 * (1/2) / 4 = 125.
    """
    _, scores = cider(["red bus", "x"], [["red car"], ["blue sky"]])
    assert scores == pytest.approx([125.0, 0.0])


def test_cider_common_words_weigh_nothing() -> None:
    """A word in the references of every sample has idf 0."""
    _, scores = cider(["the", "the"], [["the cat"], ["the dog"]])
    assert scores == pytest.approx([0.0, 0.0])


def test_cider_repetition_is_clipped_and_length_is_damped() -> None:
    """Candidate "red red red", reference "red": by hand.

    Unigram weights 3w and w: clipped product w*w over norms 3w*w = 1/3. Lengths in bigrams differ
    by 2: exp(-4/72). Score = 1000/4 * exp(-4/72) / 3.
    """
    _, scores = cider(["red red red", "x"], [["red"], ["blue"]])
    assert scores[0] == pytest.approx(250.0 * math.exp(-4 / 72) / 3)


def test_cider_mean_over_references() -> None:
    """A second reference that shares nothing halves the score."""
    _, one = cider(["red bus", "x"], [["red bus"], ["blue"]])
    _, two = cider(["red bus", "x"], [["red bus", "green hill"], ["blue"]])
    assert two[0] == pytest.approx(one[0] / 2)


def test_cider_one_sample_scores_zero() -> None:
    """Nothing is rare in a set of one."""
    assert cider(["a dog"], [["a dog"]])[0] == 0.0


def test_cider_plain_twin() -> None:
    """The same numbers as the formula written out over dense vectors."""
    draw = random.Random(3)
    words = ["a", "red", "blue", "bus", "dog", "runs", "on", "the", "street", "two", "men"]

    def sentence() -> str:
        return " ".join(draw.choices(words, k=draw.randint(1, 9)))

    predictions = [sentence() for _ in range(20)]
    references = [[sentence() for _ in range(draw.randint(1, 4))] for _ in range(20)]
    assert cider(predictions, references)[1] == pytest.approx(_cider_plain(predictions, references))


def _cider_plain(predictions: list[str], references: list[list[str]]) -> list[float]:
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


def test_cider_fixed_idf_makes_a_score_independent_of_its_set() -> None:
    """With the idf of the full references, a subset scores what it scores in the full set."""
    said = ["a red bus stops", "two dogs run", "a cat"]
    due = [["a red bus is here"], ["two dogs", "dogs run away"], ["the cat sleeps"]]
    _, full = cider(said, due)
    for index in range(3):
        alone = cider(said[index : index + 1], due[index : index + 1], idf_from=due)
        assert alone[0] == pytest.approx(full[index])
    with pytest.raises(OptionError, match="is empty"):
        cider(said, due, idf_from=[[]])


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["a"], [["a"], ["b"]], "1 predictions for 2"),
        ([], [], "nothing to score"),
        (["a"], [[]], r"references\[0\] is empty"),
        (["a"], ["a dog"], "put it in a list"),
    ],
)
def test_cider_lists_that_do_not_pair(
    predictions: list[str], references: list[list[str]], message: str
) -> None:
    """A typed error says which list is wrong."""
    with pytest.raises(OptionError, match=message):
        cider(predictions, references)


def test_cider_each_different_text_is_counted_once() -> None:
    """Grounding asks about the same captions in millions of pairs."""
    seen: list[str] = []

    def words(text: str) -> list[str]:
        seen.append(text)
        return text.split()

    said, due = ["a dog", "a cat", "a dog"] * 5, [["a cat"], ["a dog", "a bus"], ["a bus"]] * 5
    _, scores = cider(said, due, tokenizer=words, idf_from=due[:3])
    assert sorted(seen) == ["a bus", "a cat", "a dog"]
    assert scores[:3].tolist() == scores[3:6].tolist()


def test_rouge_by_hand() -> None:
    """2 words shared of 3 said and of 4 due, beta 1.2."""
    precision, recall, beta2 = 2 / 3, 2 / 4, 1.44
    expected = 100 * (1 + beta2) * precision * recall / (recall + beta2 * precision)
    mean, scores = rouge_l(["a red bus"], [["the red old bus"]])
    assert abs(mean - expected) < 1e-9
    assert scores.shape == (1,)


def test_rouge_best_precision_and_best_recall_may_come_from_different_references() -> None:
    """Both references count with what they are best at: precision 2/3, recall 1."""
    expected = 100 * 2.44 * (2 / 3) / (1 + 1.44 * (2 / 3))
    mean, _ = rouge_l(["a red bus"], [["red bus stops here", "bus"]])
    assert abs(mean - expected) < 1e-9


def test_rouge_nothing_shared_and_nothing_said() -> None:
    """Both score 0."""
    assert rouge_l(["dog", ""], [["cat"], ["cat"]])[1].tolist() == [0.0, 0.0]


words = st.lists(st.sampled_from("abc"), max_size=7)


@given(words, words)
def test_rouge_subsequence_twin(left: list[str], right: list[str]) -> None:
    """The row-wise algorithm agrees with the recursive definition."""

    def plain(a: list[str], b: list[str]) -> int:
        if not a or not b:
            return 0
        if a[0] == b[0]:
            return 1 + plain(a[1:], b[1:])
        return max(plain(a[1:], b), plain(a, b[1:]))

    assert longest_common_subsequence(left, right) == plain(left, right)


def test_stem_f_by_hand() -> None:
    """Precision (3/4 + 1/4) / (4 * 3/4 + 1/4) = 4/13, recall 1, two chunks of two matches: penalty 0.6."""
    precision = 4 / 13
    mean = precision / (0.85 * precision + 0.15)
    assert stem_f(["a red bus stops here"], [["a bus"]])[0] == pytest.approx(100 * 0.4 * mean)


def test_stem_f_stem_match_weighs_less() -> None:
    """ "dogs" for "dog": both shares 0.6, so the mean is 0.6; one chunk and nothing left over: no penalty."""
    assert stem_f(["dogs"], [["dog"]])[0] == pytest.approx(60.0)


def test_stem_f_order_costs() -> None:
    """Two chunks of two matches: 1 - 0.6."""
    assert stem_f(["bus red"], [["red bus"]])[0] == pytest.approx(40.0)


def test_stem_f_best_reference_and_bounds() -> None:
    mean, scores = stem_f(["a dog", "", "x"], [["cat", "a dog"], ["a"], ["y", ""]])
    assert scores.tolist() == [100.0, 0.0, 0.0]
    assert mean == pytest.approx(100 / 3)


def test_stem_f_meteor_where_only_equal_words_match(meteor: Meteor) -> None:
    """Made-up words have no synonyms, stems or paraphrases: the same number as the official program's."""
    draw = random.Random(0)
    words = ["zorp", "blick", "vamta", "drupo", "kelm", "the", "of", "wugk", "tofna", "plirk"]
    said = [" ".join(draw.sample(words, k=draw.randint(1, 10))) for _ in range(200)]
    due = [[" ".join(draw.sample(words, k=draw.randint(1, 10)))] for _ in said]
    np.testing.assert_allclose(stem_f(said, due)[1], meteor.score(said, due)[1], atol=1e-9)


def test_stem_f_near_meteor_on_real_captions(meteor: Meteor, dev_captions: list[list[str]]) -> None:
    """Measured: means 25.2 and 26.9, correlation 0.95."""
    said, due = [g[0] for g in dev_captions], [g[1:] for g in dev_captions]
    ours, official = stem_f(said, due)[1], meteor.score(said, due)[1]
    assert np.corrcoef(ours, official)[0, 1] > 0.93
    assert abs(ours.mean() - official.mean()) < 3


letters = st.lists(st.sampled_from("abc"), max_size=5)


@given(letters, letters)
def test_stem_f_alignment_matches_as_many_as_can_be(left: list[str], right: list[str]) -> None:
    pairs = align(left, right)
    assert all(left[i] == right[j] for i, j in pairs)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert pairs == sorted(pairs)
    most = sum(min(left.count(x), right.count(x)) for x in set(left))
    assert len(pairs) == most


def test_stem_f_equal_lists_align_in_one_run() -> None:
    for order in set(permutations("aabc")):
        assert align(order, order) == [(i, i) for i in range(4)]


def test_stem_f_longest_run_first_and_ties_from_the_left() -> None:
    assert align(list("xab"), list("abxab")) == [(0, 2), (1, 3), (2, 4)]
    assert align(["a"], ["a", "a"]) == [(0, 0)]
