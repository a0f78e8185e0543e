"""Which sentences fit in a number of words and together say most of what was said.

Knows: drafts, the words in them and in how many texts each was said. Does NOT know: photos, order, wording.

Each telling word, and each pair of neighbouring ones, is worth the number of texts that have it, and is paid once: the
"concepts" of Gillick and Favre, "A Scalable Global Model for Summarization" (2009), taken greedily by worth per word
(Khuller, Moss and Naor, "The Budgeted Maximum Coverage Problem", 1999). So what several samples agree on comes first,
and nothing is told twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

from patchioner.detail.fuse.drafts import Draft
from patchioner.detail.fuse.forms import STOP_WORDS, root, words_of
from patchioner.detail.fuse.settings import FuseSettings

Concept = str | tuple[str, str]


@lru_cache(maxsize=4096)
def concepts(text: str) -> frozenset[Concept]:
    """Words of a text that say something, by their roots, and pairs of neighbours of which one does.

    Example:
        >>> sorted(map(str, concepts("A red bus.")))
        ["('a', 'red')", "('red', 'bus')", 'bus', 'red']
    """
    words = words_of(text)
    telling = [word not in STOP_WORDS for word in words]
    roots = [root(word) for word in words]
    single = {one for one, tells in zip(roots, telling, strict=True) if tells}
    pairs = {
        (roots[place], roots[place + 1])
        for place in range(len(roots) - 1)
        if telling[place] or telling[place + 1]
    }
    return frozenset(single | pairs)


def worths(drafts: Sequence[Draft]) -> dict[Concept, float]:
    """Concept -> in how many texts (region and sample) it was said, folded and merged claims included."""
    texts: dict[Concept, set[tuple[str, int]]] = defaultdict(set)
    extra: dict[Concept, int] = defaultdict(int)
    for draft in drafts:
        for verdict in draft.members:
            claim = verdict.claim
            for concept in concepts(claim.text):
                texts[concept].add((claim.region_id, claim.sample))
                extra[concept] += len(verdict.merged)
    return {concept: float(len(seen) + extra[concept]) for concept, seen in texts.items()}


def chosen(
    drafts: Sequence[Draft], settings: FuseSettings, max_words: int | None = None
) -> list[Draft]:
    """The drafts to take, in the order given: at most `max_words` together (None: those of the settings).

    Greedy: each time the draft that adds most worth per word, while it brings at least `new_share` of new content. Ties
    go to the earlier draft, so the answer is the same every time.

    Args:
        drafts: n, in any order; their `words` are counted.
        settings: `max_words`, `new_share`, `global_bonus`.
        max_words: another length than the settings'.
    """
    worth = worths(drafts)
    parts = [concepts(draft.text) for draft in drafts]
    told: set[Concept] = set()
    left = set(range(len(drafts)))
    taken: list[int] = []
    room = settings.max_words if max_words is None else max_words
    while True:
        gains = [
            (_gain(drafts[place], parts[place], told, worth, settings), -place)
            for place in left
            if drafts[place].words <= room
        ]
        best, minus = max(gains, default=(0.0, 0))
        if best <= 0:
            return [drafts[place] for place in sorted(taken)]
        taken.append(-minus)
        left.discard(-minus)
        told |= parts[-minus]
        room -= drafts[-minus].words


def _gain(
    draft: Draft,
    parts: frozenset[Concept],
    told: set[Concept],
    worth: dict[Concept, float],
    settings: FuseSettings,
) -> float:
    """Worth per word of what a draft adds; 0 where it adds too little."""
    new = parts - told
    fresh = sum(isinstance(part, str) for part in new)
    words = sum(isinstance(part, str) for part in parts)
    if not fresh or fresh < settings.new_share * words:
        return 0.0
    support = draft.verdict.support
    trust = 1.0 if support is None else 0.5 + 0.5 * support.score
    bonus = 1.0 + settings.global_bonus * (draft.region.kind == "global")
    # A word that only the template or another claim gave has no worth of its own.
    return trust * bonus * sum(worth.get(part, 0.0) for part in new) / max(draft.words, 1)
