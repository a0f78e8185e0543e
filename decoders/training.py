"""Text-only training: a decoder learns to say a text from the embedding of that text.

Knows: the loop, noise, reports, when to save. Every random number of an update comes from
(seed, step), so a run that was killed and resumed ends where an uninterrupted one does.
Does NOT know: images, embeddings and what is done to them (`train_inputs`), networks.

Sources: Li et al. 2023 (DeCap: decoder trained on text embeddings); Nukrai et al. 2022 (CapDec:
Gaussian noise on them).
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from decoders.base import TextMemory, TrainableDecoder
from decoders.batches import TokenStore, epoch_batches, steps_per_epoch
from decoders.train_inputs import Corrupt, Embed, TrainingInputs
from decoders.train_options import TrainOptions
from decoders.train_state import load_training, save_training
from patchioner.base.errors import DecoderError, OptionError, TextError
from patchioner.base.progress import progress

logger = logging.getLogger(__name__)

_VALIDATION_SEED = 7_777_777  # its noise is the same at every report


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
    """Train `decoder` in place on texts alone.

    An embedding is scaled to unit length, gets noise, is scaled again, and then passes `corrupt`.

    Args:
        decoder: fresh or trained; its weights change.
        texts: captions.
        embed: (len(texts), embedding_dim) array or tensor (a memory-mapped array stays on disk),
            or a function from a list of texts to (n, embedding_dim).
        options: see `TrainOptions`.
        corrupt: from (n, embedding_dim) float32 CPU to the same shape, such as the projection on
            a memory bank. It may draw from torch's global generator, which is seeded per step.
        memory: for the samples of a decoder that draws on one.
        held_out: indices of the texts to validate on and not to train on, in place of the random
            `validation_share`; empty for none.
        checkpoint_folder: where checkpoints go; none are written without it.
        resume: go on from the checkpoint in that folder, if there is one.
        on_report: called with each report; reports are logged as well.

    Returns:
        The reports of this call, the last one at the end of the run.

    Raises:
        TextError: no text, or none left to train on.
        OptionError: `held_out` repeats an index, or has one that no text has.
        DecoderError: embeddings of a wrong shape or not finite, or a loss that is not finite.
        CheckpointError: a checkpoint that is damaged or of another run.

    Example:
        >>> reports = train_decoder(decoder, texts, encode, TrainOptions(epochs=5),
        ...                         checkpoint_folder="runs/decoder", resume=True)  # doctest: +SKIP
    """
    run = _Run(decoder, texts, embed, options or TrainOptions(), corrupt, held_out, memory)
    folder = Path(checkpoint_folder) if checkpoint_folder is not None else None
    forked = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked):
        try:
            return run.go(folder, resume=resume, on_report=on_report)
        finally:
            decoder.module.eval()


class _Run:
    """One call of `train_decoder`."""

    def __init__(
        self,
        decoder: TrainableDecoder,
        texts: Sequence[str],
        embed: Embed,
        options: TrainOptions,
        corrupt: Corrupt | None,
        held_out: Sequence[int] | None = None,
        memory: TextMemory | None = None,
    ) -> None:
        if not len(texts):
            raise TextError("there is no text to train on; give at least one")
        self.decoder, self.texts, self.options = decoder, texts, options
        self.memory = memory
        self.device = next(decoder.module.parameters()).device
        self.inputs = TrainingInputs(
            texts,
            embed,
            dim=decoder.embedding_dim,
            noise_sigma=options.noise_sigma,
            corrupt=corrupt,
        )
        self.store = TokenStore(
            decoder.sequences(texts), max_tokens=min(options.max_tokens, decoder.max_tokens)
        )
        if held_out is None:
            self.training, self.validation = _split(len(texts), options)
        else:
            self.training, self.validation = _split_at(held_out, len(texts))
        # Only where asked for, so that runs without it keep the identity they have always had.
        self.chosen = {} if held_out is None else {"held_out": self.validation.tolist()}
        self.per_epoch = steps_per_epoch(len(self.training), options.batch)
        self.total = options.total_steps(self.per_epoch)
        self.optimizer = _optimizer(decoder.module, options)
        self.epoch, self.batches = -1, list[NDArray[np.int64]]()

    def go(
        self,
        folder: Path | None,
        *,
        resume: bool,
        on_report: Callable[[TrainReport], None] | None,
    ) -> list[TrainReport]:
        corpus = _fingerprint(self.texts)
        identity = {**self.options.identity(), "corpus": corpus, **self.chosen}
        first = 0
        if folder is not None and resume:
            first = load_training(
                folder, module=self.decoder.module, optimizer=self.optimizer, run=identity
            )
        reports: list[TrainReport] = []
        losses: list[Tensor] = []
        begin = time.monotonic()
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
                save_training(
                    folder,
                    module=self.decoder.module,
                    optimizer=self.optimizer,
                    step=done,
                    run=identity,
                )
        return reports

    def update(self, step: int) -> Tensor:
        """One step of AdamW; gives back the detached loss."""
        self.decoder.module.train()
        torch.manual_seed(_mix(self.options.seed, step))
        indices = self.training[self.batch_of(step)]
        tokens, lengths = self.store.padded(indices)
        embeddings = self.inputs.embeddings(indices)
        loss = self.loss(embeddings, tokens, lengths, self.options.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
        norm = nn.utils.clip_grad_norm_(
            self.decoder.module.parameters(), self.options.gradient_clip
        )
        if not bool(torch.isfinite(norm)):
            raise DecoderError(
                f"the loss or its gradient is not finite at step {step}; "
                "lower learning_rate, or check the embeddings"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.rate_at(step, self.total)
        self.optimizer.step()
        return loss.detach()

    def batch_of(self, step: int) -> NDArray[np.int64]:
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            lengths = self.store.lengths[self.training]
            self.batches = epoch_batches(
                lengths, self.options.batch, seed=self.options.seed, epoch=epoch
            )
            self.epoch = epoch
        return self.batches[place]

    def loss(self, embeddings: Tensor, tokens: Tensor, lengths: Tensor, smoothing: float) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.autocast):
            return self.decoder.loss(
                embeddings.to(self.device),
                tokens.to(self.device),
                lengths.to(self.device),
                label_smoothing=smoothing,
            )

    @torch.no_grad()
    def report(self, step: int, losses: list[Tensor], seconds: float) -> TrainReport:
        self.decoder.module.eval()
        return TrainReport(
            step=step,
            total_steps=self.total,
            train_loss=float(torch.stack(losses).mean()),
            validation_loss=self.validation_loss(),
            samples=self.samples(),
            seconds=seconds,
        )

    def validation_loss(self) -> float | None:
        """Loss of the held-out texts per token, under the noise of training."""
        total, count = 0.0, 0
        torch.manual_seed(_mix(self.options.seed, _VALIDATION_SEED))
        for first in range(0, len(self.validation), self.options.batch):
            indices = self.validation[first : first + self.options.batch]
            tokens, lengths = self.store.padded(indices)
            loss = self.loss(self.inputs.embeddings(indices), tokens, lengths, 0.0)
            total += float(loss) * int(lengths.sum())
            count += int(lengths.sum())
        return total / count if count else None

    def samples(self) -> tuple[tuple[str, str], ...]:
        indices = self.validation[: self.options.samples]
        if not len(indices):
            return ()
        rows = self.inputs.embeddings(indices, noise=False)
        captions = self.decoder.generate(rows, memory=self.memory)
        return tuple(
            (self.texts[i], caption.text) for i, caption in zip(indices, captions, strict=True)
        )


def _split(count: int, options: TrainOptions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to train on, and those held out."""
    held_out = min(int(count * options.validation_share), options.validation_most, count - 1)
    order = np.random.default_rng(options.seed).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _split_at(held_out: Sequence[int], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to train on, and the given ones, sorted."""
    chosen = np.unique(np.asarray(held_out, dtype=np.int64))
    if len(chosen) < len(held_out) or (len(chosen) and not 0 <= chosen[0] <= chosen[-1] < count):
        raise OptionError(f"held_out must be different indices from 0 to {count - 1}")
    if len(chosen) == count:
        raise TextError(f"all {count} texts are held out; leave some to train on")
    return np.setdiff1d(np.arange(count), chosen), chosen


def _optimizer(module: nn.Module, options: TrainOptions) -> torch.optim.AdamW:
    matrices = [p for p in module.parameters() if p.requires_grad and p.dim() >= 2]
    vectors = [p for p in module.parameters() if p.requires_grad and p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), fused=True)


def _fingerprint(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _mix(seed: int, step: int) -> int:
    """A seed for one step, well spread and far from the seeds of neighbouring steps."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _log(report: TrainReport) -> None:
    validation = (
        "" if report.validation_loss is None else f", validation {report.validation_loss:.4f}"
    )
    logger.info(
        "step %d/%d: loss %.4f%s, %.0f s",
        report.step,
        report.total_steps,
        report.train_loss,
        validation,
        report.seconds,
    )
    for text, caption in report.samples:
        logger.info("  %s -> %s", text, caption)
