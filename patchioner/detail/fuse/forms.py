"""What forms of a word share, and which words say nothing by themselves.

Knows: English endings and closed word classes. Does NOT know: sentences' grammar.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from decoders.scene_graph import lexicon
from decoders.scene_graph.morphology import singular
from patchioner.detail.text import canonical, word_set

_WORD = re.compile(r"[a-z0-9]+(?:[-'\u2019][a-z0-9]+)*")
_ENDINGS = ("ing", "ed", "es", "s", "d")


STOP_WORDS: Final = (
    lexicon.DETERMINERS
    | lexicon.PRONOUNS
    | lexicon.CONJUNCTIONS
    | lexicon.CLAUSE_WORDS
    | lexicon.AUXILIARIES
    | lexicon.PREPOSITIONS
    | word_set("also there very image picture photo photograph scene")
)
"""Words that tell no two sentences about photos apart."""


PICTURE: Final = r"(?:image|picture|photo|photograph|frame|scene|view|shot)"
"""Pattern: what a picture is called."""

IN_PICTURE: Final = rf"(?:in|within|of)\s+(?:this|the)\s+{PICTURE}\b(?:\s+provided\b)?"
"""Pattern: words that only say that what is spoken of is in the picture."""


def words_of(text: str) -> list[str]:
    """The words of a text, lower case, in order, without marks.

    Example:
        >>> words_of("A T-shirt, isn't it?")
        ['a', 't-shirt', "isn't", 'it']
    """
    return _WORD.findall(text.lower().replace("\u2019", "'"))


@lru_cache(maxsize=8192)
def root(word: str) -> str:
    """What forms of a lower-case word, and words that mean the same, share; not a word itself.

    Example:
        >>> root("sits") == root("sitting"), root("sofa") == root("couches")
        (True, True)
    """
    plain = canonical(singular(word.removesuffix("'s").removesuffix("'")))
    for ending in _ENDINGS:
        if plain.endswith(ending) and len(plain) - len(ending) >= 3:
            plain = plain[: -len(ending)]
            break
    if len(plain) > 3 and plain[-1] == plain[-2]:
        plain = plain[:-1]  # sitting -> sit
    return plain.removesuffix("e")
