"""Step 6: the memory bank, the corpus' embeddings compressed by k-means with multiplicities."""

from __future__ import annotations

from memory_bank import MemoryBank, compact
from runs.training.settings import RunSettings
from runs.training.steps.corpus import read_corpus


def run(settings: RunSettings) -> None:
    """Write ``work/memory_bank``, without texts: no third-party sentence is kept."""
    _, embeddings = read_corpus(settings)
    section = settings.section("bank")
    bank = compact(
        MemoryBank(embeddings),
        int(section["rows"]),
        seed=settings.seed,
        iterations=int(section["iterations"]),
    )
    bank.with_texts(None).save(settings.work / "memory_bank", dtype="float16")
