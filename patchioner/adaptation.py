"""Teaching a captioner a new way of writing from sentences alone, without a photo.

Sources: DeCap (arXiv 2303.03032: behind a memory of texts); CapDec (arXiv 2211.00575: Gaussian noise).
"""

from __future__ import annotations

import copy
import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decoders import DECODERS, PrefixGPT2Decoder, TrainOptions, TrainReport, train_decoder
from decoders.language_decoder import LanguageDecoder
from decoders.viecap import COCO_ENTITIES, EntityPrompter, ViecapDecoder, embed_entities
from memory_bank import MemoryBank, compact
from memory_bank.build import embed_texts
from patchioner.base.errors import OptionError, TextError, check_texts
from patchioner.base.files import RunFolder, check
from patchioner.base.weights import Storage, tensors_sha256
from patchioner.checkpoints.folder import ModelSettings, Parts, write_checkpoint
from patchioner.text import TextTower

TextDecoder: TypeAlias = PrefixGPT2Decoder | LanguageDecoder

FEWEST = 20
MOST_HELD_OUT = 1000  # enough for a steady loss, few enough to be measured often
_RECORD = "adaptation.json"
_REPORTS = 10
_PROJECTED = 0.9  # of rows; the others skip the bank

_Type = Literal["prefix_gpt2", "viecap", "meacap", "prefix_lm"]
_Tune = Literal["frozen", "full"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewDecoder:
    """A decoder that is trained from scratch, or on a causal language model of `transformers`.

    Attributes:
        type: "prefix_gpt2" (ours), "viecap" (soft prompt and the entities near an embedding), "meacap" (what the
            nearest sentences of the bank agree on instead), "prefix_lm" (soft prompt alone, longer text).
        layers, width, heads, vocab_size, positions: of "prefix_gpt2"; see `decoders.PrefixGPT2Decoder.create`.
        language_model: of the others, hub id or folder (extra `language-models`).
        entities: names for "viecap"; () is the 80 classes of COCO.
        tune: for "prefix_lm", whether the language model stays "frozen" or is trained in "full".
    """

    type: _Type = "prefix_gpt2"
    language_model: str = ""
    entities: tuple[str, ...] = ()
    tune: _Tune = "frozen"
    layers: int = 4
    width: int = 320
    heads: int = 5
    vocab_size: int = 6000
    positions: int = 64

    def __post_init__(self) -> None:
        check(get_args(_Type), type=self.type)
        check(get_args(_Tune), tune=self.tune)
        if bool(self.language_model) == (self.type == "prefix_gpt2"):
            raise OptionError(
                f"language_model is {self.language_model!r} for {self.type}: prefix_gpt2 has none; viecap, meacap "
                "and prefix_lm need one (--decoder, --language-model)"
            )
        if self.entities and self.type != "viecap":
            raise OptionError(f"entities are for viecap, not for {self.type}")
        if self.type != "prefix_lm" and self.tune != "frozen":
            raise OptionError(f"tune is for prefix_lm, not for {self.type}")

    @property
    def learning_rate(self) -> float:
        """What suits: a trained language model bears less than fresh weights beside a frozen one."""
        fresh = self.type == "prefix_gpt2" or (self.type == "prefix_lm" and self.tune == "frozen")
        return 1e-3 if fresh else 1e-4

    def create(self, texts: Sequence[str], tower: TextTower, dim: int, seed: int) -> TextDecoder:
        """The decoder, for embeddings of width `dim`; `texts` give a vocabulary, `tower` embeds names of entities."""
        if self.type == "prefix_gpt2":
            shape = {name: getattr(self, name) for name in ("layers", "width", "heads", "vocab_size", "positions")}
            return PrefixGPT2Decoder.create(texts, embedding_dim=dim, seed=seed, **shape)
        how = {"tune": self.tune} if self.type == "prefix_lm" else {}
        kind: Any = DECODERS.get(self.type)
        decoder: LanguageDecoder = kind.create(dim, self.language_model, seed=seed, **how)
        if self.type == "viecap" and isinstance(decoder, ViecapDecoder):
            names = self.entities or COCO_ENTITIES
            decoder.prompter = EntityPrompter(names, embed_entities(names, tower.encode))
        return decoder


def usual_training(fresh: NewDecoder | None = None, **changes: Any) -> TrainOptions:
    """What suits an adaptation, behind the bank (no noise), with changes by name; see `decoders.TrainOptions`."""
    epochs, rate = (15.0, 1e-3) if fresh is None else (30.0, fresh.learning_rate)
    usual: dict[str, Any] = {"epochs": epochs, "learning_rate": rate, "batch": 64}
    return TrainOptions(**usual | {"noise_sigma": 0.0, "validation_share": 0.05} | changes)


def _paced(training: TrainOptions, texts: int, max_tokens: int) -> TrainOptions:
    """With reports, checkpoints and warm-up in proportion to the run."""
    total = training.total_steps(-(-texts // training.batch))
    every = max(1, min(total // _REPORTS, 1000))
    return replace(
        training,
        max_tokens=max_tokens,
        warmup_steps=min(200, total // 10),
        validate_every=every,
        checkpoint_every=min(every, 200),
    )


@dataclass(frozen=True, eq=False)
class GapNoise:
    """A corruption for `decoders.train_decoder`: noise of random strength, then, for a `share` of rows, the projection.

    Rows that skip the bank (None: all) keep the decoder usable without one. `weakest` to `strongest` is the range of
    the noise's standard deviation per coordinate, drawn per row.
    """

    bank: MemoryBank | None
    weakest: float = 0.02
    strongest: float = 0.1
    temperature: float = 0.01
    share: float = 1.0

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Unit embeddings (n, dim) -> corrupted unit embeddings; draws from torch's global generator."""
        rows, device = (len(embeddings), 1), embeddings.device
        sigma = self.weakest + (self.strongest - self.weakest) * torch.rand(rows, device=device)
        noisy = F.normalize(embeddings + sigma * torch.randn_like(embeddings), dim=1)
        if self.bank is None:
            return noisy
        projected = self.bank.project(noisy, temperature=self.temperature)
        return torch.where(torch.rand(rows, device=device) < self.share, projected, noisy)


def normalise(text: str) -> str:
    """Lower case, no final full stop, no blanks before punctuation: how the decoder is to write."""
    return re.sub(r"\s+([,.;:!?'])", r"\1", " ".join(text.lower().split()).strip(" ."))


@dataclass(frozen=True)
class Corpus:
    """Distinct normalised sentences, how often each occurred, and those held out; `foreign` ones enter no bank."""

    texts: tuple[str, ...]
    counts: tuple[int, ...]
    held_out: tuple[int, ...] = ()
    foreign: bool = False

    @property
    def training(self) -> list[int]:
        """Indices of the sentences that are not held out."""
        return sorted(set(range(len(self.texts))) - set(self.held_out))


def clean(texts: Iterable[str], name: str) -> Counter[str]:
    """How often each normalised sentence occurs; `name` is what the log calls them."""
    texts = texts if isinstance(texts, str) else list(texts)
    check_texts(texts, f"{name}: item", blank=True)
    counts = Counter(map(normalise, texts))
    if blank := counts.pop("", 0):
        logger.warning("%s: left out %d blank lines", name, blank)
    repeats = counts.total() - len(counts)
    logger.info("%s: %d distinct sentences, %d repeats merged", name, len(counts), repeats)
    return counts


def gather(
    corpus: Counter[str],
    validation: Counter[str] | None,
    *,
    fits: Callable[[Sequence[str]], Sequence[bool]],
    share: float,
    seed: int,
) -> Corpus:
    """Leave out what does not fit, and hold out `validation`, else a `share` of the corpus (0: none)."""
    own = _fitting(corpus, fits, "corpus")
    if len(own) < FEWEST:
        raise TextError(f"the corpus has {len(own)} usable sentences: give {FEWEST} or more")
    counts = [corpus[text] for text in own]
    if validation is None:
        return Corpus(tuple(own), tuple(counts), _chosen(len(own), share, seed))
    offered = _fitting(validation, fits, "validation")
    others = [text for text in offered if text not in corpus]
    if len(others) < len(offered):
        logger.warning("validation: left out %d sentences of the corpus itself", len(offered) - len(others))
    if not others:
        raise TextError("no validation sentence is left: give sentences that the corpus lacks")
    others = [others[row] for row in _chosen(len(others), 1.0, seed)]
    rows = tuple(range(len(own), len(own) + len(others)))
    return Corpus((*own, *others), (*counts, *[1] * len(others)), rows, foreign=True)


def _chosen(count: int, share: float, seed: int) -> tuple[int, ...]:
    if share == 0:
        return ()
    chosen = min(max(1, int(count * share)), MOST_HELD_OUT)
    return tuple(sorted(np.random.default_rng(seed).permutation(count)[:chosen].tolist()))


def _fitting(corpus: Iterable[str], fits: Callable[[Sequence[str]], Sequence[bool]], name: str) -> list[str]:
    texts = list(corpus)
    found = list(zip(texts, fits(texts), strict=True))
    if left := [text for text, fit in found if not fit]:
        logger.warning("%s: left out %d sentences longer than it can write, such as %r", name, len(left), left[0][:80])
    return [text for text, fit in found if fit]


def adapt(
    source: Parts,
    texts: Iterable[str],
    out: str | Path,
    training: TrainOptions | None = None,
    *,
    fresh: NewDecoder | None = None,
    bank_rows: int | None = None,
    storage: Storage = "fp16",
    validation: Iterable[str] | None = None,
    resume: bool = False,
    on_report: Callable[[TrainReport], None] | None = None,
) -> Path:
    """Make a checkpoint that writes like a corpus of sentences.

    Backbone, text tower and settings are the old; the decoder is trained on the sentences, the bank holds them.

    Args:
        source: a checkpoint's parts, with a text tower; left untouched.
        texts: the corpus. Sentences are lower-cased and stripped of the final full stop; blank ones and those too
            long for the decoder are left out, repeated ones merged (they count as often in the bank).
        out: folder to write and give back; its name becomes the model's.
        training: None is `usual_training(fresh)`. Without noise the decoder is trained behind the new memory bank,
            through which the result sends regions (DeCap); with a `noise_sigma`, 0.08 say, without a bank (CapDec).
        fresh: None goes on from the checkpoint's own decoder.
        bank_rows: most rows of the memory bank, by k-means; None keeps every distinct sentence.
        storage: precision of the result's weights on disk.
        validation: sentences to validate on, in place of a share of the corpus.
        resume: go on with a run that was stopped; it ends where an uninterrupted one does.
        on_report: called with every report of the training, which are logged as well.

    Raises:
        OptionError: no text tower, a decoder that cannot be trained further, or a folder that holds something else.
        TextError, CheckpointError: too few sentences, or no string; intermediate files that are damaged.
    """
    training, out = training or usual_training(fresh), Path(out)
    check(get_args(Storage), storage=storage)
    check("int [1, inf) or None", bank_rows=bank_rows)
    if (tower := source.text_tower) is None:
        raise OptionError(f"{source.settings.name!r} has no text tower: choose one that has")
    cleaned = clean(texts, "corpus")
    decoder = _starting_decoder(source, tower, list(cleaned), fresh, training.seed)
    corpus = gather(
        cleaned,
        None if validation is None else clean(validation, "validation"),
        fits=lambda some: [len(ids) <= decoder.max_tokens for ids in decoder.sequences(some)],
        share=training.validation_share,
        seed=training.seed,
    )
    training = _paced(training, len(corpus.training), decoder.max_tokens)
    options = asdict(training) | {"fresh": fresh and asdict(fresh), "bank_rows": bank_rows, "storage": storage}
    identity = _identity(source, tower, decoder, corpus, options)
    with RunFolder.claim(out, identity, resume=resume, record=_RECORD) as run:
        if run.finished:
            logger.info("%s is finished: nothing left to do", out)
            return out
        embeddings = embed_texts(tower.encode, corpus.texts, run.work / "embeddings").float()
        how: Any = {"resume": resume, "on_report": on_report, "checkpoint_folder": run.work / "decoder"}
        reports = _train(decoder, corpus, embeddings, training, bank_rows, source.settings.temperature, **how)
        # A share of the corpus belongs in the bank that is kept, a validation file does not.
        rows = corpus.training if corpus.foreign else range(len(corpus.texts))
        bank = _bank(corpus, embeddings, rows, bank_rows, training.seed)
        settings = _settings(source.settings, out, training, decoder, corpus.texts)
        parts = Parts(source.backbone, decoder, bank, tower, settings, source.nouns)
        write_checkpoint(parts, out, storage=storage)
        loss = reports[-1].validation_loss if reports else None
        run.finish({"sentences": len(corpus.training), "bank_rows": len(bank), "validation_loss": loss})
    return out


def _settings(
    old: ModelSettings, out: Path, training: TrainOptions, decoder: TextDecoder, texts: Sequence[str]
) -> ModelSettings:
    """The old ones, for captions as long as the corpus' where those are longer, and whole."""
    longest = max(old.decode.max_tokens, *map(len, decoder.sequences(texts)))
    return replace(
        old,
        name=out.resolve().name,
        projection="none" if training.noise_sigma else "memory",
        kinds={key: replace(kind, style="sentence") for key, kind in old.kinds.items()},
        decode=replace(old.decode, max_tokens=min(decoder.max_tokens, longest)),
    )


def _identity(
    source: Parts, tower: TextTower, decoder: TextDecoder, corpus: Corpus, options: dict[str, Any]
) -> dict[str, Any]:
    """Everything that decides where the run ends."""
    sentences = hashlib.sha256(repr((corpus.texts, corpus.counts, corpus.held_out)).encode())
    networks: list[nn.Module] = [tower]
    if options["fresh"] is None:
        networks.append(decoder.module)
    elif isinstance(decoder, LanguageDecoder):
        networks.append(decoder.model)
    return {
        "options": options,
        "corpus": sentences.hexdigest(),
        "source": {**source.settings.to_json(), "weights": [tensors_sha256(one.state_dict()) for one in networks]},
    }


def _train(
    decoder: TextDecoder,
    corpus: Corpus,
    embeddings: Tensor,
    training: TrainOptions,
    bank_rows: int | None,
    temperature: float,
    **how: Any,
) -> list[TrainReport]:
    """Train in place; the held-out sentences are in nothing that the decoder learns from, the bank included."""
    memory = corrupt = None
    if not training.noise_sigma or decoder.needs_memory:
        memory = _bank(corpus, embeddings, corpus.training, bank_rows, training.seed)
    if not training.noise_sigma and memory is not None:
        corrupt = GapNoise(memory.to(decoder.device), temperature=temperature, share=_PROJECTED)
    how |= {"corrupt": corrupt, "memory": memory, "held_out": corpus.held_out}
    return train_decoder(decoder, corpus.texts, embeddings, training, **how)


def _bank(corpus: Corpus, embeddings: Tensor, rows: Sequence[int], most: int | None, seed: int) -> MemoryBank:
    texts, counts = [corpus.texts[row] for row in rows], [corpus.counts[row] for row in rows]
    bank = MemoryBank(embeddings[list(rows)], texts, counts)
    return bank.merge_duplicates() if most is None else compact(bank, most, seed=seed)


def _starting_decoder(
    source: Parts, tower: TextTower, texts: Sequence[str], fresh: NewDecoder | None, seed: int
) -> TextDecoder:
    """A new decoder, or a copy of the checkpoint's own, in float32 on the device of that."""
    decoder: TextDecoder
    if fresh is not None:
        decoder = fresh.create(texts, tower, source.decoder.embedding_dim, seed)
    elif isinstance(source.decoder, PrefixGPT2Decoder | LanguageDecoder):
        # A hard prompter is no network and never changes: shared, with its caches and locks.
        prompter = getattr(source.decoder, "prompter", None)
        decoder = copy.deepcopy(source.decoder, {id(prompter): prompter})
    else:
        raise OptionError(f"a {type(source.decoder).__name__} cannot be trained further: train one from scratch")
    decoder.network.to(source.decoder.device, torch.float32)
    return decoder
