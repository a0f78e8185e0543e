"""Tools for sentences: where they end, which words say something, what they name, how alike they are.

Knows: English text, by the rules and lists of `decoders.scene_graph`. Does NOT know: photos, regions, models, what is
true.
"""

from __future__ import annotations

from decoders.scene_graph.lexicon import word_set
from patchioner.detail.text.sentences import split_sentences
from patchioner.detail.text.similarity import similarity_matrix, similarity_to
from patchioner.detail.text.words import (
    NounPhrase,
    canonical,
    content_words,
    has_finite_verb,
    noun_phrases,
    word_weights,
)

__all__ = [
    "NounPhrase",
    "canonical",
    "content_words",
    "has_finite_verb",
    "noun_phrases",
    "similarity_matrix",
    "similarity_to",
    "split_sentences",
    "word_set",
    "word_weights",
]
