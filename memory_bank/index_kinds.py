"""The kinds of index, what each is built with, and the empty FAISS index of each.

Knows the kinds and FAISS's names for them. Does not know banks, nor how an index is filled and searched (`index`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from patchioner.base.errors import OptionError, UnknownNameError
from patchioner.base.registry import Registry

IndexKind = Literal["flat", "ivf", "ivfsq", "ivfpq", "hnsw"]
FaissIndex: TypeAlias = Any

PIECE_VALUES = 256
"""What a piece of a compressed row can be: it has 8 bits."""

_FEWEST_ROWS_A_LIST = 39  # below it FAISS finds clusters unreliable; many of one row are slow, too


@dataclass(frozen=True)
class IndexOptions:
    """How an index is built and searched. None leaves a number to the size of the bank.

    Args:
        kind: "flat" looks at every row; "ivf" at the lists of rows nearest to the query; "ivfsq" is
            "ivf" over rows of eight bits a value, a quarter of the memory; "ivfpq" over rows
            compressed to a few bytes; "hnsw" walks a graph of neighbours.
        lists: of those with lists. None: four times the square root of the number of rows.
        probes: lists looked at per query; more find more. None: an eighth of them.
        links: neighbours of a row in the graph of "hnsw".
        effort: candidates kept while the graph is built and walked; more find more.
        pieces: bytes per row of "ivfpq", a divisor of the width. None: about an eighth of it.
        seed: of the clustering into lists. A graph built by several threads is not repeatable.

    Raises:
        UnknownNameError: an unknown kind.
        OptionError: a number below 1.

    Example:
        >>> IndexOptions("hnsw", effort=128).links
        32
    """

    kind: IndexKind = "ivf"
    lists: int | None = None
    probes: int | None = None
    links: int = 32
    effort: int = 256
    pieces: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in BUILDERS:
            raise UnknownNameError.among("kind of index", str(self.kind), BUILDERS.names())
        for name in ("lists", "probes", "links", "effort", "pieces"):
            number = getattr(self, name)
            if number is not None and (type(number) is not int or number < 1):
                raise OptionError(f"IndexOptions({name}={number!r}): give 1 or more, or leave it")

    @property
    def has_lists(self) -> bool:
        """Whether `lists` and `probes` play a part."""
        return self.kind.startswith("ivf")

    def lists_for(self, rows: int) -> int:
        """Return how many lists a bank of so many rows gets."""
        usual = min(int(4 * math.sqrt(rows)), rows // _FEWEST_ROWS_A_LIST)
        return min(self.lists or max(1, usual), rows)

    def probes_for(self, rows: int) -> int:
        """Return how many lists are looked at per query in a bank of so many rows."""
        lists = self.lists_for(rows)
        return min(self.probes or max(1, lists // 8), lists)

    def pieces_for(self, dim: int) -> int:
        """Return the bytes per row of "ivfpq" at this width.

        Raises:
            OptionError: the pieces asked for do not divide the width.
        """
        if self.pieces is None:
            return next(n for n in range(max(1, dim // 8), 0, -1) if dim % n == 0)
        if dim % self.pieces:
            raise OptionError(f"pieces={self.pieces} does not divide the width {dim}")
        return self.pieces

    def row_bytes(self, dim: int) -> int:
        """Return the bytes that a row of this width takes in the index; in a graph, without its links.

        Example:
            >>> [IndexOptions(kind).row_bytes(384) for kind in ("ivf", "ivfsq", "ivfpq")]
            [1544, 392, 56]
        """
        if self.kind in ("flat", "hnsw"):
            return 4 * dim
        codes = {"ivf": 4 * dim, "ivfsq": dim, "ivfpq": self.pieces_for(dim)}
        return codes[self.kind] + 8  # and the row's number


Builder: TypeAlias = Callable[[Any, IndexOptions, int, int], FaissIndex]
BUILDERS: Registry[Builder] = Registry("kind of index")
"""kind -> (the faiss module, options, rows, dim) -> an empty FAISS index of inner products."""


@BUILDERS.register("flat")
def _flat(faiss: Any, options: IndexOptions, rows: int, dim: int) -> FaissIndex:
    return faiss.IndexFlatIP(dim)


@BUILDERS.register("ivf")
def _ivf(faiss: Any, options: IndexOptions, rows: int, dim: int) -> FaissIndex:
    return _lists(faiss, options, rows, dim, "Flat")


@BUILDERS.register("ivfsq")
def _ivfsq(faiss: Any, options: IndexOptions, rows: int, dim: int) -> FaissIndex:
    return _lists(faiss, options, rows, dim, "SQ8")


@BUILDERS.register("hnsw")
def _hnsw(faiss: Any, options: IndexOptions, rows: int, dim: int) -> FaissIndex:
    index = faiss.IndexHNSWFlat(dim, options.links, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = options.effort
    return index


@BUILDERS.register("ivfpq")
def _ivfpq(faiss: Any, options: IndexOptions, rows: int, dim: int) -> FaissIndex:
    if rows < PIECE_VALUES:
        raise OptionError(f"{rows} rows are too few for 'ivfpq', at least {PIECE_VALUES}: use flat")
    index = _lists(faiss, options, rows, dim, f"PQ{options.pieces_for(dim)}")
    _tame(index.pq.cp, options)
    # Minutes of annealing, for a search by Hamming distance that nobody asks for here.
    index.do_polysemous_training = False
    return index


def _lists(faiss: Any, options: IndexOptions, rows: int, dim: int, codes: str) -> FaissIndex:
    """Lists of rows in one of FAISS's codes."""
    description = f"IVF{options.lists_for(rows)},{codes}"
    index = faiss.index_factory(dim, description, faiss.METRIC_INNER_PRODUCT)
    _tame(index.cp, options)
    return index


def _tame(clustering: Any, options: IndexOptions) -> None:
    clustering.seed = options.seed
    clustering.min_points_per_centroid = 1  # FAISS would write a warning to the terminal
