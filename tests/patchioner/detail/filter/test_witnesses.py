"""Who else names a thing, and what follows for the thing that nobody else names."""

from __future__ import annotations

from patchioner.detail.filter.agreement import Group
from patchioner.detail.filter.statements import FilterSettings
from patchioner.detail.filter.verdicts import judge
from patchioner.detail.filter.witnesses import Company, companies
from patchioner.detail.stages import Photo
from patchioner.detail.values import Claim, DetailRegion, Support

WHOLE = DetailRegion("global", "global", (0, 0, 100, 100))
LEFT = DetailRegion("left", "spatial", (0, 0, 50, 100))
RIGHT = DetailRegion("right", "spatial", (50, 0, 100, 100))
REGIONS = {region.id: region for region in (WHOLE, LEFT, RIGHT)}


class _Scorer:
    threshold = 0.5
    object_threshold = 0.5
    attribute_threshold = 0.0
    settings: dict[str, object] = {}

    def score(self, photo: Photo, sentences: object) -> list[Support]:
        raise AssertionError("the supports are given")


def claim(name: str, text: str, region: str = "global", sample: int = 0) -> Claim:
    return Claim(name, text, region, sample, 0)


def kept(support: Support, company: Company, settings: FilterSettings | None = None) -> bool:
    verdicts = judge(
        [claim("c1", "A bus.")],
        [Group(0, (0,), 1, ("global",))],
        [support],
        [],
        [company],
        scorer=_Scorer(),
        settings=settings or FilterSettings(),
    )
    return verdicts["c1"].kept


def test_other_samples_of_overlapping_regions_are_witnesses() -> None:
    claims = [
        claim("c1", "A tour bus and a tree.", "left"),
        claim("c2", "A bus.", "left", 1),
        claim("c3", "A bus on a road.", "global"),
        claim("c4", "A tree.", "right"),
    ]
    found = companies(claims, claims, REGIONS)[0]
    assert (found.others, found.sentences) == (2, 1)
    assert (found.witnesses("tour bus"), found.witnesses("tree")) == (2, 0)


def test_people_witness_one_another() -> None:
    claims = [claim("c1", "A pedestrian."), claim("c2", "A man.", sample=1)]
    assert companies(claims, claims, REGIONS)[0].witnesses("woman") == 1


def test_weak_lone_thing_drops_its_sentence() -> None:
    weak = Support(0.1, (("bus", 0.05),))
    assert not kept(weak, Company(3, 4, {}))
    assert kept(weak, Company(3, 4, {"bus": 1}))
    assert kept(weak, Company(3, 1, {}))  # nobody had the occasion
    assert kept(weak, Company(3, 4, {}), FilterSettings(lone_support=0.0))
    assert kept(Support(0.1, (("bus", 0.3),)), Company(3, 4, {}))


def test_whole_sentences_count_for_captions() -> None:
    weak = Support(0.1, (("bus", 0.9),))
    assert not kept(weak, Company(1, 0, {}))
    assert kept(weak, Company(2, 0, {}))
    assert not kept(Support(0.1), Company(2, 0, {}))
    assert not kept(weak, Company(2, 0, {}), FilterSettings(whole_sentences="always"))


def test_lone_caption_needs_more() -> None:
    fair = Support(0.55, (("bus", 0.9),))
    assert not kept(fair, Company(1, 4, {"bus": 3}))
    assert kept(fair, Company(1, 1, {}))
    assert kept(fair, Company(1, 4, {}), FilterSettings(lone_caption=0.0))
