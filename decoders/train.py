"""Text-only training: a decoder learns to say a text from its embedding (DeCap, Li et al. 2023; CapDec, Nukrai 2022).

Every random number comes from (seed, step) or (seed, epoch): a resumed run ends where an uninterrupted one does.
"""

from __future__ import annotations

import hashlib
import logging
import math
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from decoders.base import TextMemory, TrainableDecoder
from patchioner.base.errors import CheckpointError, DecoderError, OptionError, TextError, check_texts
from patchioner.base.files import check, differences, read_json, recover_folder, replace_folder, write_json
from patchioner.base.progress import progress
from patchioner.base.weights import fit_weights, load_weights, save_weights

logger = logging.getLogger(__name__)

Embed: TypeAlias = Callable[[list[str]], Tensor] | NDArray[Any] | Tensor
Corrupt: TypeAlias = Callable[[Tensor], Tensor]
Integers: TypeAlias = NDArray[np.int64]

BUCKET_BATCHES = 64
_VALIDATION_SEED = 7_777_777  # its noise is the same at every report
_HARMLESS = {"validate_every", "checkpoint_every", "samples"}
_CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class TrainOptions:
    """How a decoder is trained on text alone; OptionError where a value makes no sense.

    Args:
        epochs: passes over the texts; ignored when `steps`, a number of updates, is given.
        batch: texts in one update.
        learning_rate, warmup_steps, decay: the highest rate, reached linearly after so many updates, then decayed to 0.
        weight_decay: of AdamW, on matrices only.
        gradient_clip: largest norm of the gradient.
        noise_sigma: standard deviation, per coordinate, of Gaussian noise on the unit embedding.
        label_smoothing: share of the target spread over the vocabulary, in training only.
        max_tokens: longer texts are cut.
        validation_share: share of the texts held out, at most `validation_most` of them.
        validate_every, checkpoint_every: updates between two reports, between two checkpoints.
        samples: held-out texts whose captions are shown with each report.
        seed: of the held-out texts, the order, the noise and the dropout.
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
    seed: int = 0

    def __post_init__(self) -> None:
        check("int [1, inf)", self, "batch max_tokens validate_every checkpoint_every")
        check("int [1, inf) or None", steps=self.steps)
        check("int [0, inf)", self, "warmup_steps samples validation_most")
        check(f"int [0, {2**63})", seed=self.seed)
        check("[0, inf)", self, "weight_decay noise_sigma")
        check("(0, inf)", self, "learning_rate gradient_clip epochs")
        check("[0, 1)", self, "label_smoothing validation_share")
        check(("cosine", "linear"), decay=self.decay)

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


@dataclass(frozen=True)
class TrainReport:
    """How a run stands.

    Args:
        step, total_steps: updates done, and of the whole run.
        train_loss: mean over the updates since the last report, label smoothing included.
        validation_loss: nats per held-out token, without label smoothing; None without any.
        samples: (held-out text, caption decoded from its embedding).
        seconds: since this call began.
    """

    step: int
    total_steps: int
    train_loss: float
    validation_loss: float | None
    samples: tuple[tuple[str, str], ...]
    seconds: float


def train_decoder(
    decoder: TrainableDecoder,
    texts: Sequence[str],
    embed: Embed,
    options: TrainOptions | None = None,
    *,
    corrupt: Corrupt | None = None,
    memory: TextMemory | None = None,
    held_out: Sequence[int] | None = None,
    checkpoint_folder: str | Path | None = None,
    resume: bool = False,
    on_report: Callable[[TrainReport], None] | None = None,
) -> list[TrainReport]:
    """Train `decoder` in place on texts alone; gives the reports of this call, the last one at the end of the run.

    An embedding is scaled to unit length, gets noise, is scaled again, and then passes `corrupt`.

    Args:
        embed: (len(texts), embedding_dim) array or tensor (a memory-mapped array stays on disk), or a function from a
            list of texts to (n, embedding_dim).
        corrupt: from (n, embedding_dim) float32 CPU to the same shape, such as the projection on a memory bank. It
            may draw from torch's global generator, which is seeded per step.
        memory: for the samples of a decoder that draws on one.
        held_out: indices of the texts to validate on, in place of the random `validation_share`; empty for none.
        checkpoint_folder: where checkpoints go; with `resume` the run goes on from the latest one there.
        on_report: called with each report; reports are logged as well.

    Raises:
        TextError: no text, one that is no string, or none left to train on.
        OptionError: `held_out` repeats an index, or has one that no text has.
        DecoderError: embeddings of a wrong shape or not finite, or a loss that is not finite.
        CheckpointError: a checkpoint that is damaged or of another run.
    """
    if not len(texts):
        raise TextError("there is no text to train on; give at least one")
    check_texts(texts, blank=True)
    options = options or TrainOptions()
    run = _Run(_Corpus(decoder, texts, embed, options, corrupt), options, held_out, memory)
    folder = Path(checkpoint_folder) if checkpoint_folder is not None else None
    with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
        try:
            return run.go(folder, resume=resume, on_report=on_report)
        finally:
            decoder.module.eval()


class _Run:
    """One call of `train_decoder`."""

    def __init__(
        self, corpus: _Corpus, options: TrainOptions, held_out: Sequence[int] | None, memory: TextMemory | None
    ) -> None:
        self.corpus, self.options, self.memory = corpus, options, memory
        self.decoder, self.texts = corpus.decoder, corpus.texts
        self.device = next(self.decoder.module.parameters()).device
        self.training, self.validation = _split(held_out, len(self.texts), options)
        self.per_epoch = -(-len(self.training) // options.batch)
        self.total = options.total_steps(self.per_epoch)
        self.optimizer = _optimizer(self.decoder.module, options)
        self.epoch, self.batches = -1, list[Integers]()

    def go(
        self, folder: Path | None, *, resume: bool, on_report: Callable[[TrainReport], None] | None
    ) -> list[TrainReport]:
        settings = {k: v for k, v in asdict(self.options).items() if k not in _HARMLESS}
        corpus = hashlib.sha256("".join(f"{text}\n" for text in self.texts).encode()).hexdigest()
        identity = {**settings, "corpus": corpus, "held_out": self.validation.tolist()}
        module, optimizer, first = self.decoder.module, self.optimizer, 0
        if folder is not None and resume:
            first = load_training(folder, module=module, optimizer=optimizer, run=identity)
        reports, losses, begin = list[TrainReport](), list[Tensor](), time.monotonic()
        for step in progress(range(first, self.total), description="training", unit="step"):
            losses.append(self.update(step))
            done, last = step + 1, step + 1 == self.total
            if last or done % self.options.validate_every == 0:
                report = self.report(done, losses, time.monotonic() - begin)
                losses = []
                reports.append(report)
                _log(report)
                if on_report is not None:
                    on_report(report)
            if folder is not None and (last or done % self.options.checkpoint_every == 0):
                save_training(folder, module=module, optimizer=optimizer, step=done, run=identity)
        return reports

    def update(self, step: int) -> Tensor:
        """One step of AdamW; gives back the detached loss."""
        self.decoder.module.train()
        torch.manual_seed(_mix(self.options.seed, step))
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            known, seed = self.corpus.lengths[self.training], self.options.seed
            self.batches = epoch_batches(known, self.options.batch, seed=seed, epoch=epoch)
            self.epoch = epoch
        loss = self.loss(self.training[self.batches[place]], self.options.label_smoothing)[0]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
        norm = nn.utils.clip_grad_norm_(self.decoder.module.parameters(), self.options.gradient_clip)
        if not bool(torch.isfinite(norm)):
            raise DecoderError(f"the gradient is not finite at step {step}; lower learning_rate or check embeddings")
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.rate_at(step, self.total)
        self.optimizer.step()
        return loss.detach()

    def loss(self, indices: Integers, smoothing: float) -> tuple[Tensor, int]:
        """The mean loss of a batch of texts, and of how many tokens."""
        tokens, lengths = self.corpus.tokens(indices)
        moved = (tensor.to(self.device) for tensor in (self.corpus.embeddings(indices), tokens, lengths))
        return self.decoder.loss(*moved, label_smoothing=smoothing), int(lengths.sum())

    @torch.no_grad()
    def report(self, step: int, losses: list[Tensor], seconds: float) -> TrainReport:
        self.decoder.module.eval()
        loss, indices = float(torch.stack(losses).mean()), self.validation[: self.options.samples]
        rows = self.corpus.embeddings(indices, noise=False) if len(indices) else None
        captions = [] if rows is None else self.decoder.generate(rows, memory=self.memory)
        samples = tuple((self.texts[i], c.text) for i, c in zip(indices, captions, strict=True))
        return TrainReport(step, self.total, loss, self.validation_loss(), samples, seconds)

    def validation_loss(self) -> float | None:
        """Loss of the held-out texts per token, under the noise of training."""
        total, tokens = 0.0, 0
        torch.manual_seed(_mix(self.options.seed, _VALIDATION_SEED))
        for first in range(0, len(self.validation), self.options.batch):
            loss, count = self.loss(self.validation[first : first + self.options.batch], 0.0)
            total += float(loss) * count
            tokens += count
        return total / tokens if tokens else None


def _split(held_out: Sequence[int] | None, count: int, options: TrainOptions) -> tuple[Integers, Integers]:
    """Indices to train on, and those held out: the given ones, or a random share."""
    if held_out is None:
        most = min(int(count * options.validation_share), options.validation_most, count - 1)
        order = np.random.default_rng(options.seed).permutation(count)
        return np.sort(order[most:]), np.sort(order[:most])
    given = np.asarray(held_out)
    chosen = np.unique(given.astype(np.int64))
    inside = not len(chosen) or 0 <= chosen[0] <= chosen[-1] < count
    if len(chosen) < len(given) or not inside or (len(given) and given.dtype.kind not in "iu"):
        raise OptionError(f"held_out must be different indices from 0 to {count - 1}")
    if len(chosen) == count:
        raise TextError(f"all {count} texts are held out; leave some to train on")
    return np.setdiff1d(np.arange(count), chosen), chosen


def _optimizer(module: nn.Module, options: TrainOptions) -> torch.optim.AdamW:
    matrices = [p for p in module.parameters() if p.requires_grad and p.dim() >= 2]
    vectors = [p for p in module.parameters() if p.requires_grad and p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), fused=True)


def _mix(seed: int, step: int) -> int:
    """A seed for one step, well spread and far from the seeds of neighbouring steps."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _log(report: TrainReport) -> None:
    held = "" if report.validation_loss is None else f", validation {report.validation_loss:.4f}"
    done = f"{report.step}/{report.total_steps}"
    logger.info("step %s: loss %.4f%s, %.0f s", done, report.train_loss, held, report.seconds)
    for text, caption in report.samples:
        logger.info("  %s -> %s", text, caption)


