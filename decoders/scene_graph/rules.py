"""A scene-graph parser of our own: rules and word lists, nothing to download.

It reads the short declarative English of photo captions. It doesn't resolve pronouns, attaches most prepositions to
the nearest name, and takes any unknown word for a noun. On 34 captions that we wrote and labelled before it had read
them, precision / recall were 0.96 / 0.95 for entities and 0.94 / 0.84 for attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from decoders.scene_graph import lexicon
from decoders.scene_graph.graphs import Entity, SceneGraph
from decoders.scene_graph.tagging import Token, is_animate, singular, tag

_LONGEST_NAME = 3  # words of a compound: longer runs are several names or a slip of the tagger


class RuleParser:
    """Scene graphs by word lists and suffix rules; deterministic, thousands of captions a second.

    Example:
        >>> graph, = RuleParser().parse(["A man in a red shirt is riding two brown horses."])
        >>> [(entity.name, entity.attributes) for entity in graph.entities]
        [('man', ()), ('shirt', ('red',)), ('horse', ('two', 'brown'))]
    """

    def parse(self, texts: Sequence[str]) -> list[SceneGraph]:
        """One graph for each text, in their order; a text without any name gives an empty graph."""
        return [_Reader(tag(text)).read() for text in texts]


@dataclass
class _Reader:
    """Walks over the tokens of one caption once, from left to right."""

    tokens: list[Token]
    names: list[str] = field(default_factory=list)
    attributes: list[list[str]] = field(default_factory=list)
    objects: set[int] = field(default_factory=set)  # names that a verb or preposition leads to
    subject: int | None = None  # of the clause
    last: int | None = None  # the latest name
    link: bool = False  # whether a verb or preposition waits for its object
    anchored: bool = False  # whether it is about a name
    adjoining: bool = False  # whether nothing stands between the latest name and here
    listing: bool = False  # whether a name just after here continues a list

    def read(self) -> SceneGraph:
        """The graph of the sentence."""
        place = 0
        while place < len(self.tokens):
            phrase = _phrase(self.tokens, place)
            if phrase is None:
                self._word(self.tokens[place])
                place += 1
            else:
                place = phrase.end + self._name(phrase)
        entities = tuple(map(Entity, self.names, map(tuple, self.attributes)))
        return SceneGraph(entities)

    def _name(self, phrase: _Phrase) -> int:
        """Take a noun phrase; how many words after it are used up as well."""
        after = self.tokens[phrase.end].text if phrase.end < len(self.tokens) else ""
        partitive = phrase.head in lexicon.PARTITIVES or phrase.name in lexicon.UNSEEN
        if partitive and after == "of":
            return 1  # "a group of": whatever links to it links to what follows
        if phrase.head in lexicon.PICTURES and after in ("of", "with") and not self.names:
            if phrase.name == phrase.head:
                return 1
            phrase = replace(phrase, name=phrase.name[: -len(phrase.head) - 1])
        if phrase.name in lexicon.UNSEEN:
            self.link = self.adjoining = self.listing = False
            return 0
        index = len(self.names)
        self.names.append(phrase.name)
        self.attributes.append(list(phrase.attributes))
        # What holds of a list's earlier member holds of the next: "with a hat and a coat".
        if (self.link and self.anchored) or (self.listing and self.last in self.objects):
            self.objects.add(index)
        if self.subject is None:
            self.subject = index
        self.last, self.adjoining, self.listing = index, True, False
        self.link = False
        return 0

    def _word(self, token: Token) -> None:
        if token.tag == "verb":
            self._verb()
        elif token.tag == "prep":
            self._preposition()
        elif token.tag == "own" and self.last is not None:
            self.link, self.anchored = True, True
        elif token.tag == "adj":
            self._predicate_adjective(token)
        elif token.tag == "conj" or token.text == ",":
            self.listing = self.adjoining or (token.tag == "conj" and self.listing)
            self.link = self.adjoining = False
        elif token.tag in ("clause", "stop"):
            self._clause(token)
        elif token.tag == "aux" and self.adjoining:
            self._take_subject()
            self.adjoining = False
            if token.text in ("has", "have", "had"):  # a verb that follows takes its place
                self.link, self.anchored = True, self.subject is not None
        elif token.tag == "pron":
            self.link = self.adjoining = False

    def _verb(self) -> None:
        if self.adjoining:
            self._take_subject()
        self.link, self.anchored = True, self.subject is not None
        self.adjoining = self.listing = False

    def _preposition(self) -> None:
        if not (self.link and not self.adjoining) and self.last is not None:
            self.link = self.anchored = True
        self.adjoining = self.listing = False

    def _predicate_adjective(self, token: Token) -> None:
        """ "The bathroom is empty": said of the subject. A colour worn ("in blue") is not."""
        if self.subject is not None and not self.link:
            owner = self.last if self.adjoining else self.subject
            if owner is not None and token.text not in self.attributes[owner]:
                self.attributes[owner].append(token.text)
        self.link = False

    def _clause(self, token: Token) -> None:
        if token.text in ("who", "which", "that", "whose"):
            self._take_subject()
        elif token.text != ",":
            self.subject = None if token.tag == "clause" else self.subject
        self.link = self.adjoining = self.listing = False

    def _take_subject(self) -> None:
        """The latest name becomes the subject, unless it only describes a living subject."""
        if self.last is None:
            return
        described = self.last in self.objects
        alive = self.subject is not None and is_animate(self.names[self.subject])
        if self.subject is None or not (
            described and alive and not is_animate(self.names[self.last])
        ):
            self.subject = self.last


@dataclass(frozen=True)
class _Phrase:
    """A noun phrase: [determiner] [adjectives, numbers] noun [noun ...]."""

    name: str
    head: str
    attributes: tuple[str, ...]
    end: int


def _phrase(tokens: Sequence[Token], start: int) -> _Phrase | None:
    """The noun phrase that begins at `start`, or None."""
    place = start
    attributes: list[str] = []
    while place < len(tokens) and tokens[place].tag in ("det", "adj", "num", "adv", "conj", "stop"):
        token = tokens[place]
        if token.tag in ("conj", "stop"):  # within a phrase only between adjectives
            inside = attributes and token.text in ("and", ",", "&", "or")
            follower = tokens[place + 1].tag if place + 1 < len(tokens) else "stop"
            listed = follower in ("adj", "conj") and tokens[place - 1].tag in ("adj", "stop")
            if not inside or not listed:
                return None
        elif token.tag in ("adj", "num"):
            attributes.append(token.text)
        place += 1
    first = place
    while place < len(tokens) and tokens[place].tag == "noun":
        place += 1
    if place == first:
        return None
    words = [token.text for token in tokens[first:place]][-_LONGEST_NAME:]
    vessel = words[-1] == "glasses" and bool({*words[:-1], *attributes} & lexicon.VESSELS)
    head = "glass" if vessel else singular(words[-1])
    kept = dict.fromkeys(attributes)
    return _Phrase(" ".join([*words[:-1], head]), head, tuple(kept), place)
