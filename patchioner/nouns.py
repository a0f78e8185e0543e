"""The nouns that captions name, how near the regions of photos usually are to each, and which of them a text names.

And captions cut to the things that their regions show, as a phrase.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from decoders.guidance import NEUTRAL, Words
from decoders.scene_graph import noun_phrases, singular, tag
from patchioner.base.errors import CheckpointError, OptionError
from patchioner.base.files import read_json, write_json
from patchioner.base.weights import load_weights, save_weights

if TYPE_CHECKING:
    from patchioner.text import TextTower

_TEMPLATES = ("a photo of a {}", "there is a {}")
_OTHERS = "person people child children kid baby player someone adult male female"
_GENDERED = " ".join(words for word, words in NEUTRAL.items() if not word.startswith("the"))
PEOPLE = frozenset(f"{_OTHERS} {_GENDERED}".split())  # what captions call people
NO_THINGS = frozenset(
    {"view", "front", "side", "top", "area", "background", "picture", "image", "photo", "group", "couple", "bunch"}
)
COLOURS = ("black", "blue", "brown", "green", "orange", "pink", "purple", "red", "white", "yellow")
_COLOURED = re.compile(rf"\b(?:(an?) )?({'|'.join(COLOURS)}) (?!and\b)(?=\w)")
_VOWEL = re.compile(r"(?!uni[^dmn]|ute|one\b|eu)[aeiou]|hour", re.IGNORECASE)
_AROUND = 0.45  # weight of a noun's z-score with the whole photo, against that with the region
_ODDS = 0.25  # weight of how much surer than others its captions are
_UNKNOWN = -1.0  # z-score of a noun that the table does not have
_LESS = 1.35  # how far below the best shown thing of a caption others may be
_ONE = 0.1  # share of the photo below which a region that "cars" are said of mostly shows one (85 % of 827)


@dataclass(frozen=True, eq=False)
class NounTable:
    """Nouns, and how near regions usually are to each."""

    names: tuple[str, ...]  # k, lower case
    embeddings: Tensor  # (k, dim) float32, unit
    spread: Tensor  # (2, k) float32: mean and deviation of the cosines between a noun and any regions of many photos
    asked: Tensor  # the same of regions that people ask about, such as boxes; `spread` where none are known
    odds: Tensor  # (k,) float32: by what natural logarithm captions of a noun are surer than others; 0 where unknown
    words: Words = field(init=False, repr=False)  # the names, as decoders look for them

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", Words(self.names))

    @classmethod
    @torch.inference_mode()
    def build(cls, captions: Iterable[str], regions: Tensor, tower: TextTower, count: int = 1500) -> Self:
        """The `count` commonest nouns of captions; OptionError where they name nothing.

        `regions` are (n, dim) embeddings of regions of many photos, before the projection; `tower` is the same model's.
        """
        found = Counter(noun for caption in captions for noun in heads(caption))
        common = (noun for noun, _ in found.most_common() if re.fullmatch("[a-z][a-z-]+", noun))
        names = tuple(islice(common, count))
        if not names:
            raise OptionError("the captions name no things: give more of them")
        each = [tower.encode([form.format(name) for name in names]) for form in _TEMPLATES]
        embeddings = F.normalize(torch.stack([F.normalize(one, dim=1) for one in each]).sum(0), dim=1)
        spread = _spread(embeddings, regions)
        return cls(names, embeddings, spread, spread, torch.zeros(len(names)))

    def of_asked(self, regions: Tensor) -> Self:
        """The same table, knowing (n, dim) embeddings of regions that people ask about."""
        return replace(self, asked=_spread(self.embeddings, regions))

    def kinds(self) -> Tensor:
        """(k, m) float32: the noun embeddings by principal components; 0 for people, who are in boxes of all kinds."""
        centred = self.embeddings.cpu() - self.embeddings.cpu().mean(0)
        _, _, axes = torch.linalg.svd(centred, full_matrices=False)
        people = torch.tensor([name in PEOPLE for name in self.names])
        found: Tensor = centred @ axes.T
        return found.masked_fill(people[:, None], 0.0)

    def scores(self, regions: Tensor, *, asked: bool = False) -> Tensor:
        """(n, dim) region embeddings, before the projection -> (n, k) z-scores of their cosines with each noun.

        With `asked` among regions that people ask about, not among any.
        """
        mean, deviation = (self.asked if asked else self.spread).unbind()
        return (F.normalize(regions, dim=1) @ self.embeddings.T - mean) / deviation

    def to(self, device: torch.device | str) -> Self:
        """The same table there."""
        tensors = (self.embeddings, self.spread, self.asked, self.odds)
        return type(self)(self.names, *(one.to(device) for one in tensors))

    def save(self, folder: Path) -> None:
        """Write names.json and weights.safetensors, the embeddings in half precision."""
        folder.mkdir(parents=True, exist_ok=True)
        save_weights({"embeddings": self.embeddings}, folder / "embeddings.safetensors", storage="fp16")
        spread = {"any": self.spread, "asked": self.asked, "odds": self.odds}
        save_weights(spread, folder / "spread.safetensors", storage="fp32")
        write_json(folder / "names.json", self.names)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; CheckpointError where the files do not fit together."""
        names = read_json(folder / "names.json")
        held = load_weights(folder / "embeddings.safetensors") | load_weights(folder / "spread.safetensors")
        count = len(names) if isinstance(names, list) else 0
        held.setdefault("odds", torch.zeros(count))  # files had none once
        shapes = {key: tuple(tensor.shape) for key, tensor in held.items()}
        width = shapes.get("embeddings", ())[1:]
        wanted = {"embeddings": (count, *width), "any": (2, count), "asked": (2, count), "odds": (count,)}
        if not count or len(width) != 1 or any(shapes.get(key) != wanted[key] for key in wanted):
            raise CheckpointError(f"{folder}: names and tensors of the nouns do not fit together")
        unit = F.normalize(held["embeddings"].float(), dim=1)
        spread, asked, odds = (held[key].float() for key in ("any", "asked", "odds"))
        return cls(tuple(map(str, names)), unit, spread, asked, odds)


