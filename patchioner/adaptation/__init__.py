"""Teaching a captioner a new way of writing from sentences alone, without a photo.

Knows: how a checkpoint, a corpus and the two ways of text-only training make a new checkpoint. Does not know: photos,
regions, how the shipped weights were made.

Example:
    >>> from patchioner import Patchioner
    >>> model = Patchioner.from_pretrained("patchioner-mini")  # doctest: +SKIP
    >>> adapt(model.parts, read_texts("catalogue.txt"), "catalogue-model")  # doctest: +SKIP
"""

from patchioner.adaptation.corpus import read_texts
from patchioner.adaptation.options import AdaptOptions, DecoderShape, LanguageModelShape
from patchioner.adaptation.pipeline import adapt

__all__ = ["AdaptOptions", "DecoderShape", "LanguageModelShape", "adapt", "read_texts"]
