"""The steps of a full run, in their order; each is resumable."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from decoders import DecodeOptions, Decoder, PrefixGPT2Decoder, TrainOptions, load_decoder, train_decoder
from decoders.train import load_training, save_training
from memory_bank import MemoryBank, compact
from memory_bank.build import embed_texts
from patchioner.adaptation import GapNoise, normalise
from patchioner.backbones import TimmViT, preprocess
from patchioner.backbones.vit import StandardiseHead
from patchioner.base.errors import TextError
from patchioner.base.files import atomic_path
from patchioner.base.progress import progress
from patchioner.checkpoints.folder import ModelSettings, Parts, write_checkpoint
from patchioner.images import load_image
from patchioner.text import BertTower, equal_lengths, load_tower
from runs.training.alignment import (
    AlignOptions,
    Projection,
    blend_views,
    info_nce,
    mix_context,
    pool_views,
    train_projection,
)
from runs.training.settings import Pairs, RunSettings, read_lines, read_pairs
from runs.training.teacher import (
    CachedPhoto,
    cache_tokens,
    load_sentence_tower,
    load_teacher,
    photo_names,
    read_cache,
    sentence_folder,
    sentence_vectors,
)
from runs.training.tuning import TuneData, TuneOptions, tune


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def read_head(tensors: Mapping[str, Tensor]) -> StandardiseHead:
    """The standardisation that the alignment measured."""
    head = StandardiseHead(tensors["head.patch_mean"].shape[0])
    head.load_state_dict(under(tensors, "head."))
    return head


def read_projection(tensors: Mapping[str, Tensor]) -> Projection:
    """The projection that the alignment trained, without dropout."""
    hidden, width = tensors["projection.project_in.weight"].shape
    projection = Projection(width, hidden, tensors["projection.project_out.weight"].shape[0], 0.0)
    projection.load_state_dict(under(tensors, "projection."))
    return projection.eval()


def run_cache(settings: RunSettings) -> None:
    """Step 1: cache the teacher's tokens under ``work/tokens``."""
    cache_tokens(
        load_teacher(settings), settings.data("photos"), photo_names(settings.data("pairs")), settings.work / "tokens"
    )


def run_align(settings: RunSettings) -> None:
    """Step 2: write ``work/alignment.safetensors``: head.*, projection.*, sentences, captions, owner."""
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


def run_tune(settings: RunSettings) -> None:
    """Step 3: write the tuned backbone's state under ``work/tune``."""
    pairs = read_pairs(settings.data("pairs"))
    aligned = load_file(settings.work / "alignment.safetensors")
    section = settings.section("tune")
    options = TuneOptions(**{**section, "sizes": tuple(section["sizes"])}, seed=settings.seed)
    with torch.no_grad():
        captions = F.normalize(read_projection(aligned)(aligned["sentences"]), dim=1)
    photos = [load_image(settings.data("photos") / name) for name in pairs.names]
    teacher = [photo.tokens for photo in read_cache(settings.work / "tokens", pairs.names)]
    data = TuneData(photos, teacher, captions, pairs.owner)
    tune(load_teacher(settings), read_head(aligned), data, options, settings.work / "tune")


@dataclass(frozen=True)
class TextOptions:
    """Settings: `anchor` is the weight of staying near the alignment's embedding (1 - cosine)."""

    epochs: float = 1.0
    batch: int = 128
    learning_rate: float = 2e-5
    anchor: float = 2.0
    temperature: float = 0.05
    context: float = 0.5
    checkpoint_every: int = 25
    seed: int = 0


def run_text(settings: RunSettings) -> None:
    """Step 4: write the tuned tower to ``work/text_tower``."""
    pairs = read_pairs(settings.data("pairs"))
    aligned = load_file(settings.work / "alignment.safetensors")
    projection = read_projection(aligned)
    hidden = projection.project_in.out_features
    corpus = read_lines(settings.data("captions"))
    dim = projection.project_out.out_features
    tower = load_sentence_tower(sentence_folder(settings), corpus, dim=dim, projection=hidden)
    tower.project_in.load_state_dict(projection.project_in.state_dict())
    tower.project_out.load_state_dict(projection.project_out.state_dict())
    options = TextOptions(**settings.section("text"), seed=settings.seed)
    tune_tower(tower, read_head(aligned), pairs, aligned, options, settings.work / "text_tune")
    tower.save(settings.work / "text_tower", storage="fp32")


