"""What the stages hand to one another, and a description as JSON; and sentences: their ends, words, things, likeness.

photo -> `DetailRegion`s -> `Statement`s (raw texts) -> `Claim`s (sentences) -> `Verdict`s -> `DetailedCaption`

`to_json` gives one object per photo::

    {"format": "patchioner-detail", "version": 1, "photo": "bus.jpg", "sha256": "9f0c..." or null, "size": [640, 480],
     "text": "...", "reason": null or why the text is empty,
     "sentences": [{"text", "claims": ["c1"], "regions": ["global"], "agreement": 3, "support": 0.94}],
     "regions": [{"id", "kind", "box": XYXY pixels, "mask": uncompressed run lengths or null, "parents", "name"}],
     "kept": [verdict, ...], "dropped": [verdict, ...], "settings": names and numbers of every stage, and the seed}

and a verdict is ``{"id": "c7", "text", "region", "sample", "place", "log_prob", "agreement", "regions", "support":
{"score", "objects": [["bus", 0.97]], "unverifiable": ["number: two"]} or null, "reason", "note", "merged": ["c9"]}``.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt
from PIL import Image

from decoders.scene_graph import WORD, WORDS, Token, noun_phrases, singular, tag, word_set
from patchioner.base.errors import DetailError, OptionError, RegionError
from patchioner.images import ImageSource, load_image
from patchioner.nouns import PEOPLE
from patchioner.regions import Box, Mask, Region, WholeImage, encode_rle

if TYPE_CHECKING:
    from patchioner.backbones import PatchFeatures
    from patchioner.model import Patchioner

FloatArray = npt.NDArray[np.float64]
Rectangle = tuple[float, float, float, float]
RegionKind = Literal["global", "spatial", "semantic", "grid", "user"]
REGION_KINDS: tuple[RegionKind, ...] = ("global", "semantic", "user", "spatial", "grid")
"""In the order in which a paragraph speaks of them."""
FORMAT, VERSION = "patchioner-detail", 1
_TEXT = Path(__file__).with_name("words.txt").read_text(encoding="utf-8")
_, *_PARTS = re.split(r"^\[(.+)\]\n", re.sub("(?m)^#.*\n", "", _TEXT), flags=re.MULTILINE)
LISTS = dict(zip(_PARTS[::2], _PARTS[1::2], strict=True))
"""Word lists and prompts by their names, as they are written in words.txt."""
_SETS = {name: word_set(text) for name, text in LISTS.items()}


def any_of(name: str) -> re.Pattern[str]:
    """Matches each of a list's alternatives, which are separated by white space; "_" is a space."""
    alternatives = "|".join(LISTS[name].split()).replace("_", " ")
    return re.compile(rf"\b(?:{alternatives})\b", re.IGNORECASE)


