"""The settings of an adaptation, and the training options they stand for.

Knows: numbers and which of them make sense. Does not know: texts, networks, files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import get_args

from decoders import TrainOptions
from patchioner_base.errors import OptionError
from patchioner_base.weights import Storage

MOST_HELD_OUT = 1000  # enough for a steady loss, few enough to be measured often
_REPORTS = 10


@dataclass(frozen=True)
class DecoderShape:
    """Shape of a decoder that is trained from scratch; see `decoders.PrefixGPT2Decoder.create`."""

    layers: int = 4
    width: int = 320
    heads: int = 5
    vocab_size: int = 6000
    positions: int = 64


@dataclass(frozen=True)
class AdaptOptions:
    """How a checkpoint is adapted to a corpus.

    Attributes:
        noise: None trains the decoder behind the new memory bank, and the result sends regions through it (DeCap,
            arXiv 2303.03032). A number is the standard deviation, per coordinate, of Gaussian noise on unit embeddings;
            the result then sends regions straight to the decoder (CapDec, arXiv 2211.00575).
        fresh: None goes on from the checkpoint's own decoder; a shape starts from random weights and a new vocabulary.
        bank_rows: most rows of the memory bank, by k-means; None keeps every distinct sentence.
        epochs: passes over the corpus; None is 15, or 30 for a fresh decoder.
        batch: sentences in one update.
        learning_rate: highest rate.
        validation_share: share of the sentences held out, at most 1,000; unused where there is a validation file.
        autocast: forward pass in bfloat16.
        storage: precision of the result's weights on disk.
        seed: of everything that depends on chance.

    Raises:
        OptionError: a value makes no sense.
    """

    noise: float | None = None
    fresh: DecoderShape | None = None
    bank_rows: int | None = None
    epochs: float | None = None
    batch: int = 64
    learning_rate: float = 1e-3
    validation_share: float = 0.05
    autocast: bool = False
    storage: Storage = "fp16"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.noise is not None and not 0 < self.noise < math.inf:
            raise OptionError(f"noise is {self.noise!r}; it must be above 0, about 0.08 is usual")
        if self.bank_rows is not None and self.bank_rows < 1:
            raise OptionError(f"bank_rows is {self.bank_rows!r}; it must be at least 1, or None")
        if self.storage not in get_args(Storage):
            raise OptionError(f"storage is {self.storage!r}; choose one of {get_args(Storage)}")
        self.training(texts=1, max_tokens=1)  # checks the rest

    def training(self, *, texts: int, max_tokens: int) -> TrainOptions:
        """The decoder's training options for a corpus of `texts` sentences to train on."""
        usual = 15.0 if self.fresh is None else 30.0
        options = TrainOptions(
            epochs=usual if self.epochs is None else self.epochs,
            batch=self.batch,
            learning_rate=self.learning_rate,
            noise_sigma=self.noise or 0.0,
            max_tokens=max_tokens,
            validation_share=self.validation_share,
            autocast=self.autocast,
            seed=self.seed,
        )
        return _paced(options, options.total_steps(-(-texts // self.batch)))


def _paced(options: TrainOptions, total: int) -> TrainOptions:
    """Warm-up, reports and checkpoints in proportion to a run of `total` updates."""
    every = max(1, min(total // _REPORTS, 1000))
    return replace(
        options,
        warmup_steps=min(200, total // 10),
        validate_every=every,
        checkpoint_every=min(every, 200),
    )