class _Corpus:
    """Texts as training sees them: embeddings (see `train_decoder`), and tokens in one flat array."""

    def __init__(
        self,
        decoder: TrainableDecoder,
        texts: Sequence[str],
        embed: Embed,
        options: TrainOptions,
        corrupt: Corrupt | None,
    ) -> None:
        self.decoder, self.texts = decoder, texts
        count, self._dim = len(texts), decoder.embedding_dim
        if not callable(embed) and tuple(embed.shape) != (count, self._dim):
            raise DecoderError(f"the embeddings are {tuple(embed.shape)}; these texts need {(count, self._dim)}")
        self._embed, self._noise_sigma, self._corrupt = embed, options.noise_sigma, corrupt
        # Longer ones are cut, and lose their end token.
        most = min(options.max_tokens, decoder.max_tokens)
        cut = [sequence[:most] for sequence in decoder.sequences(texts)]
        self.lengths: Integers = np.array([len(s) for s in cut], dtype=np.int64)
        self._ends = np.cumsum(self.lengths)
        self._flat = np.fromiter(chain.from_iterable(cut), dtype=np.int32)

    def embeddings(self, indices: Integers, *, noise: bool = True) -> Tensor:
        """Embeddings (n, dim) float32 on the CPU: unit length, noise (torch's global generator), unit, corruption."""
        if callable(self._embed):
            rows = self._embed([self.texts[i] for i in indices])
        else:
            rows = torch.as_tensor(self._embed[indices])
        rows = functional.normalize(self._checked(rows, len(indices), "embed"), dim=-1)
        if noise and self._noise_sigma > 0:
            rows = functional.normalize(rows + self._noise_sigma * torch.randn(rows.shape), dim=-1)
        if self._corrupt is None:
            return rows
        return self._checked(self._corrupt(rows), len(indices), "corrupt")

    def tokens(self, indices: Integers) -> tuple[Tensor, Tensor]:
        """Tokens (n, t) int64, padded with 0 at the end, and lengths (n,) int64."""
        lengths, ends = self.lengths[indices], self._ends[indices]
        rows = [self._flat[end - length : end] for length, end in zip(lengths, ends, strict=True)]
        tokens = [torch.from_numpy(row.astype(np.int64)) for row in rows]
        return nn.utils.rnn.pad_sequence(tokens, batch_first=True), torch.from_numpy(lengths)

    def _checked(self, rows: Tensor, count: int, source: str) -> Tensor:
        if tuple(rows.shape) != (count, self._dim):
            raise DecoderError(f"{source} gave {tuple(rows.shape)} embeddings; needed ({count}, {self._dim})")
        rows = rows.detach().to("cpu", torch.float32)
        if not bool(torch.isfinite(rows).all()):
            raise DecoderError(f"{source} gave embeddings that are not finite; check its inputs")
        return rows


