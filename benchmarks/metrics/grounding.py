"""Is a region's caption about that region, and does it differ from its neighbours'?

None of the published tables measures this, so the definitions are ours:

* repeated pairs: of all pairs of different regions of one photo, the share whose captions are the same words;
* unique captions: the mean over photos of (different captions / regions), for photos with at least two regions;
* margin: how much better a caption fits the references of its own region than those of another region of the same photo
  (own score - mean score against the others);
* wins: share of the others that lose against the own references, a draw counting half.

A captioner that says the same of every region of a photo has a mean margin of exactly 0 and wins exactly half, by
symmetry.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.metrics.caption import FUNCTION_WORDS, check_pairs, cider, tokenize
from patchioner.base.errors import OptionError

# class: other words for it, separated by commas; the class's own name is always one.
_TABLE: Final = """
person: man, woman, boy, girl, child, kid, people, human, guy, lady, gentleman, baby, toddler, infant, adult, teenager,
    teen, someone, somebody, player, rider, skier, surfer, snowboarder, skateboarder, skater, batter, pitcher, catcher,
    umpire, referee, pedestrian, passenger, driver, cyclist, bicyclist, biker, motorcyclist, worker, chef, cook,
    officer, policeman, soldier, farmer, bride, groom, couple, crowd, tourist, spectator, male, female, swimmer,
    athlete, friend, family, mother, father, mom, dad, son, daughter, student, waiter, waitress, businessman,
    fisherman, cowboy
bicycle: bike, cycle
car: automobile, sedan, taxi, cab, suv, minivan, van, jeep, convertible
motorcycle: motorbike, scooter, moped, motor bike, motor cycle
airplane: plane, aeroplane, aircraft, jet, airliner, jetliner, biplane, air plane
bus: coach, double decker, minibus
train: locomotive, subway, tram, trolley, railcar, streetcar
truck: lorry, pickup, semi, trailer, tow truck, fire truck, firetruck, dump truck
boat: ship, canoe, kayak, sailboat, yacht, ferry, raft, rowboat, vessel, gondola, motorboat
traffic light: stoplight, stop light, traffic signal, street light, signal light
fire hydrant: hydrant
stop sign:
parking meter: meter
bench: park bench
bird: seagull, gull, pigeon, duck, goose, parrot, owl, eagle, crow, swan, chicken, hen, rooster, pelican, penguin,
    flamingo, ostrich, peacock, sparrow, heron, dove, hawk
