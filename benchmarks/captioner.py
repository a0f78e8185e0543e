"""What the benchmarks ask of a model, and nothing more.

Knows: the public methods of `patchioner.Patchioner` that are measured, and how a model is given other settings.
Does NOT know: the class itself, so a test can put a tiny stand-in in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from patchioner.base.errors import OptionError, PatchionerError


class Captioner(Protocol):
    """The measured part of `patchioner.Patchioner`."""

    def encode(self, images: Any) -> Any:
        """One backbone pass: photo path -> patch features."""

    def embed_regions(
        self, features: Any, regions: Sequence[Any], weighting: Any = None
    ) -> torch.Tensor:
        """Region embeddings (n, dim)."""

    def embed_text(self, texts: Any) -> torch.Tensor:
        """Text embeddings (n, dim) in the space of the region embeddings."""

    def caption_many(self, items: Any, *, weighting: Any = None, options: Any = None) -> Any:
        """Captions of the regions of many photos: a list per (features, regions) item."""


LoadModel = Callable[[str, str], Captioner]
"""Makes a model from (name, device)."""


def load_pretrained(name: str, device: str) -> Captioner:
    """Load a shipped model by name, or one from a folder or the hub.

    Example:
        >>> load_pretrained("patchioner-mini", "cpu")  # doctest: +SKIP
    """
    from patchioner import Patchioner

    model: Captioner = Patchioner.from_pretrained(name, device=device)
    return model


def parts_of(model: Captioner) -> Any | None:
    """The model's `Parts`, or None where it is a stand-in without."""
    return getattr(model, "parts", None)


def with_settings(model: Captioner, **changes: Any) -> Captioner:
    """The same networks under other `ModelSettings`; a change of None leaves the model's own.

    Raises:
        OptionError: a setting that the model refuses, or a model whose settings cannot be changed.

    Example:
        >>> with_settings(model, temperature=0.02, context=None)  # doctest: +SKIP
    """
    wanted = {key: value for key, value in changes.items() if value is not None}
    if not wanted:
        return model
    parts = parts_of(model)
    if parts is None:
        raise OptionError(
            f"{', '.join(wanted)} cannot be set on a {type(model).__name__}, which has no settings"
        )
    from patchioner import Patchioner

    changed = replace(parts, settings=replace(parts.settings, **wanted))
    # The weights keep their precision: a run does not change it, and float32 is the reference.
    changed_model: Captioner = Patchioner(changed, device=getattr(model, "device", None))
    return changed_model


def unit_rows(embeddings: torch.Tensor, what: str) -> NDArray[np.float32]:
    """Embeddings (n, dim) as L2-normalised float32 rows.

    Raises:
        PatchionerError: a row is zero or not finite, naming it and `what` the rows are.
    """
    rows = embeddings.detach().to(device="cpu", dtype=torch.float32).numpy()
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))
    if len(bad):
        raise PatchionerError(
            f"the embedding of {what} {int(bad[0])} has norm {norms[bad[0], 0]}: the model cannot"
            " be measured"
        )
    return np.asarray(rows / norms, dtype=np.float32)