def epoch_batches(lengths: Integers, batch: int, *, seed: int, epoch: int) -> list[Integers]:
    """Indices of every batch of an epoch, each index once.

    Shuffled, sorted by length within buckets of many batches (so that a batch holds little padding), shuffled again.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    bucket = batch * BUCKET_BATCHES
    batches = []
    for first in range(0, len(order), bucket):
        part = order[first : first + bucket]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[i : i + batch] for i in range(0, len(part), batch)]
    return [batches[i] for i in random.permutation(len(batches))]


def save_training(folder: Path, *, module: nn.Module, optimizer: Optimizer, step: int, run: dict[str, Any]) -> None:
    """Write the checkpoint of `step` in place of the one before, whole or not at all; `run` identifies the run."""
    with replace_folder(folder / _CHECKPOINT) as fresh:
        save_weights(module.state_dict(), fresh / "weights.safetensors", storage="fp32")
        torch.save(optimizer.state_dict(), fresh / "optimizer.pt")
        write_json(fresh / "state.json", {"step": step, "run": run})


def load_training(folder: Path, *, module: nn.Module, optimizer: Optimizer, run: dict[str, Any]) -> int:
    """Fill module and optimiser from the checkpoint; give back its step, 0 where there is none."""
    latest = folder / _CHECKPOINT
    recover_folder(latest)
    if not latest.exists():
        return 0
    state = read_json(latest / "state.json")
    if not isinstance(state, dict) or not isinstance(state.get("run"), dict):
        raise CheckpointError(f"{latest / 'state.json'} is not ours; remove {latest}")
    if changed := differences(state["run"], run):
        raise CheckpointError(f"{latest} is of a run with other {', '.join(changed)}; use those, or another folder")
    weights, path = latest / "weights.safetensors", latest / "optimizer.pt"
    fit_weights(module, load_weights(weights), source=str(weights))
    device = next(module.parameters()).device
    try:
        optimizer.load_state_dict(torch.load(path, map_location=device, weights_only=True))
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; remove {latest}") from error
    return int(state["step"])
