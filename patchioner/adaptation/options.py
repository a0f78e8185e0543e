"""The settings of an adaptation, and the training options they stand for.

Knows: numbers and which of them make sense. Does not know: texts, networks, files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from decoders import TrainOptions
from patchioner.base.errors import OptionError
from patchioner.base.weights import Storage

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
class LanguageModelShape:
    """A new decoder on a causal language model of `transformers` (extra `language-models`).

    Attributes:
        decoder: "viecap" (soft prompt and the entities near an embedding), "meacap" (what the nearest sentences of
            the bank agree on instead), "prefix_lm" (soft prompt alone, longer text).
        language_model: hub id or folder.
        entities: names for "viecap"; () is the 80 classes of COCO.
        tune: for "prefix_lm", what of the language model is trained: "frozen", "lora" (needs peft) or "full". The
            others train it in full, as published.
        keep: for "prefix_lm", store the language model "inside" the checkpoint or only a "reference" to it.

    Raises:
        OptionError: a value makes no sense.
    """

    decoder: Literal["viecap", "meacap", "prefix_lm"]
    language_model: str
    entities: tuple[str, ...] = ()
    tune: Literal["frozen", "lora", "full"] = "frozen"
    keep: Literal["inside", "reference"] = "inside"

    def __post_init__(self) -> None:
        known = {
            "decoder": ("viecap", "meacap", "prefix_lm"),
            "tune": ("frozen", "lora", "full"),
            "keep": ("inside", "reference"),
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise OptionError(f"{name} is {getattr(self, name)!r}; choose one of {values}")
        if not self.language_model:
            raise OptionError("language_model is empty; give a hub id such as 'gpt2', or a folder")
        if self.entities and self.decoder != "viecap":
            raise OptionError(f"entities are for viecap, not for {self.decoder}")
        if self.decoder != "prefix_lm" and (self.tune, self.keep) != ("frozen", "inside"):
            raise OptionError(f"tune and keep are for prefix_lm, not for {self.decoder}")

    @property
    def learning_rate(self) -> float:
        """What suits: a trained language model bears less than fresh weights beside a frozen one."""
        return 1e-3 if self.decoder == "prefix_lm" and self.tune == "frozen" else 1e-4


@dataclass(frozen=True)
class AdaptOptions:
    """How a checkpoint is adapted to a corpus.

    Attributes:
        noise: None trains the decoder behind the new memory bank, and the result sends regions through it (DeCap,
            arXiv 2303.03032). A number is the standard deviation, per coordinate, of Gaussian noise on unit embeddings;
            the result then sends regions straight to the decoder (CapDec, arXiv 2211.00575).
        fresh: None goes on from the checkpoint's own decoder; a `DecoderShape` starts from random weights and a new
            vocabulary, a `LanguageModelShape` from a language model.
        bank_rows: most rows of the memory bank, by k-means; None keeps every distinct sentence.
        epochs: passes over the corpus; None is 15, or 30 for a fresh decoder.
        batch: sentences in one update.
        learning_rate: highest rate; None is 1e-3, or 1e-4 where a language model is trained.
        validation_share: share of the sentences held out, at most 1,000; unused where there is a validation file.
        autocast: forward pass in bfloat16.
        storage: precision of the result's weights on disk.
        seed: of everything that depends on chance.

    Raises:
        OptionError: a value makes no sense.
    """

    noise: float | None = None
    fresh: DecoderShape | LanguageModelShape | None = None
    bank_rows: int | None = None
    epochs: float | None = None
    batch: int = 64
    learning_rate: float | None = None
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

    @property
    def rate(self) -> float:
        """The highest learning rate, chosen or usual."""
        if self.learning_rate is not None:
            return self.learning_rate
        return self.fresh.learning_rate if isinstance(self.fresh, LanguageModelShape) else 1e-3

    def training(self, *, texts: int, max_tokens: int) -> TrainOptions:
        """The decoder's training options for a corpus of `texts` sentences to train on."""
        usual = 15.0 if self.fresh is None else 30.0
        options = TrainOptions(
            epochs=usual if self.epochs is None else self.epochs,
            batch=self.batch,
            learning_rate=self.rate,
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