def _spread(embeddings: Tensor, regions: Tensor) -> Tensor:
    cosines = embeddings.cpu() @ F.normalize(regions.cpu(), dim=1).T
    return torch.stack([cosines.mean(1), cosines.std(1).clamp_min(1e-6)])


def heads(text: str) -> list[str]:
    """Head nouns of the things that a caption names."""
    return [phrase.head for phrase in noun_phrases(text) if phrase.head not in NO_THINGS]


def named(text: str) -> frozenset[str]:
    """The same, with all people as "person".

    Example:
        >>> sorted(named("a man with a red umbrella"))
        ['person', 'umbrella']
    """
    return frozenset("person" if head in PEOPLE else head for head in heads(text))


def cut_to_shown(
    sentences: Sequence[str], nouns: NounTable | None, here: Tensor, around: Tensor, shares: Tensor | None = None
) -> list[str]:
    """Of each caption the things that its region shows, joined by its own prepositions, commas and "and".

    A thing is shown as its z-score with the region says, less a part of that with the whole photo; what is shown far
    less than the caption's best is left out. What "the" introduces is a setting, and counts where a preposition joins
    it to a thing. Small regions mostly show one thing where captions say several.

    Args:
        sentences: n captions.
        nouns: None keeps all things.
        here, around: (n, dim) embeddings of the regions and of their whole photos, before the projection.
        shares: (n,) of the photo that each region takes; None is all of it.

    Returns:
        n phrases; a caption that names no thing stays as it is.

    Example:
        >>> rows = torch.zeros(1, 4)
        >>> cut_to_shown(["a person sits on a bench with a dog"], None, rows, rows)
        ['a person and a bench with a dog']
    """
    small = [False] * len(sentences) if shares is None else (shares < _ONE).tolist()
    if nouns is None:
        return [_shown(one, {}, single) for one, single in zip(sentences, small, strict=True)]
    near, far = (nouns.scores(rows, asked=True) for rows in (here, around))
    scores = (near - _AROUND * far + _ODDS * nouns.odds).cpu()
    places = {name: place for place, name in enumerate(nouns.names)}
    found = []
    for sentence, row, single in zip(sentences, scores, small, strict=True):
        known = {one: float(row[places[one]]) for one in heads(sentence) if one in places}
        found.append(_shown(sentence, known, single))
    return found


