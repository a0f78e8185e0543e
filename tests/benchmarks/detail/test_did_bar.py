"""The bar of DID-Bench: which rivals, what "better" means, what is told where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.detail import did_bar
from benchmarks.detail.did import DidPhoto, DidScores
from benchmarks.detail.did_bar import (
    AGAIN,
    ALONE,
    EXTRACTIVE,
    OURS,
    RIVALS,
    SAME,
    SEEN,
    UNFILTERED,
    bar_json,
    bar_lines,
    bar_table,
    duels,
    missed_bars,
)
from benchmarks.detail.did_tables import Scored, score_texts
from benchmarks.detail.objects import object_scores


def scored(
    meteor: float | None, cider: float, *, words: float = 100, noise: float = 0.0, count: int = 8
) -> Scored:
    values = {"cider": cider} if meteor is None else {"meteor": meteor, "cider": cider}
    wave = noise * np.where(np.arange(count) % 2, 1.0, -1.0)
    samples = {name: value + wave for name, value in values.items()}
    did = DidScores(np.full(count, words), values, samples)
    return Scored(["A dog."] * count, did, object_scores(["A dog."] * count, [{"dog"}] * count))


def block(own: Scored, name: str = OURS, **others: Scored) -> dict[str, Scored]:
    weak = scored(1.0, 1.0)
    rivals = {EXTRACTIVE: weak, SAME: weak, AGAIN: weak, ALONE: weak}
    names = {"extractive": EXTRACTIVE, "same": SAME, "again": AGAIN, "alone": ALONE}
    return {name: own, **rivals, **{names[key]: one for key, one in others.items()}}


def test_all_of_ours_are_compared_with_the_raw_text() -> None:
    """Extractive text of all that was said, and the global text: of the row with rules and of the row seen, too."""
    assert set(RIVALS) == {UNFILTERED, did_bar.MOOD, OURS, SEEN}
    for rivals in RIVALS.values():
        assert {EXTRACTIVE, AGAIN, ALONE} <= set(rivals)


def test_each_has_to_beat_what_chooses_among_the_same_sentences() -> None:
    for name, demanded in did_bar.DEMANDED.items():
        assert set(demanded) <= set(RIVALS[name])
        assert (EXTRACTIVE if name == UNFILTERED else SAME) in demanded
        assert {AGAIN, ALONE} <= set(demanded)


def test_who_is_better_on_all_misses_nothing() -> None:
    good = block(scored(2.0, 2.0))
    assert missed_bars(good, RIVALS[OURS]) == ()
    assert bar_lines({OURS: good}) == f"* **{OURS}**: beats all its rivals."


def test_a_rival_with_more_meteor_is_named_with_the_interval() -> None:
    mixed = block(scored(20.33, 11.67), extractive=scored(21.33, 10.0))
    (missed,) = missed_bars(mixed, RIVALS[OURS])
    assert missed == (
        f"METEOR 20.33 ({OURS}), 21.33 (extractive): NOT better, -1.00 (-1.00 to -1.00)"
    )
    assert bar_lines({OURS: mixed}).endswith("does not beat extractive on METEOR.")


def test_a_tie_is_not_better() -> None:
    missed = missed_bars(block(scored(2.0, 2.0), same=scored(2.0, 1.0)), RIVALS[OURS])
    assert [bar.split()[0] for bar in missed] == ["METEOR"]


def test_better_by_chance_is_said_to_be_within_noise() -> None:
    found = {
        duel.metric: duel.words
        for duel in duels(block(scored(2.1, 9.0, noise=3.0)), [EXTRACTIVE], seed=1)
    }
    assert found == {"meteor": "better, within noise", "cider": "better"}


@pytest.mark.parametrize(("words", "misses"), [(94.0, 1), (96.0, 0), (104.0, 0), (106.0, 1)])
def test_rivals_are_as_long_but_the_global_text_alone(words: float, misses: int) -> None:
    longer = block(scored(2.0, 2.0), again=scored(1.0, 1.0, words=words))
    assert len(missed_bars(longer, RIVALS[OURS])) == misses
    alone = block(scored(2.0, 2.0), alone=scored(1.0, 1.0, words=words))
    assert missed_bars(alone, RIVALS[OURS]) == ()


def test_without_meteor_the_other_half_is_judged() -> None:
    blind = block(scored(None, 0.5))
    assert {duel.metric for duel in duels(blind, RIVALS[OURS])} == {"cider"}
    assert len(missed_bars(blind, RIVALS[OURS])) == len(RIVALS[OURS])


def test_table_and_json_have_every_pair() -> None:
    blocks = {
        UNFILTERED: block(scored(2.0, 2.0), UNFILTERED),
        OURS: block(scored(2.0, 2.0), extractive=scored(3.0, 1.0)),
    }
    lines = bar_table(blocks).splitlines()
    assert len(lines) == 2 + 2 * 4
    (lost,) = [line for line in lines if "NOT better" in line]
    assert lost.startswith(f"| {OURS} against extractive |")
    assert lost.count("better: +1.00") == 1  # on CIDEr
    values: Any = bar_json(blocks)
    assert len(values) == 2 * 4 * 2
    assert [(one["text"], one["rival"], one["metric"]) for one in values if not one["better"]] == [
        (OURS, "extractive", "meteor")
    ]


def test_bars_of_real_scores() -> None:
    photos = _photos()
    rivals = RIVALS[UNFILTERED]
    good = score_texts(photos, [photo.references[0] for photo in photos], None)
    bad = score_texts(photos, ["a text of nothing"] * len(photos), None)
    missed = missed_bars({"ours": good, **dict.fromkeys(rivals, bad)}, rivals)
    assert all("of the words" in bar for bar in missed)
    assert len(missed) == len(rivals) - 1
    missed = missed_bars({"ours": bad, **dict.fromkeys(rivals, good)}, rivals)
    assert sum(bar.startswith("CIDEr") for bar in missed) == len(rivals)


def _photos() -> list[DidPhoto]:
    words = ("dog sits on a red couch", "bus waits at a long street", "cat sleeps under the table")
    return [
        DidPhoto(f"{place}.jpg", (10, 10), (), (), (f"A {text} in the quiet afternoon.",))
        for place, text in enumerate(words)
    ]