cat: kitten, kitty
dog: puppy, pup, poodle, bulldog, terrier, retriever, doggy
horse: pony, foal, mare, stallion, colt
sheep: lamb, ram, ewe
cow: cattle, bull, calf, ox, steer, oxen
elephant:
bear: cub, grizzly
zebra:
giraffe:
backpack: back pack, knapsack, rucksack, bookbag
umbrella: parasol
handbag: purse, hand bag, pocketbook, tote
tie: necktie, neck tie, bow tie, bowtie
suitcase: luggage, baggage, briefcase
frisbee: disc
skis: ski
snowboard: snow board
sports ball: ball, soccer ball, baseball, basketball, football, tennis ball, volleyball, softball
kite: parasail
baseball bat: bat
baseball glove: mitt, glove, catcher 's mitt
skateboard: skate board, longboard
surfboard: surf board, body board, bodyboard, paddle board, paddleboard, wakeboard
tennis racket: racket, racquet, tennis racquet
bottle: wine bottle, beer bottle
wine glass: glass, goblet, wineglass, glass of wine
cup: mug, teacup, coffee cup, glass
fork:
knife: knives
spoon: ladle
bowl: dish
banana:
apple:
sandwich: burger, hamburger, cheeseburger, panini, sub
orange: tangerine, clementine, mandarin
broccoli:
carrot:
hot dog: hotdog, sausage, frankfurter
pizza:
donut: doughnut, pastry
cake: cupcake, cheesecake
chair: armchair, stool, recliner, seat
couch: sofa, loveseat, settee
potted plant: plant, houseplant, flower pot, flowerpot
bed: mattress, bunk
dining table: table, desk, counter, countertop
toilet: commode, urinal
tv: television, monitor, screen, tv set
laptop: computer, notebook, laptop computer
mouse: computer mouse
remote: remote control, controller, game controller, wii remote
keyboard: computer keyboard
cell phone: phone, cellphone, smartphone, mobile phone, iphone, telephone, smart phone
microwave: microwave oven
oven: stove, range
toaster: toaster oven
sink: basin, washbasin
refrigerator: fridge, freezer
book: novel, textbook, magazine
clock: clock tower, alarm clock
vase: pot, jar
scissors: scissor, shears
teddy bear: teddy, stuffed bear, stuffed animal, toy bear
hair drier: hair dryer, hairdryer, blow dryer, dryer
toothbrush: tooth brush
"""

# Compounds that hold a word of the table and name none of its classes.
_NOT_A_CLASS: Final = (
    "cat tail", "fire escape", "glass door", "glass window", "glass table", "train station", "train track",
    "train tracks", "bus stop", "bus station", "car park", "boat house", "bird house", "bird bath", "dog house",
    "tennis player", "baseball player", "baseball game", "baseball field", "basketball court", "football field",
    "soccer player", "baseball uniform", "baseball cap", "table cloth", "bed room", "book shelf", "book case",
    "power plant", "apple computer", "orange juice", "parking lot", "ski lift", "ski slope", "ski pole", "ski poles",
    "surf shop", "counter top",
)  # fmt: skip

# Words after which "orange" cannot be the colour of the thing that they name.
_NO_NOUNS: Final = FUNCTION_WORDS | {
    "near", "under", "between", "beside", "onto", "through", "behind", "next", "while", "sitting", "lying", "cut",
    "sliced", "slices", "without", "here", "hanging", "placed", "inside",
}  # fmt: skip

_IRREGULAR: Final = {
    "man": "men", "woman": "women", "child": "children", "person": "persons", "policeman": "policemen",
    "businessman": "businessmen", "fisherman": "fishermen", "gentleman": "gentlemen", "goose": "geese", "foot": "feet",
    "mouse": "mice", "knife": "knives", "calf": "calves", "sheep": "sheep", "aircraft": "aircraft", "cattle": "cattle",
    "luggage": "luggage", "people": "people", "broccoli": "broccoli", "skis": "skis", "scissors": "scissors",
}  # fmt: skip


def _synonyms() -> dict[str, tuple[str, ...]]:
    table = {}
    for entry in _TABLE.strip().replace("\n    ", " ").splitlines():
        name, _, others = entry.partition(":")
        table[name] = (name, *(other.strip() for other in others.split(",") if other.strip()))
    return table


SYNONYMS: Final[Mapping[str, tuple[str, ...]]] = _synonyms()
"""COCO class -> the singular words that name it, its own name first."""


def plural(phrase: str) -> str:
    """Plural of an English noun phrase (of its last word)."""
    head, space, word = phrase.rpartition(" ")
    if word in _IRREGULAR:
        return head + space + _IRREGULAR[word]
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return f"{phrase}es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return f"{phrase[:-1]}ies"
    return f"{phrase}s"


def named_classes(caption: str) -> frozenset[str]:
    """COCO classes that a caption names; a word may stand for several ("glass": cup and wine glass)."""
    return frozenset(name for names in _mentions(tokenize(caption)) for name in names)


def _mentions(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    phrases, longest = _phrases()
    start = 0
    while start < len(words):
        for size in range(min(longest, len(words) - start), 0, -1):
            found = phrases.get(tuple(words[start : start + size]))
            if found is not None:
                break
        else:
            start += 1
            continue
        after = words[start + size] if start + size < len(words) else ""
        colour = after.isalpha() and after not in _NO_NOUNS
        if not (words[start] == "orange" and size == 1 and colour):
            yield found
        start += size


@lru_cache(maxsize=1)
def _phrases() -> tuple[dict[tuple[str, ...], tuple[str, ...]], int]:
    """Words of every phrase -> the classes it names; and the number of words of the longest."""
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for name, synonyms in SYNONYMS.items():
        for phrase in synonyms:
            for form in dict.fromkeys((phrase, plural(phrase))):
                key = tuple(form.split())
                found[key] = (*found.get(key, ()), name)
    for phrase in _NOT_A_CLASS:
        found.setdefault(tuple(phrase.split()), ())
    return found, max(map(len, found))


Floats = NDArray[np.float64]

PairMeasure = Callable[[Sequence[str], Sequence[Sequence[str]]], ArrayLike]
"""(n captions, n lists of references) -> n scores."""


def distinctness(
    captions: Sequence[str], photos: Sequence[str], regions: Sequence[Hashable]
) -> tuple[dict[str, tuple[int, int]], float]:
    """How distinct the captions of the regions of each photo are; case and punctuation do not matter.

    `photos` and `regions` name those of each of n captions; a region that comes twice in a photo, as it does where each
    reference is a sample, counts once. OptionError: one region has two different captions.

    Returns:
        By photo with two regions or more, (pairs of regions with the same caption, pairs of regions); and the mean
        share of different captions per photo, 0..1, 1 where no photo has two regions.
    """
    said: dict[str, dict[Hashable, tuple[str, ...]]] = {}
    for caption, photo, region in zip(captions, photos, regions, strict=True):
        words = tuple(tokenize(caption))
        if said.setdefault(photo, {}).setdefault(region, words) != words:
            raise OptionError(
                f"region {region!r} of photo {photo!r} has two different captions, {caption!r} is one: give each region"
                " a name of its own"
            )
    counts = {photo: Counter(found.values()) for photo, found in said.items() if len(found) > 1}
    pairs = {
        photo: (sum(math.comb(n, 2) for n in found.values()), math.comb(found.total(), 2))
        for photo, found in counts.items()
    }
    unique = [len(found) / found.total() for found in counts.values()]
    return pairs, sum(unique) / len(unique) if unique else 1.0


@dataclass(frozen=True)
class Grounding:
    """How well captions belong to their own regions.

    Attributes:
        samples: indices of the samples that have another region in their photo; the rest cannot be compared.
        own, other: (samples,) scores against the own references, and the mean against the others.
        wins: (samples,) share of the others that each beats, 0..1.
    """

    samples: tuple[int, ...]
    own: Floats
    other: Floats
    wins: Floats

    @property
    def margins(self) -> Floats:
        """(samples,) own minus other."""
        return self.own - self.other


def fixed_cider(references: Sequence[Sequence[str]]) -> PairMeasure:
    """CIDEr-D as a measure of pairs, with the idf of these references kept whatever pairs are asked."""
    score = partial(cider, idf_from=references)
    return lambda said, due: score(said, due)[1]


def class_named(captions: Sequence[str], classes: Sequence[Sequence[str]]) -> Floats:
    """100 where a caption names its COCO class (the first of its references), else 0: a `PairMeasure`."""
    named = {text: named_classes(text) for text in set(captions)}
    pairs = zip(captions, classes, strict=True)
    return np.array([100.0 * (due[0] in named[text]) for text, due in pairs])


def grounding(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    photos: Sequence[Hashable],
    measure: PairMeasure,
    regions: Sequence[Hashable] | None = None,
) -> Grounding:
    """Compare each of n captions with its own references and with those of the other regions of its photo.

    `measure` (say `fixed_cider(references)`) is asked once for all pairs and must not depend on which others are asked,
    so plain `cider` will not do. Samples of one region are not compared; `regions` None: each has its own. OptionError:
    lengths differ, no photo has two regions, or the measure does not give one finite score per pair.
    """
    check_pairs(captions, references)
    names: Sequence[Hashable] = range(len(captions)) if regions is None else regions
    if not len(captions) == len(photos) == len(names):
        raise OptionError(
            f"{len(captions)} captions, {len(photos)} photos, {len(names)} regions: give one of each per sample"
        )
    members: dict[Hashable, list[int]] = {}
    for index, photo in enumerate(photos):
        members.setdefault(photo, []).append(index)
    groups = members.values()
    pairs = [(i, j) for group in groups for i in group for j in group if names[i] != names[j]]
    if not pairs:
        raise OptionError("no photo has two regions: there is nothing to compare a region with")
    kept = sorted({left for left, _ in pairs})
    asked = [(i, i) for i in kept] + pairs
    given = measure([captions[i] for i, _ in asked], [references[j] for _, j in asked])
    scores = np.asarray(given, dtype=np.float64)
    if scores.shape != (len(asked),) or not np.isfinite(scores).all():
        raise OptionError(
            f"the measure gave scores of shape {scores.shape} for {len(asked)} pairs: give one finite score per pair"
        )
    own, theirs = scores[: len(kept)], scores[len(kept) :]
    rows = np.searchsorted(kept, [left for left, _ in pairs])
    mine, counts = own[rows], np.bincount(rows)
    other = np.bincount(rows, theirs) / counts
    wins = np.bincount(rows, (mine > theirs) + 0.5 * (mine == theirs)) / counts
    return Grounding(tuple(kept), own, other, wins)


def one_reference_each(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]], NDArray[np.intp]]:
    """Take samples with several references apart: predictions, lists of one reference, index of each row's sample.

    Region sets come with one to five references. Scored together, a set is one sample against all of them, as the
    published system does; one at a time is what comparisons with single-reference systems need.
    """
    check_pairs(predictions, references)
    rows = [(i, text) for i, group in enumerate(references) for text in group]
    origin = np.array([i for i, _ in rows], dtype=np.intp)
    return [predictions[i] for i, _ in rows], [[text] for _, text in rows], origin
