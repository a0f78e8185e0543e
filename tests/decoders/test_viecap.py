"""The ViECap decoder: prompts joined as published, independent rows, training on text alone, its folder."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file

from decoders import load_decoder
from decoders.viecap import EntityFinder, EntityPrompter, entity_prompt, mask_entities
from patchioner.base.errors import CheckpointError, DecoderError, TextError
from tests.decoders.conftest import DIM, SHORT, THINGS, VECTORS, embed_words, on_language_model

# Near one thing, two things, or nothing: prompts of different lengths.
ROWS = embed_words(["cat", "dog kite", "red bus car boat", "nothing here", "kite", "boat cat dog"])
ROWS[3] = -VECTORS.sum(dim=0)
make = partial(on_language_model, "viecap")


@pytest.mark.parametrize("threshold", [0.2, 0.5])
def test_the_nearest_entities_above_the_threshold_are_named(threshold: float) -> None:
    prompter = EntityPrompter(THINGS, 3 * VECTORS, temperature=0.1, threshold=threshold)
    prompts = prompter.prompts(7 * ROWS)
    for row, prompt in zip(ROWS, prompts, strict=True):
        shares = ((VECTORS @ row / row.norm()) / 0.1).softmax(0).tolist()
        ranked = sorted(zip(shares, THINGS, strict=True), reverse=True)[:3]
        assert prompt == entity_prompt(name for share, name in ranked if share >= threshold)
    assert len(set(prompts)) > 3
    assert ("There are something in image." in prompts) == (threshold == 0.5)


def test_prompts_are_joined_in_their_order() -> None:
    decoder, found = make(), dict[str, Any]()
    for order in ("soft", "hard", "soft_hard", "hard_soft"):
        decoder.config = replace(decoder.config, prompts=order)
        found[order] = decoder.prefixes(ROWS)
    assert len({len(prompt) for prompt in found["hard"]}) > 1
    for order in ("soft_hard", "hard_soft"):
        parts = zip(*(found[name] for name in order.split("_")), strict=True)
        torch.testing.assert_close(found[order], [torch.cat(row) for row in parts])


def test_a_decoder_without_hard_prompt_needs_no_prompter(tmp_path: Path) -> None:
    make(prompts="soft", prompter=None).save(tmp_path)
    assert not (tmp_path / "entities.safetensors").exists()
    assert load_decoder(tmp_path).generate(ROWS[:1], SHORT)
    with pytest.raises(DecoderError, match="no hard prompter"):
        make(prompter=None).generate(ROWS, SHORT)


def test_names_are_the_published_ones_and_a_caption_ends_at_its_full_stop(tmp_path: Path) -> None:
    own = make()
    ends = (*own.tokenizer.full_stops(), *own.tokenizer.end_ids)
    decoder = make(tokenizer=own.tokenizer.ending_with(ends))
    one, other, cut = decoder.sequences(["a red bus.", "a red bus", "1.5 cats"])
    assert one == other and one[-1] == decoder.tokenizer.full_stops()[0]
    assert decoder.tokenizer.decode(cut) == "1"
    assert own.tokenizer.decode(own.sequences(["1.5 cats."])[0]) == "1.5 cats."
    own.save(tmp_path, storage="fp32")
    files = ["config.json", "entities.safetensors", "tokenizer.json", "weights.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    names = set(load_file(tmp_path / "weights.safetensors"))
    assert "mapping_network.transformer.layers.0.attn.to_keys_values.weight" in names
    assert "gpt.transformer.wte.weight" in names and "gpt.lm_head.weight" not in names
    long = Mock(side_effect=lambda rows, memory: ["There are boat in image." * 30] * len(rows))
    fixed = make(prompter=Mock(prompts=long))
    assert {len(p) for p in fixed.prefixes(ROWS)} == {3 + 64}  # no more is taken
    with pytest.raises(CheckpointError, match="Mock"):
        fixed.save(tmp_path)


def test_training_prompts_name_the_captions_entities_masked_while_training() -> None:
    decoder = make(prompts="hard")
    ids = decoder.sequences(["a red cat near two boats and a bus"])[0]
    given = torch.ones(1, DIM), torch.tensor([[*ids, 0, 0]]), torch.tensor([len(ids)])
    expected = decoder.tokenizer.encode(["There are cat, boat, bus in image."], lead=False)[0]
    words = decoder.network.gpt.transformer.wte(torch.tensor(expected))
    torch.testing.assert_close(decoder.training_prefixes(*given)[0], words)
    decoder.network.train()
    seen = []
    for seed in (*range(20), *range(20)):
        torch.manual_seed(seed)
        seen.append(decoder.training_prefixes(*given)[0].tolist())
    assert seen[:20] == seen[20:] and len(set(map(len, seen))) > 1
    kept = [len(mask_entities(THINGS * 2)) for _ in range(200)]  # of ten, the most
    assert sum(kept) / 2000 == pytest.approx(0.6, abs=0.04)


NAMES = ["cat", "dog", "hot dog", "bus"]


@pytest.mark.parametrize("names", [[], ["cat"] * 4, [*NAMES[:3], " "], "abcd"])
def test_bad_vocabularies(names: Any) -> None:
    with pytest.raises(TextError):
        EntityPrompter(names, torch.eye(4))
    for rows in (torch.eye(3), torch.zeros(4, 8), torch.full((4, 8), torch.nan)):
        with pytest.raises(DecoderError):
            EntityPrompter(NAMES, rows)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Two dogs near the buses", ["dog", "bus"]), ("a hot dog and a dog", ["hot dog", "dog"]),
        ("hot  dogs", ["hot dog"]), ("a catalogue of dogma", []), ("dog, cat, dog", ["dog", "cat"]),
        ("", []),
    ],
)  # fmt: skip
def test_the_finder_finds_whole_words_once_in_order(text: str, found: list[str]) -> None:
    assert EntityFinder(NAMES).find(text) == found
    assert EntityFinder([*NAMES, *(f"{name}s" for name in NAMES)]).find(text) == found
