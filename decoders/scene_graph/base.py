"""The values of a scene graph, and what a parser is.

Knows: entities, attributes, relations. Does NOT know: how any parser finds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Entity:
    """One thing that a sentence names.

    Args:
        name: lower case, the last word in the singular: "tennis racket".
        attributes: what is said of it, in order: ("red", "wooden"), ("two",).
    """

    name: str
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Relation:
    """How two entities relate.

    Args:
        subject: index into the graph's entities.
        predicate: "on", "ride", "stand in front of".
        object: index into the graph's entities.
    """

    subject: int
    predicate: str
    object: int


@dataclass(frozen=True)
class SceneGraph:
    """What one sentence says.

    Args:
        entities: in the order of the sentence.
        relations: between those entities.

    Example:
        >>> graph = SceneGraph((Entity("man"), Entity("horse", ("brown",))), (Relation(0, "ride", 1),))
        >>> graph.triples()
        [('man', 'ride', 'horse')]
    """

    entities: tuple[Entity, ...] = ()
    relations: tuple[Relation, ...] = ()

    def triples(self) -> list[tuple[str, str, str]]:
        """The relations by name: (subject, predicate, object)."""
        names = [entity.name for entity in self.entities]
        return [(names[one.subject], one.predicate, names[one.object]) for one in self.relations]


class SceneGraphParser(Protocol):
    """Turns sentences into scene graphs."""

    def parse(self, texts: Sequence[str]) -> list[SceneGraph]:
        """One graph for each text, in their order; a text's graph depends on that text alone."""
