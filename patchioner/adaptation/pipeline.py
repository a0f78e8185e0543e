"""An adaptation from beginning to end: corpus, embeddings, memory bank, decoder, checkpoint.

Knows: the order of the steps and what the new checkpoint takes from the old. Does not know: how a step is done.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from decoders import TrainReport, train_decoder
from decoders.language_model import LanguageDecoder, fingerprint
from memory_bank import MemoryBank, compact
from memory_bank.build import embed_texts
from patchioner.adaptation.corpus import Corpus, clean, gather
from patchioner.adaptation.decoder_choice import TextDecoder, starting_decoder
from patchioner.adaptation.gap import GapNoise
from patchioner.adaptation.options import AdaptOptions, LanguageModelShape
from patchioner.base.errors import OptionError
from patchioner.base.run_folder import RunFolder
from patchioner.base.weights import digest
from patchioner.checkpoints.folder import write_checkpoint
from patchioner.checkpoints.parts import Parts
from patchioner.checkpoints.settings import ModelSettings
from patchioner.text import TextTower

logger = logging.getLogger(__name__)

_RECORD = "adaptation.json"

# Behind the bank: noise of strengths up to what separates paraphrases, and a few rows that skip the bank.
_PROJECTED = 0.9


def adapt(
    source: Parts,
    texts: Iterable[str],
    out: str | Path,
    options: AdaptOptions | None = None,
    *,
    validation: Iterable[str] | None = None,
    resume: bool = False,
    on_report: Callable[[TrainReport], None] | None = None,
) -> Path:
    """Make a checkpoint that writes like a corpus of sentences.

    The new checkpoint has the backbone, text tower and settings of the old, a decoder trained on the sentences, and
    a memory bank of them, with their texts. Work is done on the device of the old decoder.

    Args:
        source: a checkpoint's parts, with a text tower; left untouched.
        texts: the corpus. Sentences are lower-cased and stripped of the final full stop; blank ones and those too long
            for the decoder are left out, repeated ones merged (they count as often in the bank), all of it logged.
        out: folder to write; its name becomes the model's.
        options: see `AdaptOptions`.
        validation: sentences to validate on, in place of a share of the corpus.
        resume: go on with a run that was stopped; it ends where an uninterrupted one does.
        on_report: called with every report of the training, which are logged as well.

    Returns:
        The folder, which `Patchioner.from_pretrained` reads.

    Raises:
        OptionError: no text tower, a decoder that cannot be trained further, or a folder that holds something else.
        TextError: too few sentences, or something that is no string.
        CheckpointError: intermediate files that are damaged.

    Example:
        >>> adapt(model.parts, read_texts("catalogue.txt"), "catalogue-model",
        ...       AdaptOptions(epochs=8))  # doctest: +SKIP
        PosixPath('catalogue-model')
    """
    options, out = options or AdaptOptions(), Path(out)
    tower = _tower(source)
    cleaned = clean(texts, "corpus")
    decoder = starting_decoder(source, tower, cleaned.texts, options.fresh, seed=options.seed)
    corpus = gather(
        cleaned,
        None if validation is None else clean(validation, "validation"),
        fits=_fits(decoder),
        share=options.validation_share,
        seed=options.seed,
    )
    identity = _identity(source, tower, decoder, corpus, options)
    with RunFolder.claim(out, identity, resume=resume, record=_RECORD) as run:
        if run.finished:
            logger.info("%s is finished: nothing left to do", out)
            return out
        embeddings = embed_texts(tower.encode, corpus.texts, run.work / "embeddings")
        reports = _train(decoder, corpus, embeddings, options, source, run, resume, on_report)
        bank = _bank(corpus, embeddings, _bank_rows(corpus), options)
        settings = _settings(source.settings, decoder, corpus, options, out.resolve().name)
        write_checkpoint(
            Parts(source.backbone, decoder, bank, tower, settings), out, storage=options.storage
        )
        run.finish(
            {
                "sentences": len(corpus.training),
                "bank_rows": len(bank),
                "validation_loss": reports[-1].validation_loss if reports else None,
            }
        )
    return out


def _tower(source: Parts) -> TextTower:
    if source.text_tower is None:
        raise OptionError(
            f"{source.settings.name!r} has no text tower to embed sentences with: "
            "choose a checkpoint that has one"
        )
    return source.text_tower


def _fits(decoder: TextDecoder) -> Callable[[Sequence[str]], list[bool]]:
    def fits(texts: Sequence[str]) -> list[bool]:
        return [len(ids) <= decoder.max_tokens for ids in decoder.sequences(texts)]

    return fits


def _identity(
    source: Parts, tower: TextTower, decoder: TextDecoder, corpus: Corpus, options: AdaptOptions
) -> dict[str, Any]:
    """Everything that decides where the run ends."""
    sentences = hashlib.sha256(repr((corpus.texts, corpus.counts, corpus.held_out)).encode())
    networks: list[nn.Module] = [tower]
    if options.fresh is None:
        networks.append(decoder.module)
    extra = {}
    if isinstance(options.fresh, LanguageModelShape) and isinstance(decoder, LanguageDecoder):
        extra["language_model"] = fingerprint(decoder.model)
    return {
        "options": {**asdict(options), "learning_rate": options.rate},
        "corpus": sentences.hexdigest(),
        "source": {**source.settings.to_json(), "weights": digest(*networks)},
        **extra,
    }


def _train(
    decoder: TextDecoder,
    corpus: Corpus,
    embeddings: Tensor,
    options: AdaptOptions,
    source: Parts,
    run: RunFolder,
    resume: bool,
    on_report: Callable[[TrainReport], None] | None,
) -> list[TrainReport]:
    """Train in place; the held-out sentences are in nothing that the decoder learns from, the bank included."""
    corrupt = None
    if options.noise is None:
        bank = _bank(corpus, embeddings, corpus.training, options).to(decoder.device)
        corrupt = GapNoise(bank, temperature=source.settings.temperature, share=_PROJECTED)
    memory = None
    if decoder.needs_memory:  # for the samples shown, of sentences that it draws on
        memory = _bank(corpus, embeddings, corpus.training, options)
    return train_decoder(
        decoder,
        corpus.texts,
        embeddings,
        options.training(texts=len(corpus.training), max_tokens=decoder.max_tokens),
        corrupt=corrupt,
        memory=memory,
        held_out=corpus.held_out,
        checkpoint_folder=run.work / "decoder",
        resume=resume,
        on_report=on_report,
    )


def _bank_rows(corpus: Corpus) -> list[int]:
    """Rows of the bank that is kept: a share of the corpus belongs in it, a validation file does not."""
    return corpus.training if corpus.foreign else list(range(len(corpus.texts)))


def _bank(
    corpus: Corpus, embeddings: Tensor, rows: Sequence[int], options: AdaptOptions
) -> MemoryBank:
    bank = MemoryBank(
        embeddings[list(rows)],
        [corpus.texts[row] for row in rows],
        [corpus.counts[row] for row in rows],
    )
    if options.bank_rows is None:
        return bank.merge_duplicates()
    return compact(bank, options.bank_rows, seed=options.seed)


def _settings(
    old: ModelSettings,
    decoder: TextDecoder,
    corpus: Corpus,
    options: AdaptOptions,
    name: str,
) -> ModelSettings:
    """The old settings under a new name, with captions as long as the corpus' where those are longer."""
    longest = max(len(ids) for ids in decoder.sequences(corpus.texts))
    most = min(decoder.max_tokens, max(old.decode.max_tokens, longest))
    return replace(
        old,
        name=name,
        projection="memory" if options.noise is None else "none",
        decode=replace(old.decode, max_tokens=most),
    )
