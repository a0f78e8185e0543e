"""Scores by cosines in a joint space of texts and images: CLIP-S, PAC-S, their forms with references, and column "P".

Knows: the formulas. Embeddings, or a function that makes them, are passed in (`benchmarks.metrics.clip_space` makes
them with open_clip). Does NOT know: networks, weights, how a region is drawn onto its photo.

Sources: Hessel et al., "CLIPScore: A Reference-free Evaluation Metric for Image Captioning" (2021): CLIP-S =
2.5 max(0, cos(image, caption)), and RefCLIP-S = the harmonic mean of CLIP-S and the best cosine to a reference.
Sarto et al., "Positive-Augmented Contrastive Learning for Image and Video Captioning Evaluation" (2023): PAC-S and
RefPAC-S are the same with 2.0 and weights of their own.

The published tables of the system that we follow have a column "P", there called RefPAC-S. It is not: it holds only the
mean best cosine between caption and references, without the image. Here that is `best_reference_cosine`, and RefPAC-S
is RefPAC-S.

All scores are times 100. For regional tasks the published image embedding is that of the photo with the region drawn on
it in red: draw it and embed that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.metrics.ngrams import check_pairs
from patchioner.base.errors import OptionError

Floats = NDArray[np.float64]
EmbedText = Callable[[Sequence[str]], Any]
"""n texts -> (n, dim) array or tensor; need not be of unit length."""

PROMPT: Final = "A photo depicts "
"""Put before every caption and reference by both papers' code."""

CLIP_WEIGHT, PAC_WEIGHT = 2.5, 2.0


def clip_s(image_embeddings: Any, caption_embeddings: Any) -> tuple[float, Floats]:
    """CLIP-S of n captions: 2.5 max(0, cos), times 100.

    Args:
        image_embeddings: (n, dim), row i for caption i.
        caption_embeddings: (n, dim), of `PROMPT` + caption.

    Returns:
        The mean and the n scores, float64.

    Raises:
        OptionError: shapes that do not pair, a number that is not finite, a row of length zero.

    Example:
        >>> clip_s([[1.0, 0.0]], [[3.0, 4.0]])[0]
        150.0
    """
    return image_score(image_embeddings, caption_embeddings, CLIP_WEIGHT)


def pac_s(image_embeddings: Any, caption_embeddings: Any) -> tuple[float, Floats]:
    """PAC-S: as `clip_s` with 2.0, for embeddings by the PAC-S checkpoint.

    Example:
        >>> pac_s([[1.0, 0.0]], [[3.0, 4.0]])[0]
        120.0
    """
    return image_score(image_embeddings, caption_embeddings, PAC_WEIGHT)


def image_score(images: Any, captions: Any, weight: float) -> tuple[float, Floats]:
    """The formula of `clip_s` with another weight.

    Example:
        >>> image_score([[1.0, 0.0]], [[-1.0, 0.0]], 2.5)[0]
        0.0
    """
    left, right = unit_rows(images, "image embedding"), unit_rows(captions, "caption embedding")
    if left.shape != right.shape:
        raise OptionError(
            f"image embeddings {left.shape} and caption embeddings {right.shape}: give one of each per sample, of one"
            " width"
        )
    scores = 100.0 * weight * np.clip((left * right).sum(axis=1), 0.0, None)
    return float(scores.mean()), scores


def best_reference_cosine(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    embed_text: EmbedText,
    *,
    prompt: str = PROMPT,
) -> tuple[float, Floats]:
    """Column "P" of the published tables: cosine of a caption and its nearest reference, times 100.

    Args:
        predictions: n captions.
        references: n lists of at least one reference each.
        embed_text: embeds texts; each different text is asked for once. For the published figures this is the text
            side of the PAC-S checkpoint; a figure by any other space does not compare with them.
        prompt: put before every text, as the PAC-S code does; "" for other spaces.

    Returns:
        The mean and the n scores, float64; from -100 to 100.

    Raises:
        OptionError: the lists cannot be paired, or the embeddings cannot be used.

    Example:
        >>> space = {"a": [1.0, 0.0], "b": [0.0, 2.0], "c": [3.0, 4.0]}
        >>> best_reference_cosine(["a"], [["b", "c"]], lambda texts: [space[t] for t in texts], prompt="")[0]
        60.0
    """
    check_pairs(predictions, references)
    everything = [*predictions, *(text for group in references for text in group)]
    row = {text: index for index, text in enumerate(dict.fromkeys(everything))}
    vectors = unit_rows(embed_text([prompt + text for text in row]), "text embedding")
    if len(vectors) != len(row):
        raise OptionError(
            f"embed_text gave {len(vectors)} rows for {len(row)} texts: give one per text"
        )
    scores = np.array(
        [
            100.0 * (vectors[[row[other] for other in group]] @ vectors[row[text]]).max()
            for text, group in zip(predictions, references, strict=True)
        ]
    )
    return float(scores.mean()), scores


def with_references(image_scores: ArrayLike, text_scores: ArrayLike) -> tuple[float, Floats]:
    """RefCLIP-S or RefPAC-S: harmonic mean of an image score and the best reference cosine (below zero: zero).

    Args:
        image_scores: (n,) from `clip_s` (then it is RefCLIP-S) or `pac_s` (RefPAC-S), times 100.
        text_scores: (n,) from `best_reference_cosine`, times 100, in the same space.

    Returns:
        The mean and the n scores, float64; 0 where either is.

    Raises:
        OptionError: lengths differ, or a number is not finite.

    Example:
        >>> with_references([100.0, 80.0], [50.0, -3.0])[1].round(2).tolist()
        [66.67, 0.0]
    """
    left, right = np.asarray(image_scores, np.float64), np.asarray(text_scores, np.float64)
    if left.shape != right.shape or left.ndim != 1 or not len(left):
        raise OptionError(
            f"image scores {left.shape} and text scores {right.shape}: give one of each per sample"
        )
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise OptionError("a score is not finite: give finite numbers")
    left, right = np.clip(left, 0.0, None), np.clip(right, 0.0, None)
    both = left + right
    scores = np.divide(2.0 * left * right, both, out=np.zeros_like(both), where=both > 0)
    return float(scores.mean()), scores


def unit_rows(vectors: Any, what: str) -> Floats:
    """Rows of an array or tensor (n, dim) as float64 of length 1.

    Raises:
        OptionError: another shape, a number that is not finite, or a row of length zero.

    Example:
        >>> unit_rows([[3.0, 4.0]], "vector").tolist()
        [[0.6, 0.8]]
    """
    # A tensor comes off its graph and its device first.
    if hasattr(vectors, "detach"):
        vectors = vectors.detach().float().cpu().numpy()
    rows = np.asarray(vectors, dtype=np.float64)
    if rows.ndim != 2 or not len(rows):
        raise OptionError(f"{what}s have shape {rows.shape}: give (n, dim), one row per sample")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    # Not finite, or zero: the comparison is false for NaN.
    bad = np.flatnonzero(~((lengths > 0) & np.isfinite(lengths)))
    if len(bad):
        raise OptionError(f"{what} {bad[0]} has length {lengths[bad[0], 0]}: it has no direction")
    return np.asarray(rows / lengths, dtype=np.float64)