def prompt(name: str) -> str:
    """What a model is asked, a paragraph a line."""
    return "\n".join(" ".join(one.split()) for one in LISTS[name].strip().split("\n\n"))


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo: name, upright RGB in original size (not to be changed), sha256 of its size and pixels, and its one
    backbone pass where a `Patchioner` is at work."""

    name: str
    image: Image.Image
    sha256: str
    features: PatchFeatures | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.image.size


def open_photo(
    source: ImageSource, model: Patchioner | None = None, *, name: str | None = None
) -> Photo:
    """Read a photo for the stages, and encode it where a model is given; `ImageError` where it cannot be read."""
    image = load_image(source)
    digest = hashlib.sha256(f"{image.mode} {image.width}x{image.height} ".encode())
    digest.update(image.tobytes())
    called = os.fspath(source) if isinstance(source, (str, os.PathLike)) else "photo"
    features = None if model is None else model.encode(image)
    return Photo(name or called, image, digest.hexdigest(), features)


@dataclass(frozen=True, eq=False)
class DetailRegion:
    """A part of a photo that is described on its own.

    `id` is unique within the photo ("global", "spatial-1"); `kind` "spatial" is a quadrant, "grid" a cell, "semantic" a
    thing that was found, "user" one that was given; `box` (left, top, right, bottom) in float pixels and `mask`
    (height, width) bool are of the original photo; `parents`: ids of regions that it was made of or lies in.
    """

    id: str
    kind: RegionKind
    box: Rectangle
    mask: npt.NDArray[np.bool_] | None = None
    parents: tuple[str, ...] = ()
    name: str | None = None

    @property
    def region(self) -> Region:
        """The region as `Patchioner.caption` takes it."""
        if self.kind == "global":
            return WholeImage()
        return Box(*self.box) if self.mask is None else Mask(self.mask)


@dataclass(frozen=True)
class Statement:
    """A raw text about a region: which region, which of its texts (from 0), mean log-probability per token."""

    region_id: str
    sample: int
    text: str
    log_prob: float | None = None


@dataclass(frozen=True)
class Claim:
    """One sentence of a statement; `id` is "c1", "c2", ... in reading order, `place` its number in the statement."""

    id: str
    text: str
    region_id: str
    sample: int
    place: int
    log_prob: float | None = None

    @property
    def text_id(self) -> tuple[str, int]:
        """Of the statement: its region and sample."""
        return self.region_id, self.sample


@dataclass(frozen=True)
class Support:
    """How well the photo supports a sentence: its calibrated score, 0 to 1, and (name, score) of each thing in it.
    `unverifiable` is what of it no score can tell: counts, colours, left and right, relations, negation."""

    score: float
    objects: tuple[tuple[str, float], ...] = ()
    unverifiable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Whether a claim may be used, and why not.

    `agreement`: in how many samples something like it was said; `regions`: in whose texts, its own first; `support`: of
    the photo, None where nothing scored it; `reason`: None when kept, else "preamble", "hedge", "fragment",
    "unsupported", "object", "duplicate", "length" or "no source"; `note`: the reason in words; `merged`: ids of the
    claims that say the same.
    """

    claim: Claim
    kept: bool
    agreement: int = 1
    regions: tuple[str, ...] = ()
    support: Support | None = None
    reason: str | None = None
    note: str = ""
    merged: tuple[str, ...] = ()


@dataclass(frozen=True)
class FusedSentence:
    """One sentence of the paragraph: the kept claims that it says, where they were said, the largest agreement of them
    and the smallest support; None where nothing scored them.
    """

    text: str
    claim_ids: tuple[str, ...]
    region_ids: tuple[str, ...]
    agreement: int = 1
    support: float | None = None


@dataclass(frozen=True, eq=False)
class DetailedCaption:
    """A paragraph with its provenance: verdicts on what was `dropped`, by the fuser too, and `kept`; all `regions`;
    `image_size` (width, height) in pixels; `settings` that made it, ready for JSON. Where `text` is "", `reason` says
    why.
    """

    text: str
    sentences: tuple[FusedSentence, ...]
    dropped: tuple[Verdict, ...]
    kept: tuple[Verdict, ...]
    regions: tuple[DetailRegion, ...]
    image_size: tuple[int, int]
    reason: str | None = None
    settings: dict[str, object] = field(default_factory=dict)


class Describer(Protocol):
    """Photo and regions -> statements; `settings`, as of all stages, decide its result: JSON values, no secrets."""

    settings: dict[str, object]

    def describe(
        self, photo: Photo, regions: Sequence[DetailRegion], *, seed: int = 0
    ) -> list[Statement]:
        """All samples of all regions, ordered by region, then sample."""


class Scorer(Protocol):
    """How far a photo supports sentences; from `threshold`, a calibrated score, a sentence counts as supported."""

    settings: dict[str, object]
    threshold: float

    def score(self, photo: Photo, sentences: Sequence[tuple[DetailRegion, str]]) -> list[Support]:
        """One `Support` per (region, sentence), in order."""


class Fuser(Protocol):
    """Verdicts -> sentences of a paragraph."""

    settings: dict[str, object]

    def fuse(
        self, photo: Photo, regions: Sequence[DetailRegion], kept: Sequence[Verdict]
    ) -> tuple[list[FusedSentence], list[Verdict]]:
        """The sentences in order, and verdicts (kept=False, with a reason) on kept claims that it left out."""


def to_json(caption: DetailedCaption, photo: str, *, sha256: str | None = None) -> dict[str, Any]:
    """The object described above, of plain JSON values; `DetailError` for what JSON cannot express."""
    head = {"format": FORMAT, "version": VERSION, "photo": photo, "sha256": sha256}
    # Through the text and back: what is handed out is what a file would hold.
    plain: dict[str, Any] = json.loads(dumps({**head, **_plain(caption)}))
    return plain


