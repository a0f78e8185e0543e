"""The ViECap decoder: prompts joined as published, independent rows, training on text alone, its folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from safetensors.torch import load_file, save_file
from torch import Tensor

from decoders import DecodeOptions, TrainOptions, TrainReport, load_decoder, train_decoder
from decoders.entities import COCO_ENTITIES, EntityPrompter, entity_prompt
from decoders.language_model import (
    fit_stored,
    stored_state,
)
from decoders.tokenizers import LanguageTokenizer
from decoders.viecap import Prompts, ViecapDecoder
from patchioner.base.errors import CheckpointError, DecoderError, OptionError
from tests.decoders.conftest import COLOURS, DIM, THINGS, embed_words
from tests.support.language import (
    language_config,
    language_tokenizer,
    raw_tokenizer,
    spread,
    transformers_twin,
)

SHAPE: dict[str, Any] = {"prompt_tokens": 3, "project_tokens": 2, "mapping_layers": 1}
SHORT = DecodeOptions(max_tokens=12)
CORPUS = [f"a {colour} {thing}" for colour in COLOURS for thing in THINGS]


def prompter(**settings: Any) -> EntityPrompter:
    return EntityPrompter(THINGS, embed_words(list(THINGS)), **settings)


def make(**settings: Any) -> ViecapDecoder:
    values: dict[str, Any] = {"prompter": prompter(temperature=0.1), **SHAPE, **settings}
    return ViecapDecoder.create(DIM, language_config(), language_tokenizer(), **values)


@pytest.fixture(scope="module")
def wild() -> ViecapDecoder:
    decoder = make()
    spread(decoder.network, 6.0)
    return decoder


@pytest.fixture(scope="module")
def rows() -> Tensor:
    """Near one thing, two things, or nothing: prompts of different lengths."""
    texts = ["cat", "dog kite", "red bus car boat", "nothing here", "kite", "boat cat dog"]
    found = embed_words(texts)
    found[3] = -functional.normalize(embed_words(list(THINGS)), dim=1).sum(dim=0)
    return found


@pytest.fixture(scope="module")
def trained() -> ViecapDecoder:
    without: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    decoder = ViecapDecoder.create(
        DIM,
        language_config(**without),
        language_tokenizer(),
        prompter=prompter(temperature=0.1),
        end="stop",
        **SHAPE,
    )
    options = _options(steps=200, batch=30, learning_rate=1e-2)
    train_decoder(decoder, CORPUS, embed_words(CORPUS), options)
    return decoder


def _options(steps: int, **settings: Any) -> TrainOptions:
    values: dict[str, Any] = dict(
        steps=steps,
        batch=15,
        learning_rate=5e-3,
        warmup_steps=5,
        noise_sigma=0.01,
        label_smoothing=0.0,
        validation_share=0.0,
        validate_every=1000,
    )
    return TrainOptions(**{**values, **settings})


@pytest.mark.parametrize("order", ["soft_hard", "hard_soft", "soft", "hard"])
def test_greedy_equals_a_plain_loop_over_one_row(
    wild: ViecapDecoder, rows: Tensor, order: Prompts
) -> None:
    config = replace(wild.config, prompts=order)
    decoder = ViecapDecoder(wild.network, wild.tokenizer, config, wild.prompter)
    gpt: Any = transformers_twin(wild.model)
    for row, one in zip(rows, decoder.generate(rows, SHORT), strict=True):
        assert list(one.token_ids) == _plain(wild, gpt, row, order.split("_"), steps=12)


@torch.no_grad()
def _plain(
    decoder: ViecapDecoder, gpt: Any, row: Tensor, order: list[str], steps: int
) -> list[int]:
    """From the description alone: unit embedding, prompts, GPT-2 without a cache, argmax."""
    unit = row / row.norm()
    vectors = embed_words(list(THINGS))
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    shares = ((vectors @ unit) / 0.1).exp()
    shares = shares / shares.sum()
    ranked = sorted(zip(shares.tolist(), THINGS, strict=True), reverse=True)[:3]
    text = entity_prompt(name for share, name in ranked if share >= 0.2)
    ids = decoder.tokenizer._tokenizer.encode(text).ids
    prompts = {
        "soft": decoder.network.mapping_network(unit[None])[0],
        "hard": gpt.transformer.wte(torch.tensor(ids)),
    }
    inputs = torch.cat([prompts[name] for name in order])
    found: list[int] = []
    for _ in range(steps):
        token = int(gpt(inputs_embeds=inputs[None]).logits[0, -1].argmax())
        found.append(token)
        if token in decoder.tokenizer.end_ids:
            break
        inputs = torch.cat([inputs, gpt.transformer.wte(torch.tensor([token]))])
    return found


@pytest.mark.parametrize("options", [SHORT, DecodeOptions("beam", beam_width=5, max_tokens=12)])
def test_a_caption_does_not_depend_on_its_batch(
    wild: ViecapDecoder, rows: Tensor, options: DecodeOptions
) -> None:
    assert len({len(p) for p in wild.prefixes(rows)}) > 2
    together = wild.generate(rows, options)
    for row, one in zip(rows, together, strict=True):
        (alone,) = wild.generate(row[None], options)
        assert alone.token_ids == one.token_ids and isinstance(alone.text, str)
    assert len({one.token_ids for one in together}) > 3


def test_it_says_the_texts_it_was_trained_on(trained: ViecapDecoder) -> None:
    captions = trained.generate(embed_words(CORPUS), SHORT)
    right = sum(one.text == text for one, text in zip(captions, CORPUS, strict=True))
    assert right > 20
    stop = trained.tokenizer.full_stops()[0]
    assert all(one.token_ids[-1] == stop for one in captions if one.text in CORPUS)
    assert all(one.score < 0 for one in captions)


def test_sequences_end_at_the_first_end_token() -> None:
    decoder = make(end="stop")
    stop = decoder.tokenizer.full_stops()[0]
    one, other, cut = decoder.sequences(["a red bus.", "a red bus", "1.5 cats"])
    assert one == other and one[-1] == stop and one.count(stop) == 1
    assert decoder.tokenizer.decode(cut) == "1"
    own = make()
    assert own.tokenizer.decode(own.sequences(["1.5 cats."])[0]) == "1.5 cats."


def test_training_prompts_name_the_captions_entities_masked_while_training() -> None:
    decoder = make(prompts="hard", entity_masking=0.5)
    ids = decoder.sequences(["a red cat near two boats and a bus"])[0]
    tokens, lengths = torch.tensor([[*ids, 0, 0]]), torch.tensor([len(ids)])
    embedding = torch.ones(1, DIM)
    (whole,) = decoder.training_prefixes(embedding, tokens, lengths)
    gpt: Any = decoder.network.gpt
    expected = decoder.tokenizer.encode(["There are cat, boat, bus in image."], lead=False)[0]
    torch.testing.assert_close(whole, gpt.transformer.wte(torch.tensor(expected)))
    decoder.network.train()
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        (one,) = decoder.training_prefixes(embedding, tokens, lengths)
        torch.manual_seed(seed)
        (again,) = decoder.training_prefixes(embedding, tokens, lengths)
        assert torch.equal(one, again)
        seen.add(len(one))
    assert len(seen) > 1


def test_loss_reads_the_caption_tokens_only(wild: ViecapDecoder) -> None:
    texts = ["a red cat", "a blue boat near a dog"]
    sequences = wild.sequences(texts)
    lengths = torch.tensor([len(s) for s in sequences])
    tokens = torch.zeros(2, int(lengths.max()), dtype=torch.long)
    rows, gpt = embed_words(texts), transformers_twin(wild.model)
    total = torch.tensor(0.0)
    with torch.no_grad():
        for i, (ids, names) in enumerate(zip(sequences, (["cat"], ["boat", "dog"]), strict=True)):
            tokens[i, : len(ids)] = torch.tensor(ids)
            hard = wild.tokenizer.encode([entity_prompt(names)], lead=False)[0]
            soft = wild.network.mapping_network(functional.normalize(rows[i : i + 1], dim=1))[0]
            wte = gpt.transformer.wte
            inputs = torch.cat([soft, wte(torch.tensor(hard + ids[:-1]))])
            logits = gpt(inputs_embeds=inputs[None]).logits[0, -len(ids) :]
            total += functional.cross_entropy(logits, torch.tensor(ids), reduction="sum")
        found = wild.loss(rows, tokens, lengths)
    torch.testing.assert_close(found, total / lengths.sum(), rtol=1e-3, atol=1e-3)


def test_killed_and_resumed_ends_where_an_uninterrupted_run_does(tmp_path: Path) -> None:
    class Killed(Exception):
        """Stands for a killed process."""

    def weights(decoder: ViecapDecoder) -> Tensor:
        return torch.cat([p.detach().flatten() for p in decoder.network.parameters()])

    def die(report: TrainReport) -> None:
        if report.step == 6:
            raise Killed

    options = _options(steps=9, validate_every=3, checkpoint_every=2, validation_share=0.1)
    whole, resumed = make(), make()
    reports = train_decoder(whole, CORPUS, embed_words, options)
    assert reports[-1].train_loss < reports[0].train_loss
    with pytest.raises(Killed):
        train_decoder(
            make(), CORPUS, embed_words, options, checkpoint_folder=tmp_path, on_report=die
        )
    again = train_decoder(
        resumed, CORPUS, embed_words, options, checkpoint_folder=tmp_path, resume=True
    )
    assert torch.equal(weights(resumed), weights(whole))
    assert again[-1].validation_loss == reports[-1].validation_loss


@pytest.mark.parametrize("storage", ["fp32", "fp16", "int8"])
def test_saved_and_loaded_says_the_same(
    trained: ViecapDecoder, tmp_path: Path, storage: Any
) -> None:
    trained.save(tmp_path, storage=storage)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "entities.safetensors",
        "entities.txt",
        "tokenizer.json",
        "weights.safetensors",
    ]
    loaded = load_decoder(tmp_path)
    assert isinstance(loaded, ViecapDecoder) and loaded.config == trained.config
    rows = embed_words(CORPUS[:12])
    left, right = trained.generate(rows, SHORT), loaded.generate(rows, SHORT)
    assert [one.text for one in left] == [one.text for one in right]
    if storage == "fp32":
        assert left == right


def test_weights_have_the_published_names_and_tied_ones_are_stored_once(
    trained: ViecapDecoder, tmp_path: Path
) -> None:
    trained.save(tmp_path, storage="fp32")
    names = set(load_file(tmp_path / "weights.safetensors"))
    assert "mapping_network.transformer.layers.0.attn.to_keys_values.weight" in names
    assert "gpt.transformer.wte.weight" in names and "gpt.lm_head.weight" not in names
    both = stored_state(trained.network)
    both["gpt.lm_head.weight"] = both["gpt.transformer.wte.weight"]
    fresh = make()
    fit_stored(fresh.network, both, source="theirs")  # files that hold both are read, too
    torch.testing.assert_close(fresh.network.state_dict(), trained.network.state_dict())
    both["gpt.lm_head.weight"] = both["gpt.lm_head.weight"] + 1
    with pytest.raises(CheckpointError, match="gpt.lm_head.weight"):
        fit_stored(fresh.network, both, source="theirs")


def test_a_decoder_without_hard_prompt_needs_no_prompter(rows: Tensor, tmp_path: Path) -> None:
    decoder = make(prompts="soft", prompter=None)
    decoder.save(tmp_path)
    assert not (tmp_path / "entities.txt").exists()
    assert load_decoder(tmp_path).generate(rows[:1], SHORT)
    lacking = make(prompter=None)
    with pytest.raises(DecoderError, match="no hard prompter"):
        lacking.generate(rows, SHORT)


def test_other_prompters_work_but_are_not_saved(rows: Tensor, tmp_path: Path) -> None:
    class Fixed:
        def prompts(self, embeddings: Tensor, memory: object = None) -> list[str]:
            assert torch.allclose(embeddings.norm(dim=1), torch.ones(len(embeddings)))
            return ["There are boat in image." * 30] * len(embeddings)  # longer than is taken

    decoder = make(prompter=Fixed())
    assert {len(p) for p in decoder.prefixes(rows)} == {3 + 64}
    assert len(decoder.generate(rows, SHORT)) == len(rows)
    with pytest.raises(CheckpointError, match="Fixed"):
        decoder.save(tmp_path)


@pytest.mark.parametrize(
    "name", ["config.json", "weights.safetensors", "tokenizer.json", "entities.safetensors"]
)
@pytest.mark.parametrize("damage", ["missing", "empty", "pickle"])
def test_damaged_folder_is_refused_by_file(tmp_path: Path, name: str, damage: str) -> None:
    make().save(tmp_path)
    path = tmp_path / name
    path.unlink()
    if damage == "empty":
        path.touch()
    elif damage == "pickle":
        torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=name):
        load_decoder(tmp_path)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"colour": 1}, "colour"),
        ({"prompts": "loud"}, "prompts"),
        ({"mapping_layers": 2}, "transformer.layers.1"),
        ({"end_ids": [9999]}, "end_ids"),
        ({"language_model": {"model_type": "gtp2"}}, "gtp2"),
        ({"language_model": {}}, "model_type"),
        ({"entities": {"warmth": 1}}, "warmth"),
        ({"end_ids": None, "language_model": None}, "language"),
    ],
)
def test_wrong_config_is_refused(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    make().save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=word):
        load_decoder(tmp_path)


def test_weights_must_fit_by_name_and_shape(tmp_path: Path) -> None:
    make().save(tmp_path, storage="fp32")
    path = tmp_path / "weights.safetensors"
    weights = load_file(path)
    weights["gpt.transformer.h.7.ln_1.bias"] = torch.zeros(3)
    del weights["mapping_network.prefix_const"]
    save_file(weights, path)
    with pytest.raises(CheckpointError) as caught:
        load_decoder(tmp_path)
    assert "gpt.transformer.h.7.ln_1.bias" in str(caught.value)
    assert "mapping_network.prefix_const" in str(caught.value)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(OptionError, match="hard_tokens"):
        make(hard_tokens=0)
    with pytest.raises(OptionError, match="entity_masking"):
        make(entity_masking=2.0)
    with pytest.raises(OptionError, match="needs a tokenizer"):
        ViecapDecoder.create(DIM, language_config())
    with pytest.raises(OptionError, match="positions"):
        make(hard_tokens=200)


@pytest.mark.slow
def test_published_shapes_equal_transformers_own_generate() -> None:
    """GPT-2 small (124 M) behind the eight published layers, 768 wide; the last 50,000 tokens have no text."""
    config = {"model_type": "gpt2"}
    tokenizer = LanguageTokenizer(raw_tokenizer(), vocab_size=50257)
    names = EntityPrompter(COCO_ENTITIES, torch.randn(80, 768))
    decoder = ViecapDecoder.create(768, config, tokenizer, prompter=names)
    gpt: Any = transformers_twin(decoder.model)
    assert sum(p.numel() for p in gpt.parameters()) == 124_439_808
    assert decoder.max_tokens == 1024 - 10 - 64 + 1
    for row, one in zip(rows := torch.randn(3, 768), decoder.generate(rows, SHORT), strict=True):
        prefix = decoder.prefixes(row[None])[0][None]
        ids = gpt.generate(
            inputs_embeds=prefix,
            attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=0,
            pad_token_id=0,
            suppress_tokens=list(tokenizer.unwritable_ids),
        )[0].tolist()
        assert list(one.token_ids) == (ids[: ids.index(0) + 1] if 0 in ids else ids)