def _shown(sentence: str, scores: Mapping[str, float], single: bool) -> str:
    things = [one for one in noun_phrases(sentence) if one.head not in NO_THINGS]
    worth = [scores.get(one.head, _UNKNOWN) for one in things]
    is_setting = [sentence.startswith("the ", one.start) for one in things]
    first = [value for value, setting in zip(worth, is_setting, strict=True) if not setting]
    least = max(first or worth, default=0.0) - _LESS
    parts, seen, end, begin = list[str](), set[str](), 0, len(sentence)
    for one, value, setting in zip(things, worth, is_setting, strict=True):
        begin = min(begin, one.start)
        if sentence.startswith(("'s", "\u2019s"), one.end - 2):
            continue  # whose the next thing is
        begin, start = len(sentence), begin
        joined = bool(parts) and {token.tag for token in tag(sentence[end:start])} == {"prep"}
        name = "person" if one.head in PEOPLE else one.head
        if value < least or name in seen or (setting and first and not joined):
            continue
        seen.add(name)
        if joined:
            parts[-1] += sentence[end : one.end]
        else:
            said = sentence[start : one.end]
            parts.append(_one_of(said) if single and start == one.start else said)
        end = one.end
    *others, last = parts or [sentence]
    return f"{', '.join(others)} and {last}" if others else last


def _one_of(things: str) -> str:
    """ "two red cars" -> "a red car"; what is no plural stays."""
    before, _, last = things.rpartition(" ")
    name = "person" if last == "people" else singular(last)
    if name == last:
        return things
    words = [token.text for token in tag(before) if token.tag not in ("det", "num", "own")]
    rest = " ".join([*words, name])
    return f"{_article(rest)} {rest}"


def _article(word: str) -> str:
    return "an" if _VOWEL.match(word) else "a"


def keep_shown_colours(texts: Sequence[str], here: Tensor, embed: Callable[[Sequence[str]], Tensor]) -> list[str]:
    """The texts without colours that the region shows less than another of `COLOURS`, by the same thing's name with it.

    Args:
        texts: n captions.
        here: (n, dim) embeddings of their regions, before the projection.
        embed: texts -> (m, dim), of the same model; asked where a thing has one colour.

    Example:
        >>> bus = torch.tensor([[0.0, 1.0]])
        >>> by_blue = lambda texts: torch.eye(2)[[int("blue" in text) for text in texts]]
        >>> keep_shown_colours(["a red bus"], bus, by_blue)
        ['a bus']
    """
    return [_keep_shown(text, row, embed) for text, row in zip(texts, here, strict=True)]


def _keep_shown(text: str, here: Tensor, embed: Callable[[Sequence[str]], Tensor]) -> str:
    for one in reversed(noun_phrases(text)):
        phrase = text[one.start : one.end]
        colours = [word for word in phrase.split() if word in COLOURS]
        if len(colours) != 1 or not (said := _COLOURED.search(phrase)):
            continue
        forms = [phrase[: said.start(2)] + other + phrase[said.end(2) :] for other in COLOURS]
        likest = F.normalize(embed(forms), dim=1) @ here.to(torch.float32).cpu()
        if COLOURS[int(likest.argmax())] != said[2]:
            rest = phrase[said.end() :]
            article = f"{_article(rest)} " if said[1] else ""
            text = text[: one.start] + phrase[: said.start()] + article + rest + text[one.end :]
    return text
