"""The filter: raw statements in, a verdict on each of their sentences out.

Knows: the order of its steps. Does NOT know: how a describer works, how a paragraph is made of what is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from patchioner.base.errors import DetailError, OptionError
from patchioner.detail.filter.agreement import Group, agreeing_groups
from patchioner.detail.filter.contradictions import contradicted_groups
from patchioner.detail.filter.rules import Cleaned, clean
from patchioner.detail.filter.verdicts import judge
from patchioner.detail.filter.witnesses import companies
from patchioner.detail.stages import Photo, Scorer
from patchioner.detail.text import split_sentences
from patchioner.detail.text.similarity import Embed
from patchioner.detail.values import Claim, DetailRegion, Statement, Support, Verdict


@dataclass(frozen=True)
class FilterSettings:
    """What the filter does.

    Attributes:
        rules: hedges, mood, preamble and fragments are cut off or dropped.
        mood: whether the rules drop sentences of mood; off for benchmarks whose references are full of it.
        alike: similarity from which two claims say the same.
        agreement_overlap: share of the smaller region from which two regions may show the same thing.
        contradictions: of claims that contradict one another one is kept.
        contradiction_overlap: as above, for contradictions.
        trusted_agreement: from so many samples on a claim is kept without support; 0: never. The published system takes
            two samples that agree for proof; two samples of one model make the same mistakes.
        whole_sentences: which sentences need the scorer's support as a whole. It was calibrated on captions, and of the
            sentences of long texts it drops every third true one: "captions" asks it of texts of one sentence, and of
            sentences of which the scorer scores no single thing; "always" of all. `attributes` goes by the same.
        lone_support: a thing drops its sentence where its own support is below this and no other sample of an
            overlapping region names it (two at least must have had the occasion); 0: never. Chosen on the 101 photos
            of DID-Bench that have no reference; see `benchmarks.detail.planting` for what is planted there.
        lone_caption: a text of one sentence that no other sample agrees with needs this support; 0: no more than the
            others; 1: it goes. Our own captions come from the alignment that scores them, so that scores alone say
            little. Found on 68 dev photos and seen again on the 46 others: with a `FuseSettings.new_share` of 0.5,
            precision of objects 53.6 to 58.7 %, recall 62.9 to 58.7 %, against a value of 0.6 and a share of 0.25.
        attributes: a colour or material that the photo speaks against drops its sentence.
        merge: of claims that say the same one is kept, and names the others in `merged`.

    Raises:
        OptionError: a value outside of its range.
    """

    rules: bool = True
    mood: bool = True
    alike: float = 0.6
    agreement_overlap: float = 0.1
    contradictions: bool = True
    contradiction_overlap: float = 0.5
    trusted_agreement: int = 0
    whole_sentences: Literal["captions", "always"] = "captions"
    lone_support: float = 0.2
    lone_caption: float = 1.0
    attributes: bool = True
    merge: bool = True

    def __post_init__(self) -> None:
        shares = (
            "alike",
            "agreement_overlap",
            "contradiction_overlap",
            "lone_support",
            "lone_caption",
        )
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        if self.whole_sentences not in ("captions", "always"):
            raise OptionError(
                f"whole_sentences is {self.whole_sentences!r}; it must be captions or always"
            )
        if self.trusted_agreement < 0:
            raise OptionError(
                f"trusted_agreement is {self.trusted_agreement}; it must be 0 or more"
            )

    def to_json(self) -> dict[str, object]:
        """Names and numbers."""
        return asdict(self)


def filter_statements(
    photo: Photo,
    regions: Sequence[DetailRegion],
    statements: Sequence[Statement],
    *,
    scorer: Scorer | None = None,
    settings: FilterSettings | None = None,
    embed: Embed | None = None,
) -> list[Verdict]:
    """Judge each sentence of each statement.

    Sentences are split and cleaned by rule, sorted into groups that say the same, scored against the photo, and of
    those that contradict one another the best is kept.

    **What cannot be verified this way**: numbers, left and right, who does what, which of two things has an attribute,
    negation; text in the photo; names. The score says that the things of a sentence are there, and a little about
    colours and materials. Agreement among samples of one model is no proof either: it repeats its mistakes. What of a
    sentence is not verified stands in `Support.unverifiable`.

    Args:
        photo: with features where the scorer wants them.
        regions: all that statements speak of.
        statements: ordered by region, then sample.
        scorer: of support; None scores nothing, and nothing is dropped for lack of it.
        settings: None is `FilterSettings()`.
        embed: sentence embeddings, to tell better what says the same.

    Returns:
        One verdict per claim, in order. A dropped claim keeps the text that it came with; a kept one is cleaned, and
        its note says of what.

    Raises:
        DetailError: a statement speaks of a region that is not given, or two regions have one id.

    Example:
        >>> verdicts = filter_statements(photo, regions, describer.describe(photo, regions))  # doctest: +SKIP
    """
    chosen = settings or FilterSettings()
    by_id = _by_id(regions, statements)
    claims = split_claims(statements)
    cleaned = [
        clean(claim.text, mood=chosen.mood) if chosen.rules else Cleaned(claim.text)
        for claim in claims
    ]
    left = [
        replace(claim, text=one.text)
        for claim, one in zip(claims, cleaned, strict=True)
        if one.reason is None
    ]
    groups = agreeing_groups(
        left, by_id, alike=chosen.alike, overlap=chosen.agreement_overlap, embed=embed
    )
    supports = _supports(photo, by_id, left, groups, scorer)
    lost = (
        contradicted_groups(
            groups,
            left,
            by_id,
            [None if support is None else support.score for support in supports],
            overlap=chosen.contradiction_overlap,
        )
        if chosen.contradictions
        else []
    )
    company = companies(claims, left, by_id, overlap=chosen.agreement_overlap)
    judged = judge(left, groups, supports, lost, company, scorer=scorer, settings=chosen)
    dropped = {
        claim.id: Verdict(
            claim, False, regions=(claim.region_id,), reason=one.reason, note=one.note
        )
        for claim, one in zip(claims, cleaned, strict=True)
        if one.reason is not None
    }
    for claim, one in zip(claims, cleaned, strict=True):
        if one.note and claim.id in judged and not judged[claim.id].note:
            judged[claim.id] = replace(judged[claim.id], note=one.note)
    return [judged[claim.id] if claim.id in judged else dropped[claim.id] for claim in claims]


def split_claims(statements: Sequence[Statement]) -> list[Claim]:
    """The sentences of all statements, with ids "c1", "c2", ... in order.

    Example:
        >>> [claim.text for claim in split_claims([Statement("global", 0, "A cat. A dog.")])]
        ['A cat.', 'A dog.']
    """
    claims: list[Claim] = []
    for statement in statements:
        for place, text in enumerate(split_sentences(statement.text)):
            claims.append(
                Claim(
                    f"c{len(claims) + 1}",
                    text,
                    statement.region_id,
                    statement.sample,
                    place,
                    statement.log_prob,
                )
            )
    return claims


def _by_id(
    regions: Sequence[DetailRegion], statements: Sequence[Statement]
) -> dict[str, DetailRegion]:
    found = OrderedDict((region.id, region) for region in regions)
    if len(found) < len(regions):
        raise DetailError(
            f"two regions have one id among {[region.id for region in regions]}: number them"
        )
    for statement in statements:
        if statement.region_id not in found:
            raise DetailError(
                f"a statement speaks of region {statement.region_id!r}, but the regions are {list(found)}"
            )
    return found


def _supports(
    photo: Photo,
    regions: dict[str, DetailRegion],
    claims: Sequence[Claim],
    groups: Sequence[Group],
    scorer: Scorer | None,
) -> list[Support | None]:
    """That of each group's representative."""
    if scorer is None or not groups:
        return [None] * len(groups)
    asked = [claims[group.representative] for group in groups]
    return list(scorer.score(photo, [(regions[claim.region_id], claim.text) for claim in asked]))
