"""Step 2: sentence vectors of the captions, statistics of the tokens, and the projection between them."""

from __future__ import annotations

from safetensors.torch import save_file

from runs.training.alignment import AlignOptions, pool_views, train_projection
from runs.training.pairs import read_lines, read_pairs
from runs.training.settings import RunSettings
from runs.training.teacher import load_sentence_tower, sentence_folder, sentence_vectors
from runs.training.token_cache import read_cache


def run(settings: RunSettings) -> None:
    """Write ``work/alignment.safetensors``: head.*, projection.*, sentences, captions, owner."""
    pairs = read_pairs(settings.data("pairs"))
    options = AlignOptions(**settings.section("align"), seed=settings.seed)
    views, head = pool_views(read_cache(settings.work / "tokens", pairs.names))
    tower = load_sentence_tower(
        sentence_folder(settings),
        read_lines(settings.data("captions")),
        dim=head.patch_mean.shape[0],
        projection=options.hidden,
    )
    sentences = sentence_vectors(tower, pairs.captions)
    projection = train_projection(views, head, sentences, pairs.captions_of, options)
    tensors = {f"head.{k}": v for k, v in head.state_dict().items()}
    tensors |= {f"projection.{k}": v.detach() for k, v in projection.state_dict().items()}
    tensors |= {"sentences": sentences, "patches": views.patches, "cls": views.cls}
    save_file(tensors, settings.work / "alignment.safetensors")
