"""What each of our texts of DID-Bench has to beat, and whether it does.

Knows: the rivals, the bar, how its outcome is worded. Does NOT know: how texts are made or scored.

The bar: at equal length (within 5 %) better, on CIDEr and METEOR, than extractive de-duplication of what was said, and
than the caption of the whole photo. "Better" goes by the scores of the set, as they are published; whether the paired
interval of the single texts' difference leaves out zero is said beside it. Every text of ours is compared with every
rival; what has to be reached (`DEMANDED`) is against those that choose among the same sentences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from benchmarks.bootstrap import Difference
from benchmarks.detail.did_tables import BAR, NAMES, Block
from benchmarks.detail.part import figure, markdown_table, plain

OURS = "ours: rules and fusion"
MOOD = "ours, sentences of mood left in"
SEEN = "ours, and filtered by the photo"
UNFILTERED = "ours, without any filter"
EXTRACTIVE, SAME, AGAIN, ALONE = (
    "extractive",
    "extractive, same sentences",
    "global again",
    "global alone",
)
RIVALS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    dict.fromkeys((UNFILTERED, MOOD, OURS, SEEN), (EXTRACTIVE, SAME, AGAIN, ALONE))
)
"""What each of ours is compared with. "extractive" chooses among all that was said, the hard one for a filter: the
references are full of the hedges and the mood that it takes out. "extractive, same sentences" has what the filter left,
and tells what fusing is worth. The global text is compared as it is, and told again until it is as long."""
DEMANDED: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {UNFILTERED: (EXTRACTIVE, AGAIN, ALONE)} | dict.fromkeys((OURS, SEEN), (SAME, AGAIN, ALONE))
)
"""Which of them each has to beat; the text with mood, which is nobody's setting, is there to show what mood is worth. A
filter takes out of ours what the raw text keeps, and what it costs is no matter of how the rest is fused: reported."""
EQUAL = 0.05
NO_METEOR = "METEOR was not measured (no Java): half of the bar is open"


@dataclass(frozen=True)
class Duel:
    """One of our texts against one rival, by one metric.

    Attributes:
        own, rival: the texts' names.
        metric: of `BAR`.
        values: the two scores of the set, times 100: ours and the rival's.
        gain: difference of the single texts' scores, ours minus the rival's, paired.
    """

    own: str
    rival: str
    metric: str
    values: tuple[float, float]
    gain: Difference

    @property
    def better(self) -> bool:
        """Whether our score of the set is the higher one; a tie is not better."""
        return self.values[0] > self.values[1]

    @property
    def words(self) -> str:
        """The outcome in words.

        Example:
            >>> Duel("a", "b", "cider", (2.0, 1.0), Difference(1.0, -0.5, 2.5, 0.95, 0.1)).words
            'better, within noise'
        """
        return ("better" if self.better else "NOT better") + (
            "" if self.gain.beyond_noise else ", within noise"
        )


def duels(block: Block, rivals: Sequence[str], *, seed: int = 0) -> list[Duel]:
    """The first text of a block against each rival by each metric of the bar that was measured.

    Args:
        block: holds all of the rivals.
        rivals: their names.
        seed: of the intervals.

    Example:
        >>> [duel.words for duel in duels(block, RIVALS[OURS])]  # doctest: +SKIP
        ['better', 'NOT better, within noise']
    """
    name, own = next(iter(block.items()))
    return [
        Duel(
            name,
            rival,
            metric,
            (own.did.values[metric], block[rival].did.values[metric]),
            own.did.gain_over(block[rival].did, metric, seed=seed),
        )
        for rival in rivals
        for metric in BAR
        if metric in own.did.values
    ]


def missed_bars(block: Block, rivals: Sequence[str], *, seed: int = 0) -> tuple[str, ...]:
    """Where the first text of a block is not better than a rival, or a rival is not as long."""
    missed = []
    name = next(iter(block))
    for rival in rivals:
        ratio = length_ratio(block, rival)
        if rival != ALONE and abs(ratio - 1) > EQUAL:
            missed.append(
                f"{rival} has {ratio:.2f} of the words of {name!r}: not within {EQUAL:.0%}"
            )
        missed += [
            f"{NAMES[duel.metric]} {duel.values[0]:.2f} ({name}), {duel.values[1]:.2f} ({rival}): "
            f"{duel.words}, {_gain(duel)}"
            for duel in duels(block, [rival], seed=seed)
            if not duel.better
        ]
    return tuple(missed)


def length_ratio(block: Block, rival: str) -> float:
    """Words of a rival's texts over those of the first text of a block."""
    own = next(iter(block.values()))
    return float(block[rival].did.words.mean() / max(1.0, own.did.words.mean()))


def bar_table(blocks: Mapping[str, Block], *, seed: int = 0) -> str:
    """For each of ours and each rival, whether it is beaten, with the paired interval."""
    rows = []
    metrics: list[str] = []
    for name, block in blocks.items():
        for rival in RIVALS[name]:
            found = duels(block, [rival], seed=seed)
            metrics = [duel.metric for duel in found]
            cells = [f"{duel.words}: {_gain(duel)}" for duel in found]
            length = f"{100 * (length_ratio(block, rival) - 1):+.1f} %"
            rows.append([f"{name} against {rival}", length, *cells])
    return markdown_table(["", "its words", *(NAMES[metric] for metric in metrics)], rows)


def bar_lines(blocks: Mapping[str, Block]) -> str:
    """A sentence for each of ours: all rivals beaten, or which not."""
    lines = []
    for name, block in blocks.items():
        lost = [
            f"{duel.rival} on {NAMES[duel.metric]}"
            for duel in duels(block, RIVALS[name])
            if not duel.better
        ]
        outcome = f"does not beat {', '.join(lost)}" if lost else "beats all its rivals"
        lines.append(f"* **{name}**: {outcome}.")
    return "\n".join(lines)


def bar_json(blocks: Mapping[str, Block], *, seed: int = 0) -> list[dict[str, object]]:
    """All outcomes, ready for JSON."""
    return [
        {
            "text": duel.own,
            "rival": duel.rival,
            "rival's words over ours": length_ratio(blocks[duel.own], duel.rival),
            "metric": duel.metric,
            "ours": round(duel.values[0], 4),
            "theirs": round(duel.values[1], 4),
            "better": duel.better,
            "beyond noise": duel.gain.beyond_noise,
            "ours minus theirs": plain(duel.gain),
        }
        for name, block in blocks.items()
        for duel in duels(block, RIVALS[name], seed=seed)
    ]


def _gain(duel: Duel) -> str:
    return figure(duel.gain.value, duel.gain.low, duel.gain.high, signed=True, digits=2)
