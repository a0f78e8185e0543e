"""Scene graphs of captions: what a sentence names, what it says of it."""

from __future__ import annotations

from decoders.scene_graph.graphs import CachedParser, Entity, SceneGraph, SceneGraphParser
from decoders.scene_graph.rules import RuleParser
from decoders.scene_graph.t5 import T5Parser

__all__ = [
    "CachedParser",
    "Entity",
    "RuleParser",
    "SceneGraph",
    "SceneGraphParser",
    "T5Parser",
]
