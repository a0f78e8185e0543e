"""Scene graphs of captions: what a sentence names, what it says of it."""

from decoders.scene_graph.parsers import (
    CachedParser,
    Entity,
    RuleParser,
    SceneGraph,
    SceneGraphParser,
    T5Parser,
    parse_triples,
)

__all__ = [
    "CachedParser",
    "Entity",
    "RuleParser",
    "SceneGraph",
    "SceneGraphParser",
    "T5Parser",
    "parse_triples",
]
