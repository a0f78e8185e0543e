"""Hard prompts: against a plain loop, the sentence's form, the finder of entities, the seeded mask, the files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from decoders.entities import (
    NAMES_FILE,
    EntityFinder,
    EntityPrompter,
    entity_prompt,
    mask_entities,
)
from patchioner.base.errors import DecoderError, OptionError, TextError

NAMES = ["cat", "dog", "hot dog", "bus"]


@pytest.fixture
def vectors() -> Tensor:
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(2))


def _plain(vectors: Tensor, row: Tensor, temperature: float, top_k: int, least: float) -> list[str]:
    cosines = [float(torch.cosine_similarity(row, v, dim=0)) for v in vectors]
    weights = [math.exp((c - max(cosines)) / temperature) for c in cosines]
    ranked = sorted(zip(weights, NAMES, strict=True), reverse=True)[:top_k]
    found = []
    for weight, name in ranked:
        if weight / sum(weights) < least:
            break
        found.append(name)
    return found


@pytest.mark.parametrize("temperature", [0.01, 0.3, 1.0])
@pytest.mark.parametrize(("top_k", "threshold"), [(1, 0.0), (3, 0.2), (3, 0.4), (9, 0.0)])
def test_entities_equal_a_plain_loop(
    vectors: Tensor, temperature: float, top_k: int, threshold: float
) -> None:
    prompter = EntityPrompter(
        NAMES, vectors * 3, temperature=temperature, top_k=top_k, threshold=threshold
    )
    rows = torch.randn(20, 8, generator=torch.Generator().manual_seed(4)) * 7
    expected = [_plain(vectors, row, temperature, top_k, threshold) for row in rows]
    assert prompter.entities(rows) == expected
    assert prompter.prompts(rows) == [entity_prompt(names) for names in expected]
    assert prompter.prompts(rows[3:4]) == [entity_prompt(expected[3])]


def test_save_and_load_keep_every_bit(vectors: Tensor, tmp_path: Path) -> None:
    prompter = EntityPrompter(["café", *NAMES[1:]], vectors, temperature=0.02, top_k=2)
    prompter.save(tmp_path)
    loaded = EntityPrompter.load(tmp_path, **prompter.settings)  # type: ignore[arg-type]
    assert loaded.names == prompter.names and loaded.settings == prompter.settings
    torch.testing.assert_close(loaded.embeddings, prompter.embeddings, rtol=0, atol=1e-7)
    assert (tmp_path / NAMES_FILE).read_text(encoding="utf-8").startswith("café\ndog\n")


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"names": []}, TextError),
        ({"names": ["cat", "cat", "a", "b"]}, TextError),
        ({"names": ["cat", " ", "a", "b"]}, TextError),
        ({"names": "abcd"}, TextError),
        ({"names": ["cat"]}, DecoderError),
        ({"embeddings": torch.zeros(4, 8)}, DecoderError),
        ({"embeddings": torch.full((4, 8), torch.nan)}, DecoderError),
        ({"temperature": 0.0}, OptionError),
        ({"top_k": 0}, OptionError),
        ({"threshold": 1.5}, OptionError),
    ],
)
def test_bad_vocabularies_and_settings_are_refused(
    vectors: Tensor, values: dict[str, Any], error: type[Exception]
) -> None:
    given: dict[str, Any] = {"names": NAMES, "embeddings": vectors, **values}
    with pytest.raises(error):
        EntityPrompter(given.pop("names"), given.pop("embeddings"), **given)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Two dogs near the buses", ["dog", "bus"]),
        ("a hot dog and a dog", ["hot dog", "dog"]),
        ("hot  dogs", ["hot dog"]),
        ("a catalogue of dogma", []),
        ("dog, cat, dog", ["dog", "cat"]),
        ("", []),
    ],
)
def test_the_finder_finds_whole_words_once_in_order(text: str, found: list[str]) -> None:
    assert EntityFinder(NAMES).find(text) == found


def test_the_mask_leaves_out_a_share_and_is_seeded() -> None:
    names = [str(i) for i in range(10)]
    generator = torch.Generator().manual_seed(0)
    kept = [mask_entities(names, share=0.4, most=10, generator=generator) for _ in range(400)]
    assert sum(map(len, kept)) / 4000 == pytest.approx(0.6, abs=0.03)
    assert all(one == sorted(one, key=int) for one in kept)
    again = mask_entities(names, share=0.4, most=10, generator=torch.Generator().manual_seed(0))
    assert again == kept[0]
    assert mask_entities(names, share=0.0, most=3) == names[:3]
    assert mask_entities(names, share=1.0, most=10) == []
