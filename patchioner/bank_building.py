"""A memory bank from captions and a text tower, in shards, so that a killed run goes on where it stopped.

Knows: captions, text towers, banks. Does not know: files of captions (`caption_files`), the command line.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from memory_bank import MemoryBank, Precision, compact
from patchioner.base.errors import OptionError, TextError
from patchioner.checkpoints.config import names_parts, read_model_config
from patchioner.checkpoints.folder import read_checkpoint
from patchioner.checkpoints.hub import find_model
from patchioner.run_folder import RunFolder, digest
from patchioner.text import TextTower
from patchioner.text.shards import embed_texts

_log = logging.getLogger(__name__)

RECORD = "building.json"


@dataclass(frozen=True)
class BankOptions:
    """How a bank is built.

    Attributes:
        sample: captions drawn at random; None takes all.
        rows: size to compact to by k-means (`memory_bank.compact`); None keeps every distinct caption.
        lower: lower-case captions and strip a final full stop, as shipped models' banks are.
        unit: store unit vectors. False keeps the lengths that the text tower gives, as the published banks do: longer
            rows then weigh more in a projection.
        keep_texts: keep the captions, for `explain` and for decoders that retrieve.
        dtype: precision on disk.
        seed: of `sample` and of the k-means.

    Raises:
        OptionError: a number below 1.
    """

    sample: int | None = None
    rows: int | None = None
    lower: bool = False
    unit: bool = True
    keep_texts: bool = True
    dtype: Precision = "float16"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("sample", "rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name} is {value}: give 1 or more, or leave it out")


def prepare(captions: Sequence[str], options: BankOptions) -> tuple[list[str], list[int]]:
    """Distinct captions in order of first appearance, and how often each occurred; what is blank is left out.

    Raises:
        TextError: no caption is left, or one is no string.

    Example:
        >>> prepare(["A cat.", "a cat", " "], BankOptions(lower=True))
        (['a cat'], [2])
    """
    if isinstance(captions, str) or not all(isinstance(text, str) for text in captions):
        raise TextError("captions must be a list of strings")
    stripped = [" ".join(text.split()) for text in captions]
    if options.lower:
        stripped = [text.lower().rstrip(". ") for text in stripped]
    kept = [text for text in stripped if text]
    if blank := len(stripped) - len(kept):
        _log.warning("left out %d blank captions of %d", blank, len(stripped))
    if not kept:
        raise TextError("no caption is left: give at least one that is not blank")
    if options.sample is not None and options.sample < len(kept):
        chosen = sorted(random.Random(options.seed).sample(range(len(kept)), options.sample))
        kept = [kept[index] for index in chosen]
    counts = Counter(kept)
    return list(counts), list(counts.values())


def find_text_tower(name: str) -> TextTower:
    """The text tower of a model, on the CPU.

    Args:
        name: anything that `Patchioner.from_pretrained` takes. Of a YAML file that names parts, the text tower alone is
            read: so a bank can be built for a model that is still to get one.

    Raises:
        OptionError: the model has no text tower.
        CheckpointError, HubError, UnknownNameError: as for `Patchioner.from_pretrained`.

    Example:
        >>> find_text_tower("patchioner-mini").dim
        384
    """
    path = find_model(name)
    if path.is_file() and names_parts(path):
        tower = read_model_config(path).make_text_tower()
    else:
        tower = read_checkpoint(path).text_tower
    if not tower:
        raise OptionError(
            f"{name!r} has no text tower to embed captions with: choose a model that has one "
            "(`patchioner models ID` lists the parts)"
        )
    return tower


def build_bank_folder(
    captions: Sequence[str],
    tower: TextTower,
    out: Path,
    options: BankOptions | None = None,
    *,
    resume: bool = False,
) -> MemoryBank:
    """Embed captions and write a bank that `MemoryBank.load` and ``--bank`` read.

    Args:
        captions: any number; repeated ones become one row with a count, which projects the same.
        tower: of the model that the bank is for.
        out: an absent or empty folder.
        options: see `BankOptions`.
        resume: go on with a run that was stopped; it ends where an uninterrupted one does.

    Returns:
        The bank as written.

    Raises:
        TextError: no caption.
        OptionError: the folder holds something else, or another run.

    Example:
        >>> build_bank_folder(captions, model.parts.text_tower, Path("bank"))  # doctest: +SKIP
        MemoryBank(566,747 rows x 768, float16, with texts)
    """
    options = options or BankOptions()
    texts, counts = prepare(captions, options)
    identity = {
        "options": asdict(options),
        "captions": hashlib.sha256(repr((texts, counts)).encode()).hexdigest(),
        "text_tower": {"config": tower.config, "weights": digest(tower)},
    }
    run = RunFolder.claim(out, identity, resume=resume, record=RECORD)
    if run.finished:
        _log.info("%s is finished: nothing left to do", out)
        return MemoryBank.load(out)
    embeddings = embed_texts(tower, texts, run.work, unit=options.unit)
    bank = MemoryBank(embeddings, texts if options.keep_texts else None, counts)
    if options.rows is not None:
        bank = compact(bank, options.rows, seed=options.seed)
    bank.save(out, dtype=options.dtype)
    run.finish({"rows": len(bank), "captions": len(captions)})
    return MemoryBank.load(out)