def tune_tower(
    tower: BertTower,
    head: StandardiseHead,
    pairs: Pairs,
    aligned: dict[str, Tensor],
    options: TextOptions,
    folder: Path,
) -> None:
    """Tune in place: InfoNCE of captions and photos' blended views, plus the anchor."""
    patches, cls = head(aligned["patches"], aligned["cls"])
    ids, captions_of = tower.token_ids(pairs.captions), pairs.captions_of
    with torch.no_grad():
        anchors = F.normalize(tower.project(aligned["sentences"]), dim=1)
    optimiser = torch.optim.AdamW(tower.parameters(), lr=options.learning_rate, weight_decay=0.01)
    total = round(options.epochs * len(ids) / options.batch)
    first = load_training(folder, module=tower, optimizer=optimiser, run={})
    for step in progress(range(first, total), description="tuning the text tower", unit="step"):
        torch.manual_seed(options.seed * 1_000_003 + step)
        photos = torch.randperm(len(pairs.names))[: options.batch]
        rows = torch.stack([own[torch.randint(len(own), ())] for own in (captions_of[i] for i in photos.tolist())])
        texts = _embed(tower, [ids[row] for row in rows.tolist()])
        images = mix_context(blend_views(patches[photos]), cls[photos], options.context)
        drift = (1 - F.cosine_similarity(texts, anchors[rows])).mean()
        loss = info_nce(images, texts, options.temperature) + options.anchor * drift
        for group in optimiser.param_groups:
            group["lr"] = options.learning_rate * min((step + 1) / 20, 1 - step / total)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % options.checkpoint_every == 0:
            save_training(folder, module=tower, optimizer=optimiser, step=step + 1, run={})
    tower.eval()


def _embed(tower: BertTower, ids: list[list[int]]) -> Tensor:
    """(B, dim) of token lists of mixed lengths, differentiable."""
    parts = [(rows, tower(batch)) for rows, batch in equal_lengths(ids, len(ids))]
    order = torch.tensor([row for rows, _ in parts for row in rows])
    return torch.cat([vectors for _, vectors in parts])[order.argsort()]


SHARD = 8192
WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")


def run_corpus(settings: RunSettings) -> None:
    """Step 5: write ``work/corpus/texts.txt`` and its unit embeddings ``work/corpus/*.safetensors``, in fp16."""
    folder = settings.work / "corpus"
    texts = choose(settings)
    with atomic_path(folder / "texts.txt") as path:
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    read_corpus(settings)


def choose(settings: RunSettings) -> list[str]:
    """The corpus of the run."""
    examples = clean_corpus(read_pairs(settings.data("pairs")).captions)
    mixed = clean_corpus([*examples, *read_lines(settings.data("captions"))])
    return caption_like(mixed, examples, int(settings.section("corpus")["keep"]))


def read_corpus(settings: RunSettings) -> tuple[list[str], Tensor]:
    """Texts, and their (N, dim) unit embeddings, rounded to fp16."""
    folder = settings.work / "corpus"
    texts = (folder / "texts.txt").read_text(encoding="utf-8").splitlines()
    tower = load_tower(settings.work / "text_tower")
    return texts, embed_texts(tower.encode, texts, folder, shard=SHARD).float()


def clean_corpus(texts: Iterable[str], *, shortest: int = 4, longest: int = 24) -> list[str]:
    """Normalised sentences of `shortest` to `longest` words, each once, in order."""
    kept = dict.fromkeys(normalise(text) for text in texts)
    return [text for text in kept if shortest <= len(text.split()) <= longest]


