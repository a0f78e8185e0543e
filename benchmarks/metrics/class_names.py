"""Which of the 80 COCO classes a caption names, by a table of synonyms.

Compounds that are something else do not count ("hot dog" is no dog), "orange" before a noun is a colour; other
ambiguities are left as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

from benchmarks.metrics.caption import FUNCTION_WORDS
from benchmarks.metrics.words import tokenize

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
