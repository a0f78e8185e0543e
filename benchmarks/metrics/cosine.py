"""Scores x 100 by cosines in a joint space of texts and images: CLIP-S, PAC-S, their forms with references, and "P".

Hessel et al., "CLIPScore" (2021): CLIP-S = 2.5 max(0, cos(image, caption)); RefCLIP-S = the harmonic mean of CLIP-S and
the best cosine to a reference. Sarto et al., "Positive-Augmented Contrastive Learning for Image and Video Captioning
Evaluation" (2023): PAC-S and RefPAC-S are the same with 2.0 and weights of their own. The published tables call their
column "P" RefPAC-S, but it holds the best reference cosine alone, without the image: here `best_reference_cosine`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.metrics.caption import Floats, Groups, Scores, Texts, check_pairs
from patchioner.base.errors import CheckpointError, OptionError, UnknownNameError
from patchioner.base.optional import require

EmbedText = Callable[[Sequence[str]], Any]
"""n texts -> (n, dim) array or tensor; need not be of unit length."""

PROMPT: Final = "A photo depicts "
"""Put before every caption and reference by both papers' code."""

WEIGHTS: Final = {"clip": 2.5, "pac": 2.0}


def image_score(images: Any, captions: Any, kind: str = "clip") -> Scores:
    """CLIP-S ("clip") or PAC-S ("pac"): mean, and the n scores, of (n, dim) images and captions with `PROMPT`."""
    left, right = unit_rows(images, "image embedding"), unit_rows(captions, "caption embedding")
    scores = 100.0 * WEIGHTS[kind] * np.clip((left * right).sum(axis=1), 0.0, None)
    return float(scores.mean()), scores


def best_reference_cosine(predictions: Texts, references: Groups, embed_text: EmbedText) -> Scores:
    """Column "P": cosine of a caption and its nearest reference; mean, and the n scores, -100 to 100.

    For the published figures `embed_text` is the text side of the PAC-S checkpoint. Each different text is asked once.
    """
    check_pairs(predictions, references)
    everything = [*predictions, *(text for group in references for text in group)]
    row = {text: index for index, text in enumerate(dict.fromkeys(everything))}
    vectors = unit_rows(embed_text([PROMPT + text for text in row]), "text embedding")
    pairs = zip(predictions, references, strict=True)
    rows = ((row[text], [row[due] for due in group]) for text, group in pairs)
    found = [(vectors[due] @ vectors[said]).max() for said, due in rows]
    scores = 100.0 * np.array(found)
    return float(scores.mean()), scores


def with_references(image_scores: Floats, text_scores: Floats) -> Scores:
    """RefCLIP-S or RefPAC-S: harmonic mean of an image score and the best reference cosine, each at least 0."""
    left, right = np.clip(image_scores, 0.0, None), np.clip(text_scores, 0.0, None)
    both = left + right
    scores = np.divide(2.0 * left * right, both, out=np.zeros_like(both), where=both > 0)
    return float(scores.mean()), scores


def unit_rows(vectors: Any, what: str) -> Floats:
    """Rows of an array or tensor (n, dim) as float64 of length 1; OptionError for one that has none."""
    if isinstance(vectors, torch.Tensor):
        vectors = vectors.detach().float().cpu().numpy()
    rows = np.asarray(vectors, dtype=np.float64)
    if rows.ndim != 2 or not len(rows):
        raise OptionError(f"{what}s have shape {rows.shape}: give (n, dim), one row per sample")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~((lengths > 0) & np.isfinite(lengths)))  # false for NaN
    if len(bad):
        raise OptionError(f"{what} {bad[0]} has length {lengths[bad[0], 0]}: it has no direction")
    return np.asarray(rows / lengths, dtype=np.float64)


@dataclass(frozen=True)
class ClipSpace:
    """An open_clip model, from weights that lie on this machine; nothing is ever downloaded."""

    model: Any
    tokenizer: Any
    preprocess: Any
    batch: int = 64

    @classmethod
    def load(cls, architecture: str, weights: str | Path) -> ClipSpace:
        """Load an open_clip architecture (both published scores use "ViT-B-32-quickgelu") with weights from a file."""
        library = require("open_clip", "clip")
        known = library.list_models()
        if architecture not in known:
            raise UnknownNameError.among("open_clip architecture", architecture, known)
        path = Path(weights)
        if not path.is_file():
            told = f"{path} is missing: CLIP-S and PAC-S need their weights as a file, nothing is downloaded"
            raise CheckpointError(f"{told}; fetch the checkpoint, or leave them out")
        model, _, preprocess = library.create_model_and_transforms(architecture)
        try:
            library.load_checkpoint(model, str(path), weights_only=True)
        except Exception as error:  # torch raises a different type for each way of not fitting
            raise CheckpointError(f"{path} does not fit {architecture}: {error}") from error
        return cls(model.eval(), library.get_tokenizer(architecture), preprocess)

    def embed_text(self, texts: Sequence[str]) -> Floats:
        """Unit embeddings (n, dim) of texts; long ones are cut at the tokenizer's length."""
        return self._embed(texts, lambda group: self.model.encode_text(self.tokenizer(group)))

    def embed_images(self, images: Sequence[Any]) -> Floats:
        """Unit embeddings (n, dim) of PIL images; draw a region onto its photo before."""

        def embed(group: Sequence[Any]) -> Any:
            pixels = [self.preprocess(image.convert("RGB")) for image in group]
            return self.model.encode_image(torch.stack(pixels))

        return self._embed(images, embed)

    def _embed(self, items: Sequence[Any], embed: Callable[[Sequence[Any]], Any]) -> Floats:
        starts = range(0, len(items), self.batch)
        with torch.inference_mode():
            rows = [embed(items[at : at + self.batch]).float().cpu() for at in starts]
        return unit_rows(torch.cat(rows), "embedding")