def caption_like(texts: Sequence[str], examples: Sequence[str], keep: int) -> list[str]:
    """The `keep` texts that read most like the examples, in their old order.

    The measure is a smoothed log-likelihood ratio of words and word pairs (Moore & Lewis 2010).

    Args:
        texts: the corpus.
        examples: captions of the wanted style.
        keep: how many to keep.

    Raises:
        TextError: the corpus or the examples hold no word.
    """
    inside, outside = _counts(examples), _counts(texts)
    if not inside or not outside:
        raise TextError("the corpus or its examples hold no word: check the files of captions")
    scale = math.log(sum(outside.values()) / sum(inside.values()))
    scores = []
    for text in texts:
        grams = _grams(text)
        ratio = sum(math.log((inside[g] + 0.1) / (outside[g] + 1.0)) + scale for g in grams)
        scores.append(ratio / max(1, len(grams)))
    best = sorted(range(len(texts)), key=lambda row: -scores[row])[:keep]
    return [texts[row] for row in sorted(best)]


def _grams(text: str) -> list[str]:
    words = ["<", *WORD.findall(text), ">"]
    return words[1:-1] + [f"{a} {b}" for a, b in zip(words, words[1:], strict=False)]


def _counts(texts: Iterable[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_grams(text))
    return counts


def run_bank(settings: RunSettings) -> None:
    """Step 6: write ``work/memory_bank``, without texts: no third-party sentence is kept."""
    _, embeddings = read_corpus(settings)
    section = settings.section("bank")
    bank = compact(
        MemoryBank(embeddings), int(section["rows"]), seed=settings.seed, iterations=int(section["iterations"])
    )
    bank.with_texts(None).save(settings.work / "memory_bank", dtype="float16")


def run_decoder(settings: RunSettings) -> None:
    """Step 7: write ``work/decoder``."""
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


def run_assemble(settings: RunSettings) -> None:
    """Step 8: write the checkpoint to ``assemble.out``."""
    section = settings.section("assemble")
    backbone = tuned_backbone(settings)
    decoder = load_decoder(settings.work / "decoder")
    bank = MemoryBank.load(settings.work / "memory_bank", memory_map=False)
    parts = Parts(
        backbone=backbone,
        decoder=decoder,
        bank=describe(bank, decoder),
        tower=load_tower(settings.work / "text_tower"),
        settings=ModelSettings.from_json(section["settings"], "assemble.settings"),
    )
    write_checkpoint(parts, settings.root / section["out"], storage=section["storage"])


def tuned_backbone(settings: RunSettings) -> TimmViT:
    """The backbone at the input size it ships with, and a head measured on training photos.

    Its weights lie between those it started from and the tuned ones, at ``assemble.tuned_share`` (WiSE-FT,
    arXiv 2109.01903): the start is better at parts of a photo, the tuned end at whole photos.
    """
    section = settings.section("assemble")
    source = load_teacher(settings, size=int(section["size"]))
    backbone = TimmViT(source.name, source.preprocessing, head={"type": "standardise"})
    tuned = load_file(settings.work / "tune" / "checkpoint" / "weights.safetensors")
    share = float(section["tuned_share"])
    backbone.vit.load_state_dict(
        {k: torch.lerp(v, tuned[f"vit.{k}"], share) for k, v in source.vit.state_dict().items()}
    )
    names = photo_names(settings.data("pairs"))
    chosen = names[:: max(1, len(names) // int(section["statistics_photos"]))]
    head: StandardiseHead = pool_views(_views(backbone, settings.data("photos"), chosen))[1]
    backbone.head.load_state_dict(head.state_dict())
    return backbone


def _views(backbone: TimmViT, folder: Path, names: list[str]) -> Iterator[CachedPhoto]:
    for name in progress(names, description="measuring tokens", unit="photo"):
        pixels, geometry = preprocess(load_image(folder / name), backbone.preprocessing)
        with torch.inference_mode():
            tokens, cls, attention, *_ = backbone.dense(pixels[None], geometry.grid)
        assert cls is not None and attention is not None, "the teacher has a CLS token"
        yield CachedPhoto(name, tokens[0], cls[0], attention[0])


def describe(bank: MemoryBank, decoder: Decoder) -> MemoryBank:
    """The bank with display texts of our own: what the decoder says of each row."""
    texts: list[str] = []
    rows = bank.units().split(256)
    for part in progress(rows, description="describing the bank", unit="batch"):
        texts.extend(answer.text for answer in decoder.generate(part, DecodeOptions()))
    return bank.with_texts(texts)
