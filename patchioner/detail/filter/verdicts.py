"""From groups, supports and contradictions to verdicts, with the reasons in words.

Knows: what the other steps found. Does NOT know: photos, models, how anything was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from patchioner.detail.filter.agreement import Group
from patchioner.detail.filter.contradictions import Contradicted
from patchioner.detail.filter.witnesses import Company
from patchioner.detail.stages import Scorer
from patchioner.detail.values import Claim, DropReason, Support, Verdict

if TYPE_CHECKING:
    from patchioner.detail.filter.statements import FilterSettings

Reason = tuple[DropReason, str]

_OCCASIONS = (
    2  # other texts about a region, from which on it says something that none of them names a thing
)


def judge(
    claims: Sequence[Claim],
    groups: Sequence[Group],
    supports: Sequence[Support | None],
    lost: Sequence[Contradicted],
    company: Sequence[Company],
    *,
    scorer: Scorer | None,
    settings: FilterSettings,
) -> dict[str, Verdict]:
    """One verdict per claim, by claim id: a group's representative carries the group's.

    Args:
        claims: n.
        groups: m, of the claims.
        supports: m, of the groups' representatives; None where nothing scored them.
        lost: contradictions among the groups.
        company: n, of the claims.
        scorer: which gave the supports.
        settings: of the filter.
    """
    contradicted = {one.loser: one for one in lost}
    verdicts: dict[str, Verdict] = {}
    for place, (group, support) in enumerate(zip(groups, supports, strict=True)):
        loss = contradicted.get(place)
        reason = None if loss is None else _contradiction(loss, groups, claims)
        beside = company[group.representative]
        reason = reason or _unsupported(group, support, beside, scorer, settings)
        for verdict in _of_group(group, claims, support, reason, merge=settings.merge):
            verdicts[verdict.claim.id] = verdict
    return verdicts


def _contradiction(loss: Contradicted, groups: Sequence[Group], claims: Sequence[Claim]) -> Reason:
    winner = groups[loss.winner]
    samples = f"{winner.agreement} sample{'s' if winner.agreement > 1 else ''}"
    return (
        "contradiction",
        f'contradicts "{claims[winner.representative].text}" ({samples}) about the {loss.about}',
    )


def _unsupported(
    group: Group,
    support: Support | None,
    company: Company,
    scorer: Scorer | None,
    settings: FilterSettings,
) -> Reason | None:
    """Why the photo does not bear the group out; None where it does, or where nothing says so."""
    if support is None or scorer is None:
        return None
    if 0 < settings.trusted_agreement <= group.agreement:
        return None
    # The measure of whole sentences was fitted on captions; of a long text's sentences the things are judged.
    caption = company.sentences == 1 or not support.objects
    if (caption or settings.whole_sentences == "always") and support.score < scorer.threshold:
        return _weak(support, scorer)
    alone = company.sentences == 1 and group.agreement == 1 and company.others >= _OCCASIONS
    if alone and support.score < settings.lone_caption:
        return (
            "unsupported",
            f"one text alone says so, of {company.others + 1}: its support is {support.score:.2f}, below "
            f"{settings.lone_caption:.2f}",
        )
    lone = _lone(support, company, settings)
    if lone is not None or not (caption or settings.whole_sentences == "always"):
        return lone
    return _wrong_attribute(support, scorer, settings)


def _weak(support: Support, scorer: Scorer) -> Reason:
    worst = min(support.objects, key=lambda one: one[1], default=None)
    limit = getattr(scorer, "object_threshold", 0.0)
    if worst is not None and worst[1] < limit:
        return "object", f"no sign of {worst[0]!r} (support {worst[1]:.2f}, needs {limit:.2f})"
    return "unsupported", f"support {support.score:.2f}, needs {scorer.threshold:.2f}"


def _lone(support: Support, company: Company, settings: FilterSettings) -> Reason | None:
    """A thing of which there is little sign, and which none of the others names that had occasion to."""
    if company.others < _OCCASIONS:
        return None
    lone = [one for one in support.objects if not company.witnesses(one[0])]
    name, score = min(lone, key=lambda one: one[1], default=("", 1.0))
    if score >= settings.lone_support:
        return None
    return (
        "object",
        f"little sign of {name!r} (support {score:.2f}, needs {settings.lone_support:.2f}), which none of "
        f"{company.others} other texts names",
    )


def _wrong_attribute(support: Support, scorer: Scorer, settings: FilterSettings) -> Reason | None:
    wrong = min(support.attributes, key=lambda one: one[1], default=None)
    limit = getattr(scorer, "attribute_threshold", 0.0)
    if settings.attributes and wrong is not None and wrong[1] < limit:
        return (
            "attribute",
            f"the photo speaks against {wrong[0]!r} (support {wrong[1]:.2f}, needs {limit:.2f})",
        )
    return None


def _of_group(
    group: Group,
    claims: Sequence[Claim],
    support: Support | None,
    reason: Reason | None,
    *,
    merge: bool,
) -> list[Verdict]:
    first = claims[group.representative]
    others = [claims[member] for member in group.members if member != group.representative]
    verdict = Verdict(
        first,
        reason is None,
        group.agreement,
        group.regions,
        support,
        None if reason is None else reason[0],
        "" if reason is None else reason[1],
        tuple(claim.id for claim in others) if merge else (),
    )
    if reason is None and merge:
        same: Reason = ("duplicate", f'says the same as {first.id}: "{first.text}"')
        rest = [
            replace(verdict, claim=claim, kept=False, reason=same[0], note=same[1])
            for claim in others
        ]
    else:
        rest = [replace(verdict, claim=claim) for claim in others]
    return [verdict, *(replace(one, merged=(), regions=_own_first(one)) for one in rest)]


def _own_first(verdict: Verdict) -> tuple[str, ...]:
    return tuple(dict.fromkeys([verdict.claim.region_id, *verdict.regions]))
