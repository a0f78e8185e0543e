"""The settings of text-only training, and the learning rate they describe.

Knows: numbers and which of them make sense.
Does NOT know: data, networks, the loop that uses them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from patchioner.base.errors import OptionError

_HARMLESS = {"validate_every", "checkpoint_every", "samples"}


@dataclass(frozen=True)
class TrainOptions:
    """How a decoder is trained on text alone.

    Args:
        epochs: passes over the texts; ignored when `steps` is given.
        steps: number of updates.
        batch: texts in one update.
        learning_rate: highest rate, reached after `warmup_steps`, then decayed to 0.
        warmup_steps: updates of linear warm-up.
        decay: shape of the decay, "cosine" or "linear".
        weight_decay: of AdamW, on matrices only.
        gradient_clip: largest norm of the gradient.
        noise_sigma: standard deviation, per coordinate, of the Gaussian noise added to the unit
            embedding (CapDec, Nukrai et al. 2022), which is then scaled to unit length again.
        label_smoothing: share of the target spread over the vocabulary, in training only.
        max_tokens: longer texts are cut.
        validation_share: share of the texts held out, at most `validation_most`.
        validation_most: most texts held out.
        validate_every: updates between two reports.
        checkpoint_every: updates between two checkpoints.
        samples: held-out texts whose captions are shown with each report.
        autocast: forward pass in bfloat16; weights, optimiser and loss stay in float32.
        seed: of the held-out texts, the order, the noise and the dropout.

    Raises:
        OptionError: when a value makes no sense.
    """

    epochs: float = 10.0
    steps: int | None = None
    batch: int = 128
    learning_rate: float = 1e-3
    warmup_steps: int = 500
    decay: Literal["cosine", "linear"] = "cosine"
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    noise_sigma: float = 0.08
    label_smoothing: float = 0.1
    max_tokens: int = 40
    validation_share: float = 0.01
    validation_most: int = 1000
    validate_every: int = 500
    checkpoint_every: int = 500
    samples: int = 4
    autocast: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "max_tokens", "validate_every", "checkpoint_every"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("warmup_steps", "weight_decay", "noise_sigma", "samples", "seed"):
            self._require(name, 0 <= getattr(self, name) < math.inf, "0 or more")
        for name in ("learning_rate", "gradient_clip", "epochs"):
            self._require(name, 0 < getattr(self, name) < math.inf, "above 0")
        for name in ("label_smoothing", "validation_share"):
            self._require(name, 0 <= getattr(self, name) < 1, "from 0 to below 1")
        self._require("validation_most", self.validation_most >= 0, "0 or more")
        self._require("steps", self.steps is None or self.steps >= 1, "at least 1, or None")
        self._require("decay", self.decay in ("cosine", "linear"), '"cosine" or "linear"')

    def total_steps(self, steps_per_epoch: int) -> int:
        """Number of updates of the whole run."""
        return self.steps or max(1, round(self.epochs * steps_per_epoch))

    def rate_at(self, step: int, total: int) -> float:
        """Learning rate of update `step` (from 0) of `total`."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, total - self.warmup_steps)
        left = 1 - done if self.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * max(0.0, left)

    def identity(self) -> dict[str, Any]:
        """The settings that decide where a run ends: those that a resumed run must share."""
        return {key: value for key, value in asdict(self).items() if key not in _HARMLESS}

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise OptionError(f"{name} is {getattr(self, name)!r}; it must be {rule}")