def dumps(values: Mapping[str, Any]) -> str:
    """One line of JSON, the same for the same values; `DetailError` for what JSON cannot express."""
    try:
        return json.dumps(values, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DetailError(f"{values.get('photo')!r} cannot be written as JSON: {error}") from error


def from_json(values: object) -> tuple[str, DetailedCaption]:
    """(name of the photo, its description) from what `to_json` gave. `DetailError`: another format or version, or a
    field is missing or malformed; the message names it."""
    if not isinstance(values, Mapping) or values.get("format") != FORMAT:
        raise DetailError(f"no detailed caption ({FORMAT!r}): give a line of --json or --out")
    if values.get("version") != VERSION:
        raise DetailError(
            f"the detailed caption has version {values.get('version')!r}, known is {VERSION}: describe the photo again"
        )
    try:
        plain = {**values}
        for name in ("kept", "dropped"):
            plain[name] = [{**one, "claim": one, "kept": name == "kept"} for one in values[name]]
        return str(values["photo"]), read(DetailedCaption, plain)
    except (KeyError, TypeError, ValueError, RegionError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        photo = values.get("photo")
        raise DetailError(f"the detailed caption of {photo!r} is damaged: {what}") from error


_JSON_NAMES = {
    "image_size": "size", "claim_ids": "claims", "region_ids": "regions", "region_id": "region"
}  # fmt: skip


def _plain(value: Any) -> Any:
    """As JSON has it: a verdict is flat with its claim, and the list that it is in tells whether it is kept."""
    if is_dataclass(value):
        found = {_JSON_NAMES.get(name, name): _plain(one) for name, one in vars(value).items()}
        if isinstance(value, Verdict):
            del found["kept"]
        return {**found.pop("claim", {}), **found}
    if isinstance(value, np.ndarray):
        return encode_rle(value)
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


_hints: Callable[[Any], dict[str, Any]] = cache(get_type_hints)


def read(kind: Any, value: Any) -> Any:
    """A value of the annotated kind from JSON; TypeError, ValueError or KeyError where it is of another."""
    kinds, origin = get_args(kind), get_origin(kind)
    if is_dataclass(kind):
        hints, made = _hints(kind), cast(Any, kind)
        fields = {
            name: read(hint, value[_JSON_NAMES.get(name, name)]) for name, hint in hints.items()
        }
        return made(**fields)
    if type(None) in kinds:
        return None if value is None else read(kinds[0], value)
    if origin is tuple and isinstance(value, list):
        several = [kinds[0]] * len(value) if kinds[-1] is ... else kinds
        return tuple(read(one, part) for one, part in zip(several, value, strict=True))
    if origin is np.ndarray:
        return Mask.from_rle(value).array
    if kind is float and type(value) is int:
        return float(value)
    good = value in kinds if origin is Literal else type(value) is (origin or kind)
    if not good:
        raise TypeError(f"{value!r:.40} stands where {kind} should")
    return value


def check(settings: object, **ranges: tuple[float, float] | tuple[str, ...]) -> None:
    """Refuse (`OptionError`) a setting outside of its range, (least, most), or not among its words; None passes."""
    for name, allowed in ranges.items():
        value = getattr(settings, name)
        whole = type(settings).__annotations__.get(name) in ("int", int)
        if isinstance(allowed[0], str):
            good, wanted = value in allowed, f"use one of {', '.join(map(str, allowed))}"
        else:
            number = type(value) is int or (type(value) is float and not whole)
            good = number and allowed[0] <= value <= allowed[1]
            wanted = f"give a {'whole ' if whole else ''}number from {allowed[0]} to {allowed[1]}"
        if not (good or value is None):
            raise OptionError(f"{name} is {value!r}: {wanted}")


_NUMBERED = re.compile(r"(?:^|(?<=\s))\(?(\d{1,2})[.)]\s+(?=\S)")
_BULLET = re.compile(r"(?m)(?:^[ \t]*|(?<=[.:;!?]\s))[-*+•–●▪‣][ \t]+(?=\S)")
_STOP = re.compile(r"(?:(?<![.!?])[.!?]+|\u2026)[\"'\u201d\u2019)\]]*(?=\s+\S)")
_TITLE = re.compile(r"^([^.:;!?\"]{1,80}):\s+(?=[A-Z])")
_ITEM = "\n\0"
# Of Markdown and HTML: links, tags, rules, headings and quotations, cells of tables, what stands between marks.
_MARKS = (
    (re.compile(r"[ \t]+"), " "),
    (re.compile(r"!?\[([^]\n]{0,200})\]\([^)\s]*\)"), r"\1"),
    (re.compile(r"(?i)</(?:p|li|tr|h\d)>|<br ?/?>"), "\n"),
    (re.compile(r"(?i)</?(?:[biup]|em|strong|code|span|[ou]l|li|h\d|t\w+)(?: [^<>\n]*)?>"), ""),
    (re.compile(r"(?m)^[ \t]*(?:[-*_=| :]{3,}|```\w*)[ \t]*$"), ""),
    (re.compile(r"(?m)^[ \t]*(?:#{1,6}[ \t]+|>[ \t]?|\|[ \t]*)|[ \t]*\|[ \t]*$"), ""),
    (re.compile(r"[ \t]+\|[ \t]+"), ", "),
    (
        re.compile(
            r"([*_]{2,3}|~~|`|(?<![\w*])\*|(?<![\w_])_)(?=[^\s*_])(.{1,200}?)(?<=\S)\1(?!\w)"
        ),
        r"\2",
    ),
)


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, in order, stripped and with single spaces.

    Items of a list ("1. A bench. 2. A tree", bullets, one below the other or glued into a line) become sentences of
    their own, without their marks and with a full stop; so does a title ("A bench: It is made of wood"). What leads in
    to a list stays a sentence that ends in a colon. Quoted stops, abbreviations, initials and decimals end nothing.
    """
    plain = html.unescape(text.replace("\r", "\n").replace("\0", " "))
    for pattern, left in _MARKS:
        plain = pattern.sub(left, plain)
    plain = plain.strip()
    for start, end in reversed(_list_marks(plain)):
        plain = f"{plain[:start]}{_ITEM}{plain[end:]}"
    found: list[str] = []
    for line in _BULLET.sub(_ITEM, plain).split("\n"):
        found += _item(line[1:].strip()) if line.startswith("\0") else _prose(line)
    return found


def _list_marks(text: str) -> list[tuple[int, int]]:
    """(start, end) of the marks 1., 2., 3., ...: a lone number, or one out of turn, is part of a sentence."""
    marks: list[tuple[int, int]] = []
    for match in _NUMBERED.finditer(text):
        number = int(match.group(1))
        if number == len(marks) + 1 or (number == 1 and len(marks) == 1):
            marks = [*marks, match.span()] if number > 1 else [match.span()]
    return marks if len(marks) > 1 or (marks and marks[0][0] == 0) else []


def _item(text: str) -> list[str]:
    title = _TITLE.match(text)
    if title:
        return [_stopped(title.group(1)), *_item(text[title.end() :])]
    sentences = _prose(text)
    return [*sentences[:-1], *map(_stopped, sentences[-1:])]


def _stopped(sentence: str) -> str:
    bare = sentence.rstrip(" ,;")
    return bare if bare.endswith((".", "!", "?", ":", '."', ".\u201d", "\u2026")) else f"{bare}."


def _prose(text: str) -> list[str]:
    found: list[str] = []
    start = 0
    for match in _STOP.finditer(text):
        if _ends(text, start, match):
            found.append(text[start : match.end()])
            start = match.end()
    found.append(text[start:])
    return [" ".join(sentence.split()) for sentence in found if any(map(str.isalnum, sentence))]


def _ends(text: str, start: int, match: re.Match[str]) -> bool:
    said, rest, stop = text[start : match.end()], text[match.end() :].lstrip(), match.group()
    straight = said.count('"') % 2 == 1 and '"' in rest
    curly = said.count("\u201c") > said.count("\u201d") and "\u201d" in rest
    if straight or curly:
        return False  # within a quotation
    if rest[0].islower() and (len(stop) > 1 or stop == "\u2026"):
        return False  # "well ... a dog"; '"Go!" is written on it'
    if not stop.startswith("."):
        return True
    word = text[start : match.start()].rpartition(" ")[2].lower().lstrip("(\"'\u201c")
    if len(word) == 1 and word.isalpha() and word not in "ia":
        return False  # an initial
    if word in _SETS["may end"]:
        return rest[0].isupper()
    return word not in _SETS["abbreviations"]


_SAME = {word: group.split()[0] for group in LISTS["synonyms"].split(";") for word in group.split()}
_NOT_THINGS = WORDS["unseen"] | WORDS["pictures"] | _SETS["no things"]
_WEIGHTS = {"noun": 1.0, "num": 0.7, "adj": 0.7, "verb": 0.6}


def canonical(word: str) -> str:
    """One word for all that mean the same, as far as a short list goes."""
    return _SAME.get(word, word)


def content_words(sentence: str) -> frozenset[str]:
    """Lower-case lemmas of the nouns, adjectives, verbs and numbers, synonyms made one; none about the picture."""
    return frozenset(word_weights(sentence))


@lru_cache(maxsize=8192)
def word_weights(sentence: str) -> Mapping[str, float]:
    """`content_words` with how much each tells: nouns 1, numbers and adjectives 0.7, verbs 0.6."""
    found: dict[str, float] = {}
    for token in map(_retagged, tag(sentence)):
        word = _lemma(token)
        if word is not None:
            found[word] = max(found.get(word, 0.0), _WEIGHTS[token.tag])
    return MappingProxyType(found)


def _retagged(token: Token) -> Token:
    lemma = singular(token.text)
    if token.tag == "noun" and lemma in WORDS["prose verbs"] and token.text != lemma:
        return Token(token.text, "verb", lemma)
    if token.tag == "noun" and token.text in WORDS["prose adjectives"]:
        return Token(token.text, "adj", token.text)
    return token


def _lemma(token: Token) -> str | None:
    if token.tag == "noun":
        word = singular(token.text)
        return None if word in _SETS["empty nouns"] else canonical(word)
    if token.tag == "verb":
        return None if token.lemma in _SETS["empty verbs"] else token.lemma
    told = token.tag == "num" or (
        token.tag == "adj" and token.text not in _SETS["empty adjectives"]
    )
    return canonical(token.text) if told else None


def things(sentence: str) -> list[str]:
    """Names of the things in a sentence that can be pointed at, each once, in order."""
    names = [phrase.name for phrase in noun_phrases(sentence) if phrase.head not in _NOT_THINGS]
    return list(dict.fromkeys(names))


_PEOPLE = PEOPLE | _SETS["people"]


def kind_of(name: str) -> str:
    """What a thing is: the last word of its name, synonyms made one, people all alike."""
    word = canonical(name.rpartition(" ")[2])
    return "person" if word in _PEOPLE else word


def similarity_matrix(sentences: Sequence[str]) -> FloatArray:
    """How alike n sentences are: (n, n) float64, 0 to 1. The mean of two shares of the weighted content words: of those
    that both have among all of the two (Jaccard), and among those of the poorer one (containment). Equal sentences are
    1 alike even without such words."""
    weights = [word_weights(sentence) for sentence in sentences]
    shared = np.zeros((len(weights), len(weights)))
    for row, own in enumerate(weights):
        for column, other in enumerate(weights):
            both = (word for word in own if word in other)  # in order: sums must not differ
            shared[row, column] = sum(min(own[word], other[word]) for word in both)
    total = np.array([sum(own.values()) for own in weights])
    either = np.maximum(total[:, None] + total - shared, 1e-12)
    poorer = np.maximum(np.minimum(total[:, None], total), 1e-12)
    found: FloatArray = np.clip((shared / either + shared / poorer) / 2, 0.0, 1.0)
    plain = np.array([sentence.casefold().strip(" .") for sentence in sentences], dtype=object)
    found[np.asarray(plain[:, None] == plain, dtype=np.bool_)] = 1.0
    return found


def words_of(text: str) -> list[str]:
    """The words of a text, lower case, in order, without marks."""
    return WORD.findall(text.lower().replace("\u2019", "'"))


@lru_cache(maxsize=8192)
def root(word: str) -> str:
    """What forms of a lower-case word, and words that mean the same, share; not a word itself."""
    plain = canonical(singular(word.removesuffix("'s").removesuffix("'")))
    for ending in ("ing", "ed", "es", "s", "d"):
        if plain.endswith(ending) and len(plain) - len(ending) >= 3:
            plain = plain[: -len(ending)]
            break
    if len(plain) > 3 and plain[-1] == plain[-2]:
        plain = plain[:-1]  # sitting -> sit
    return plain.removesuffix("e")


def with_article(name: str) -> str:
    """A name as captions have it."""
    if name.endswith("s") and not name.endswith(("ss", "us")):
        return name
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"
