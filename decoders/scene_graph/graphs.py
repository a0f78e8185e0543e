"""Scene graphs: what a sentence names and says of it; each text parsed once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from decoders.options import check_whole


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
class SceneGraph:
    """What one sentence names, in its order."""

    entities: tuple[Entity, ...] = ()


class SceneGraphParser(Protocol):
    """Turns sentences into scene graphs."""

    def parse(self, texts: Sequence[str]) -> list[SceneGraph]:
        """One graph for each text, in their order; a text's graph depends on that text alone."""


class CachedParser:
    """A parser that remembers. Threads may share one.

    Args:
        parser: asked for texts that are not remembered, each distinct text once.
        limit: most graphs kept (about 1 kB each); the one not used for longest goes first.

    Raises:
        OptionError: a limit below 1.

    Example:
        >>> from decoders.scene_graph.rules import RuleParser
        >>> parser = CachedParser(RuleParser(), limit=1000)
        >>> first, again = parser.parse(["a red bus", "a red bus"])
        >>> first is again, len(parser)
        (True, 1)
    """

    def __init__(self, parser: SceneGraphParser, *, limit: int = 100_000) -> None:
        check_whole(limit=limit)
        self.parser = parser
        self.limit = limit
        self._graphs: OrderedDict[str, SceneGraph] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._graphs)

    def parse(self, texts: Sequence[str]) -> list[SceneGraph]:
        """One graph for each text, in their order; only texts not met before are parsed."""
        distinct = list(dict.fromkeys(texts))
        with self._lock:
            known = {text: self._graphs[text] for text in distinct if text in self._graphs}
            for text in known:
                self._graphs.move_to_end(text)
        # Outside the lock: a slow parser must not hold up the other threads.
        unknown = [text for text in distinct if text not in known]
        if unknown:
            known.update(zip(unknown, self.parser.parse(unknown), strict=True))
            self._keep({text: known[text] for text in unknown})
        return [known[text] for text in texts]

    def _keep(self, graphs: dict[str, SceneGraph]) -> None:
        with self._lock:
            self._graphs.update(graphs)
            while len(self._graphs) > self.limit:
                self._graphs.popitem(last=False)
