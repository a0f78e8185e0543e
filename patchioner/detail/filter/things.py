"""Which of a sentence's names are of things that can be pointed at.

Knows: words. Does NOT know: photos, scores.
"""

from __future__ import annotations

from typing import Final

from decoders.scene_graph import lexicon
from patchioner.detail.text import noun_phrases, word_set

# Words for nothing that can be pointed at: no score bears them out.
_NOT_THINGS: Final = (
    lexicon.UNSEEN
    | lexicon.PICTURES
    | word_set(
        """
        atmosphere ambience ambiance sense feeling feel mood presence appearance impression vibe touch depth warmth
        contrast focus attention moment perspective angle composition overall area setting environment activity
        something anything nothing everything lot side edge corner half center centre surface surroundings variety
        day time event occasion position posture expression detail element theme character style design pattern
        type form shape size addition air game arm hand foot leg finger eye face lap knee shoulder head back hair stripe
        accent logo text number letter word graphic label source progress further known natural
        devoid darker reflection
        """
    )
)


def things(sentence: str) -> list[str]:
    """Names of the things in a sentence that can be pointed at, each once, in order.

    Example:
        >>> things("In the background, a red tour bus adds a sense of depth to the street.")
        ['tour bus', 'street']
    """
    names = [phrase.name for phrase in noun_phrases(sentence) if phrase.head not in _NOT_THINGS]
    return list(dict.fromkeys(names))
