"""From groups, supports and contradictions to verdicts, with the reasons in words.

Knows: what the other steps found. Does NOT know: photos, models, how anything was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from patchioner.detail.filter.agreement import Group
from patchioner.detail.filter.contradictions import Contradicted
from patchioner.detail.stages import Scorer
from patchioner.detail.values import Claim, DropReason, Support, Verdict

if TYPE_CHECKING:
    from patchioner.detail.filter.statements import FilterSettings

Reason = tuple[DropReason, str]


def judge(
    claims: Sequence[Claim],
    groups: Sequence[Group],
    supports: Sequence[Support | None],
    lost: Sequence[Contradicted],
    *,
    scorer: Scorer | None,
    settings: FilterSettings,
) -> dict[str, Verdict]:
    """One verdict per claim, by claim id: a group's representative carries the group's."""
    contradicted = {one.loser: one for one in lost}
    verdicts: dict[str, Verdict] = {}
    for place, (group, support) in enumerate(zip(groups, supports, strict=True)):
        loss = contradicted.get(place)
        reason = None if loss is None else _contradiction(loss, groups, claims)
        reason = reason or _unsupported(group, support, scorer, settings)
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
    group: Group, support: Support | None, scorer: Scorer | None, settings: FilterSettings
) -> Reason | None:
    """Why the photo does not bear the group out; None where it does, or where nothing says so."""
    if support is None or scorer is None:
        return None
    if 0 < settings.trusted_agreement <= group.agreement:
        return None
    if support.score < scorer.threshold:
        worst = min(support.objects, key=lambda one: one[1], default=None)
        limit = getattr(scorer, "object_threshold", 0.0)
        if worst is not None and worst[1] < limit:
            return "object", f"no sign of {worst[0]!r} (support {worst[1]:.2f}, needs {limit:.2f})"
        return "unsupported", f"support {support.score:.2f}, needs {scorer.threshold:.2f}"
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
