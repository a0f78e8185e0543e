"""Step 7: the decoder, trained on text alone behind the memory bank."""

from __future__ import annotations

from decoders import PrefixGPT2Decoder, TrainOptions, train_decoder
from memory_bank import MemoryBank
from patchioner.adaptation import GapNoise
from runs.training.settings import RunSettings
from runs.training.steps.corpus import read_corpus


def run(settings: RunSettings) -> None:
    """Write ``work/decoder``."""
    texts, embeddings = read_corpus(settings)
    section = settings.section("decoder")
    shape = {**section["shape"], "embedding_dim": embeddings.shape[1], "seed": settings.seed}
    decoder = PrefixGPT2Decoder.create(texts, **shape)
    bank = MemoryBank.load(settings.work / "memory_bank", memory_map=False)
    train_decoder(
        decoder,
        texts,
        embeddings,
        TrainOptions(**section["train"], noise_sigma=0.0, seed=settings.seed),
        corrupt=GapNoise(bank, **section["gap"]),
        checkpoint_folder=settings.work / "decoder_train",
        resume=True,
    )
    decoder.save(settings.work / "decoder", storage="fp32")
